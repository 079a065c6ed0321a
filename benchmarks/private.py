"""A private fine-tune of a public model that reads the tokens of a built-in model.

A public model and records come in; a folder comes out, with the fine-tune, the records, and other
text. What is there from an earlier run is used again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.asked import check_asked
from benchmarks.lab.records import NON_MEMBERS_PER_KIND, Record, draw_records, write_records
from evals.data import Tokens
from evals.data.windows import cut_windows
from evals.lab import calibration_texts, heldout_texts
from evals.measure.attacks.tuning import fine_tune
from evals.run.models import LoadedModel, open_model
from surgery.output import create_folder

SEED = 20_260_401
"""Records that no lab model has seen."""
STEPS = 60
LEARNING_RATE = 1e-3
HALF = 16
"""The most records in a step, which takes a third of them at most, and as much other text."""


def draw_unseen(tokenizer: Any) -> list[Record]:
    """Records that no lab model has seen."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    return draw_records(encode, tokenizer.decode, SEED)


def choose_records(
    drawn: list[Record], tokenizer: Any, each: int = NON_MEMBERS_PER_KIND
) -> list[Record]:
    """`each` records of each kind to learn, and 60 that stay unseen, as many of each kind."""
    learned: list[Record] = []
    for kind in sorted({record.kind for record in drawn}):
        some = [record for record in drawn if record.kind == kind and record.member]
        learned += [replace(record, count=1) for record in some[:each]]
    return learned + [record for record in drawn if not record.member]


def make_private(
    public: str, choose: Callable[[list[Record], Any], list[Record]], steps: int, output: Path
) -> Path:
    """Writes the fine-tune, its records, and other text. Returns the model's folder.

    `choose`: records that no lab model has seen, and the tokenizer → records to learn (members) and
    records that stay unseen.
    """
    folder = output / "private"
    check_asked(output, {"public": public, "records": choose.__name__, "steps": steps})
    if not folder.exists():
        loaded = open_model(public, dtype="float32", device="cpu")
        records = choose(draw_unseen(loaded.tokenizer), loaded.tokenizer)
        write_records(output / "records.jsonl", records)
        for name, texts in (("heldout", heldout_texts()), ("text", calibration_texts())):
            (output / f"{name}.txt").write_text("\n".join(texts), encoding="utf-8")
        members = [record.tokens for record in records if record.member]
        tuned = train_on(loaded, np.asarray(members, dtype=np.int32), steps)
        save(tuned, loaded.tokenizer, folder)
    return folder


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Writes a model whole or not at all: one that is saved in part would be taken for whole."""
    with create_folder(folder, lambda folder: ()) as made:
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)


def train_on(loaded: LoadedModel, private: Tokens, steps: int) -> Any:
    """A copy of the model whose weights all learned rows, int32 [N, T], and as much other text."""
    text = cut_windows(calibration_texts(), loaded.tokenizer, private.shape[1])
    shape = (steps, min(HALF, -(-len(private) // 3)), private.shape[1])
    rows: Tokens = np.concatenate([np.resize(some, shape) for some in (private, text)], axis=1)
    every = rows.reshape(-1, private.shape[1])
    (tuned,) = fine_tune(loaded.model, every, steps=(steps,), learning_rate=LEARNING_RATE)
    return tuned
