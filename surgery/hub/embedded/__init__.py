"""The embedded models, `lab:pythia` and `lab:gpt-neo`: their folders lie here."""

from __future__ import annotations

from pathlib import Path

from surgery.errors import SourceError

PREFIX = "lab:"
LAB_MODELS = ("pythia", "gpt-neo")


def find_lab(*names: str | None) -> str | None:
    """The first embedded model among the names: it brings passages, texts and tasks of its own."""
    return next((name for name in names if name and name.startswith(PREFIX)), None)


def find_lab_folder(name: str) -> Path:
    """The folder of lab model `name`, as `from_pretrained` takes it.

    Raises `SourceError` when there is no such lab model or its files are not installed.
    """
    model = PREFIX + name
    if name not in LAB_MODELS:
        known = " or ".join(PREFIX + lab for lab in LAB_MODELS)
        raise SourceError(f"no embedded model {model!r}", expected=known)
    path = Path(__file__).with_name(name)
    if not path.exists():
        fix = "reinstall attn-surgery"
        raise SourceError("its files are missing", where=model, expected=path, fix=fix)
    return path
