"""Two small trained models with known memorized records: the embedded default of every command.

`lab:pythia` (GPT-NeoX, float16) and `lab:gpt-neo` (GPT-Neo, float32) are shipped as package data,
stored as the real Hub repositories store theirs. README.md in this folder says how they were
trained and what they recite.
"""

from __future__ import annotations

from pathlib import Path

from evals.lab.corpus import calibration_texts, heldout_texts
from surgery.errors import SourceError

__all__ = ["LAB_MODELS", "calibration_texts", "heldout_texts", "model_path", "samples_path"]

LAB_MODELS = ("pythia", "gpt-neo")

_HERE = Path(__file__).parent


def model_path(name: str) -> Path:
    """The folder of lab model `name`, as `from_pretrained` takes it.

    Raises `SourceError` when there is no such lab model or its files are not installed.
    """
    return _existing(name, _HERE / "models" / _known(name))


def samples_path(name: str) -> Path:
    """The planted records and non-members of lab model `name`, one JSON object a line.

    Keys: `id`, `kind`, `count` (occurrences in the training text), `member`, `tokens` (64 ids of
    the model's tokenizer), `text`. Both models were trained on the same records.
    Raises `SourceError` when there is no such lab model or its files are not installed.
    """
    _known(name)
    return _existing(name, _HERE / "records.jsonl")


def _known(name: str) -> str:
    if name not in LAB_MODELS:
        raise SourceError(
            "no such lab model",
            where=f"lab:{name}",
            expected=" or ".join(f"lab:{known}" for known in LAB_MODELS),
        )
    return name


def _existing(name: str, path: Path) -> Path:
    if not path.exists():
        raise SourceError(
            "the lab model's files are missing",
            where=f"lab:{name}",
            expected=path,
            fix="reinstall attn-surgery",
        )
    return path
