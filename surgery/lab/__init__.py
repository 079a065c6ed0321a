"""The embedded models, `lab:pythia` and `lab:gpt-neo`. Their folders are here."""

from __future__ import annotations

from pathlib import Path

from surgery.errors import SourceError

PREFIX = "lab:"
LAB_MODELS = ("pythia", "gpt-neo")
LAB_TEXT = "lab calibration text"
"""The name in records of the text that all of them have."""


def find_lab(*names: str | None) -> str | None:
    """Returns the first embedded model among the names. It has its own texts and tasks."""
    return next((name for name in names if name and name.startswith(PREFIX)), None)


def find_lab_folder(name: str) -> Path:
    """Returns the folder of lab model `name`, as `from_pretrained` takes it."""
    model = PREFIX + name
    if name not in LAB_MODELS:
        known = " or ".join(PREFIX + lab for lab in LAB_MODELS)
        raise SourceError(f"no embedded model {model!r}", expected=known)
    path = Path(__file__).with_name(name)
    if not path.exists():
        fix = "reinstall attn-surgery"
        raise SourceError("its files are missing", where=model, expected=path, fix=fix)
    return path
