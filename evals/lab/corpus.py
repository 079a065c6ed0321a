"""The lab's text: source files of the running Python's standard library.

Every machine that runs this code has them. The files exist in Python 3.10 to 3.14; a missing one is
skipped.
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
"""Held out from training: they measure what the model can do, not what it remembers."""

CALIBRATION_FILES = (
    "argparse.py",
    "dataclasses.py",
    "heapq.py",
    "http/client.py",
    "random.py",
    "threading.py",
)
"""Part of the training text: an edit is fitted on text of the kind the model knows."""


def heldout_texts() -> list[str]:
    """The texts of `HELDOUT_FILES`. Raises `SamplesError` if this Python has none of them."""
    return read_texts(HELDOUT_FILES, "held-out text")


def calibration_texts() -> list[str]:
    """The texts of `CALIBRATION_FILES`. Raises `SamplesError` if this Python has none of them."""
    return read_texts(CALIBRATION_FILES, "calibration text")


def find_library() -> Path:
    """The folder of the running Python's standard library."""
    return Path(sysconfig.get_path("stdlib"))


def read_texts(names: Sequence[str], purpose: str) -> list[str]:
    """Reads those of the named files that this Python has. Raises `SamplesError` for none."""
    paths = [path for path in (find_library() / name for name in names) if path.is_file()]
    if not paths:
        raise SamplesError(
            f"no {purpose} found",
            where=find_library(),
            expected="source files of the standard library",
            got="none",
            fix="give text files of your own, or use a Python installed with its sources",
        )
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths]
