"""The embedded models, `lab:pythia` and `lab:gpt-neo`: data that is installed with this package."""

from __future__ import annotations

from pathlib import Path

from surgery.errors import SourceError

PREFIX = "lab:"
LAB_MODELS = ("pythia", "gpt-neo")

_DATA = Path(__file__).parents[2] / "evals" / "lab"  # of the same distribution


def lab_of(*names: str | None) -> str | None:
    """The first embedded model among the names: it brings passages, texts and tasks of its own."""
    return next((name for name in names if name and name.startswith(PREFIX)), None)


def model_path(name: str) -> Path:
    """The folder of lab model `name`, as `from_pretrained` takes it.

    Raises `SourceError` when there is no such lab model or its files are not installed.
    """
    return lab_file(name, f"models/{name}")


def lab_file(name: str, relative: str) -> Path:
    """A file or folder that belongs to lab model `name`. Raises `SourceError`."""
    model = PREFIX + name
    if name not in LAB_MODELS:
        known = " or ".join(PREFIX + lab for lab in LAB_MODELS)
        raise SourceError(f"no embedded model {model!r}", expected=known)
    path = _DATA / relative
    if not path.exists():
        fix = "reinstall attn-surgery"
        raise SourceError("its files are missing", where=model, expected=path, fix=fix)
    return path
