"""Two small trained models with known memorized records, included for trying every command.

`surgery.lab` has `lab:pythia` (GPT-NeoX, float16) and `lab:gpt-neo` (GPT-Neo, float32), in
the form of the real Hub repositories. The records are here. README.md in this folder describes how
the models were trained and what they recite.

Their text is source files of the running Python's standard library, which every machine that runs
this code has. The files exist in Python 3.10 to 3.14; a missing one is skipped.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from pathlib import Path

from surgery.errors import SamplesError
from surgery.lab import LAB_MODELS, find_lab_folder

__all__ = ["LAB_MODELS", "calibration_texts", "find_lab_folder", "heldout_texts", "samples_path"]

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
    """The texts of `HELDOUT_FILES`."""
    return read_texts(HELDOUT_FILES, "held-out text")


def calibration_texts() -> list[str]:
    """The texts of `CALIBRATION_FILES`."""
    return read_texts(CALIBRATION_FILES, "calibration text")


def read_texts(names: Sequence[str], purpose: str) -> list[str]:
    """Reads those of the named files that this Python has."""
    library = Path(sysconfig.get_path("stdlib"))
    paths = [path for path in (library / name for name in names) if path.is_file()]
    if not paths:
        raise SamplesError(
            f"no {purpose} found",
            where=library,
            expected="source files of the standard library",
            got="none",
            fix="give text files of your own, or use a Python installed with its sources",
        )
    return [path.read_text(encoding="utf-8", errors="replace") for path in paths]


def samples_path(name: str) -> Path:
    """The planted records and non-members of lab model `name`, one JSON object a line.

    Keys: `id`, `kind`, `count` (occurrences in the training text), `member`, `tokens` (64 ids of
    the model's tokenizer), `text`. Both models were trained on the same records.
    """
    find_lab_folder(name)
    return Path(__file__).with_name("records.jsonl")
