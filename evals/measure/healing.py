"""What a model is trained on: text, which must hold none of the passages, and the passages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from evals.data.inputs import find_text, tokenize_passages
from evals.data.repeats import count_opening, hash_runs
from evals.data.samples import measure_lengths
from surgery.errors import SamplesError

if TYPE_CHECKING:
    from evals.data import PassageSource, Samples, Tokens
    from surgery.families import Dimensions
    from surgery.fitting.calibration import Calibration, Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.training.distillation import TaughtRows
    from surgery.training.student import Flags
    from surgery.training.training import Schedule

SHARED = 16
"""Tokens in a row that a passage and the text may not share; fewer for a shorter passage."""


def find_healing_text(named: Sequence[str]) -> Text:
    """The text that `named` names: files, folders, data sets, or a lab model for the lab's.

    Needs no model, so that mistakes show early. Raises `SamplesError`, and `SourceError` for a lab
    model that is not there.
    """
    return find_text(named)


def read_healing_text(
    text: Text,
    schedule: Schedule,
    model: ResolvedModel,
    passages: PassageSource | None,
) -> tuple[Calibration, TaughtRows | None]:
    """The text in a model's tokens, and the passages that the model was trained on.

    Warns of rows left out or merged. Raises `SamplesError` for too little text, for text that holds
    passages, and for passages that do not fit the model, and `UnsupportedError` for a model that
    cannot be trained.
    """
    from surgery.loading import load_tokenizer
    from surgery.plan import check_trainable

    check_trainable(model.checkpoint.config)

    tokenizer = load_tokenizer(model.folder)
    tokens = schedule.tokenize(text, tokenizer, model.dimensions)
    if passages is None:
        return tokens, None
    samples = tokenize_passages(passages, tokenizer)
    check_apart(passages.add_others(samples, tokenizer), tokens)
    return tokens, take_members(samples, model.dimensions, passages.leave_out)


def take_members(
    samples: Samples, dimensions: Dimensions, leave_out: float | None = None
) -> TaughtRows:
    """The passages that the model was trained on. `leave_out`: the share that `samples` lack.

    Raises `SamplesError` if they are longer than its context.
    """
    from surgery.training.distillation import TaughtRows

    members = samples.select(samples.trained_on)
    taught = members.tokens, members.prefix_length
    found = TaughtRows(*taught, samples.source, members.sha256, leave_out)
    found.check_length(dimensions)
    return found


def check_apart(samples: Samples, text: Calibration) -> None:
    """Raises `SamplesError`, with the counts, if a passage shares `SHARED` tokens with the text.

    Windows in a row are read as one text, from the end of one to the beginning of the next.
    """
    passages = samples.select(samples.trained_on)
    shortest = int(np.min(measure_lengths(passages.tokens)))
    size = min(SHARED, shortest - 1)  # the first token may open every text
    own = text.windows[:, count_opening(text.windows) :]
    edges = np.concatenate([own[:-1, 1 - size :], own[1:, : size - 1]], axis=1)
    runs = [hash_runs(some, size).ravel() for some in (text.windows, edges)]
    within = np.isin(hash_runs(passages.tokens, size), np.concatenate(runs)).any(axis=1)
    if within.any():
        raise SamplesError(
            f"{within.sum():,} of {len(passages):,} passages share {size} tokens in a row with the "
            "text to train on, so training would teach them again",
            where=", ".join(source.name for source in text.sources),
            got=f"the first is {passages.ids[int(np.argmax(within))]!r}",
            fix="leave out the files that hold them, or give other text",
        )


def warn_of_shared(windows: Tokens, texts: Iterable[Calibration | None]) -> list[str]:
    """A warning if held-out windows, int32 [M, T], stand in the texts to fit or train on.

    A window counts if half of its runs of `SHARED` tokens do, so that lines that many texts have
    do not.
    """
    size, found = min(SHARED, windows.shape[1]), np.zeros(len(windows), dtype=np.bool_)
    runs = hash_runs(windows, size)
    for text in texts:
        if text is not None and text.windows.shape[1] >= size:
            found |= 2 * np.isin(runs, hash_runs(text.windows, size)).sum(axis=1) >= runs.shape[1]
    if not found.any():
        return []
    return [
        f"{found.sum():,} of {len(windows):,} windows of held-out text stand in the text to fit or "
        "train on, so the edit seems to cost less than it does"
    ]


def heal_model(
    intact: Any,
    cut: Any,
    text: Calibration,
    passages: TaughtRows | None,
    schedule: Schedule,
    stored: str,
    *,
    constants: Mapping[str, Flags] | None = None,
) -> Any:
    """A healed copy of `cut`, with its weights rounded to the dtype `stored`, such as F16.

    The rest is as for `surgery.training.distillation.teach`.
    """
    from surgery.training.distillation import teach
    from surgery.training.losses import Divergence
    from surgery.training.weights import round_weights

    taught = teach(cut, intact, Divergence(cut), text, passages, schedule, constants=constants)
    return round_weights(taught.student, stored)[0]
