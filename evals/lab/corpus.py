"""The lab's text: the sources and docstrings of the running Python's standard library.

Every machine that runs this code has it, so no text is committed. File names are chosen among
modules that exist in Python 3.10 to 3.14; what one Python lacks is skipped.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

from surgery.errors import SamplesError

HELDOUT_FILES = (
    "calendar.py",
    "configparser.py",
    "csv.py",
    "fractions.py",
    "graphlib.py",
    "http/cookies.py",
    "json/decoder.py",
    "shlex.py",
    "textwrap.py",
)
"""Never trained on: what is measured here is what the model can do, not what it remembers."""

CALIBRATION_FILES = (
    "argparse.py",
    "dataclasses.py",
    "heapq.py",
    "http/client.py",
    "random.py",
    "threading.py",
)
"""Trained on: statistics for an edit come from text of the kind the model knows."""

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


def heldout_texts() -> list[str]:
    """The held-out files' texts, in the order of `HELDOUT_FILES`.

    Raises `SamplesError` when this Python has none of them as source.
    """
    return _read_all(HELDOUT_FILES, "held-out text")


def calibration_texts() -> list[str]:
    """The calibration files' texts, in the order of `CALIBRATION_FILES`.

    Raises `SamplesError` when this Python has none of them as source.
    """
    return _read_all(CALIBRATION_FILES, "calibration text")


def training_texts() -> list[str]:
    """The texts of `training_files()`. Raises `SamplesError` when there are none."""
    return _read_all(training_files(), "training text")


def training_files() -> list[str]:
    """Names of the files trained on, relative to the standard library, sorted."""
    root = _library()
    names = (path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return sorted(name for name in names if _is_training_file(root, name))


def _is_training_file(root: Path, name: str) -> bool:
    if name in HELDOUT_FILES or name in _NOT_PROSE_OR_CODE:
        return False
    if _NOT_PROSE_OR_CODE & set(name.split("/")) or name.startswith("_sysconfigdata"):
        return False
    return (root / name).stat().st_size >= _SMALLEST_FILE


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))


def _read_all(names: Sequence[str], purpose: str) -> list[str]:
    paths = [path for path in (_library() / name for name in names) if path.is_file()]
    if not paths:
        raise SamplesError(
            f"no {purpose} found",
            where=_library(),
            expected="source files of the standard library",
            got="none",
            fix="give text files of your own, or use a Python installed with its sources",
        )
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths]
