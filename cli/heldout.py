"""How commands find text that a model was not trained on: what is named, or a lab model's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from surgery.embedded import PREFIX


def heldout_texts(files: Sequence[Path], *names: str | None) -> list[str]:
    """The texts of `--corpus` or `--control`, one a file; else a lab model's own, else none.

    Read before a model is looked for. `names`: what the user named that may be of the lab. Raises
    `SamplesError` for what cannot be read.
    """
    from evals import lab
    from surgery.fitting.corpus import documents, open_corpus

    if files:
        found = open_corpus(files).files
        return ["".join(piece for pieces in documents(file) for piece in pieces) for file in found]
    return lab.heldout_texts() if any(name and name.startswith(PREFIX) for name in names) else []


def needed_texts(files: Sequence[Path], model: str) -> list[str]:
    """As `heldout_texts`. Raises `SamplesError` where there is none."""
    from surgery.errors import SamplesError

    texts = heldout_texts(files, model)
    if not texts:
        raise SamplesError(
            "no held-out text to measure the cost of an edit on",
            where=model,
            fix="name text that the model was not trained on with --corpus",
        )
    return texts
