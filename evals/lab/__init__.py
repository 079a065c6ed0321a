"""Two small trained models with known memorized records, included for trying every command.

`surgery.hub.embedded` has `lab:pythia` (GPT-NeoX, float16) and `lab:gpt-neo` (GPT-Neo, float32), in
the form of the real Hub repositories. The records are here. README.md in this folder describes how
the models were trained and what they recite.
"""

from __future__ import annotations

from pathlib import Path

from evals.lab.corpus import calibration_texts, heldout_texts
from surgery.hub.embedded import LAB_MODELS, find_lab_folder

__all__ = ["LAB_MODELS", "calibration_texts", "find_lab_folder", "heldout_texts", "samples_path"]


def samples_path(name: str) -> Path:
    """The planted records and non-members of lab model `name`, one JSON object a line.

    Keys: `id`, `kind`, `count` (occurrences in the training text), `member`, `tokens` (64 ids of
    the model's tokenizer), `text`. Both models were trained on the same records.
    Raises `SourceError` when there is no such lab model.
    """
    find_lab_folder(name)
    return Path(__file__).with_name("records.jsonl")
