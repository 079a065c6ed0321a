"""What the lab's models are trained on: the standard library, but for what is held out."""

from __future__ import annotations

import sysconfig
from pathlib import Path

from evals.lab import HELDOUT_FILES, read_texts

_NOT_PROSE_OR_CODE = frozenset(
    {
        "__pycache__",
        "curses",
        "distutils",
        "encodings",  # generated code pages
        "ensurepip",
        "html/entities.py",  # generated table
        "idlelib",
        "lib2to3",
        "msilib",
        "pydoc_data",  # generated topics
        "site-packages",
        "test",
        "tests",
        "tkinter",
        "turtle.py",
        "turtledemo",
        "lib-dynload",
    }
)
_SMALLEST_FILE = 1_000
"""Bytes; below it a file is a stub of imports."""


def training_texts() -> list[str]:
    """The texts of `training_files()`. Raises `SamplesError` when there are none."""
    return read_texts(training_files(), "training text")


def training_files() -> list[str]:
    """Names of the files trained on, relative to the standard library, sorted."""
    root = Path(sysconfig.get_path("stdlib"))
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return sorted(name for name in names if _is_training_file(root, name))


def _is_training_file(root: Path, name: str) -> bool:
    if name in HELDOUT_FILES or name in _NOT_PROSE_OR_CODE:
        return False
    if _NOT_PROSE_OR_CODE & set(name.split("/")) or name.startswith("_sysconfigdata"):
        return False
    return (root / name).stat().st_size >= _SMALLEST_FILE
