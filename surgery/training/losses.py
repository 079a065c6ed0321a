"""Losses on rows of tokens, and how a step's rows are divided among processes.

Shape letters: B rows, T tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from surgery.loading import take_places
from surgery.processes import current_processes
from surgery.reading.corpus import close_up

Rows = npt.NDArray[np.int32]
_IGNORED = -100
PLAIN = nullcontext()


class Loss(Protocol):
    """What a student minimizes on rows.

    `teacher`: the model whose predictions it learns; None: it learns those of no model.
    """

    @property
    def teacher(self) -> Any: ...

    def __call__(self, student: Any, rows: Rows, first: int, cast: Any = ...) -> torch.Tensor:
        """The mean over the tokens of int32 [B, T] from `first` on, in nats.

        `cast`: a context for the student's pass. Negative tokens do not count.
        """


@dataclass(frozen=True, eq=False)
class Divergence:
    """KL(teacher || student): the student learns to predict what its teacher predicts."""

    teacher: Any

    def __call__(self, student: Any, rows: Rows, first: int, cast: Any = PLAIN) -> torch.Tensor:
        with torch.no_grad():
            taught = _predict(self.teacher, rows, first)
        with cast:
            learned = _predict(student, rows, first)
        taught = taught.to(learned.device)
        return functional.kl_div(learned, taught, log_target=True, reduction="batchmean")


def measure_loss(model: Any, tokens: torch.Tensor, first: int = 1) -> torch.Tensor:
    """The mean next-token loss of int64 [B, T], in nats, on the tokens from `first` on.

    Negative ones stand after the end of a row (`close_up`), and do not count.
    """
    logits = make_logits(model, tokens.clamp(min=0)[:, :-1], tokens.shape[1] - first)
    true = torch.where(tokens < 0, _IGNORED, tokens)[:, first:].to(logits.device)
    flat = logits.flatten(0, 1).float(), true.flatten()
    loss: torch.Tensor = functional.cross_entropy(*flat, ignore_index=_IGNORED)
    return loss


def measure_losses(model: Any, rows: Rows, first: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean next-token loss of each row of int32 [B, T], in nats, on its tokens from `first` on,
    and how many these are: [B] each. Negative ones do not count."""
    tokens = to_tokens(rows, model)
    logits = read_logits(model, rows, first).float()
    true = torch.where(tokens < 0, _IGNORED, tokens)[:, first:].to(logits.device)
    losses = functional.cross_entropy(logits.transpose(1, 2), true, reduction="none")
    lengths = (true != _IGNORED).sum(1)
    return losses.sum(1) / lengths, lengths


def measure_rows(model: Any, rows: Rows, first: int, size: int) -> float:
    """The mean of `measure_losses` over rows. `size`: rows of a pass."""
    total = 0.0
    with torch.inference_mode():
        for begin in range(0, len(rows), size):
            losses, _ = measure_losses(model, rows[begin : begin + size], first)
            total += float(losses.sum())
    return total / len(rows)


def find_recited(model: Any, rows: Rows, first: int, size: int) -> npt.NDArray[np.bool_]:
    """Whether each row, int32 [N, T], is recited: every token from `first` on is the likeliest.

    `size`: rows of a pass.
    """
    found = [np.empty(0, np.bool_)]
    with torch.inference_mode():
        for begin in range(0, len(rows), size):
            some = rows[begin : begin + size]
            made = read_logits(model, some, first).argmax(-1)
            right = made.cpu().numpy() == some[:, first:]
            found.append((right | (some[:, first:] < 0)).all(axis=1))
    return np.concatenate(found)


def divide(rows: Rows, first: int, size: int | None = None) -> list[tuple[float, Rows]]:
    """Parts of rows [B, T], and the share of the tokens that count that each holds.

    One part for each process, where there are as many rows; `size`: more parts, of at most so many.
    """
    size = max(1, min(size or len(rows), -(-len(rows) // current_processes().count)))
    parts = [rows[begin : begin + size] for begin in range(0, len(rows), size)]
    counts = [int((part[:, first:] >= 0).sum()) for part in parts]
    return [(count / sum(counts), part) for count, part in zip(counts, parts, strict=True)]


def to_tokens(rows: Rows, model: Any) -> torch.Tensor:
    """Rows as int64 where the model reads them."""
    return torch.from_numpy(rows.astype(np.int64)).to(model.device)


def _predict(model: Any, rows: Rows, first: int) -> torch.Tensor:
    """Log-probabilities from token `first` on: int32 [B, T] → float32 [B (T - first), V], without
    those of negative tokens."""
    logits = read_logits(model, rows, first).flatten(0, 1)
    counts = rows[:, first:].ravel() >= 0
    if not counts.all():
        logits = logits[torch.from_numpy(np.flatnonzero(counts)).to(logits.device)]
    return functional.log_softmax(logits.float(), dim=-1)


def make_logits(model: Any, ids: torch.Tensor, number: int) -> torch.Tensor:
    """The logits at the last `number` tokens: int64 [B, T] → [B, number, V]. No others are made, if
    the model can do that."""
    keeps_few = "logits_to_keep" in inspect.signature(model.forward).parameters
    told = {"logits_to_keep": number} if keeps_few else {}
    logits: torch.Tensor = model(input_ids=ids, use_cache=False, **told).logits
    return logits[:, -number:]


def read_logits(model: Any, rows: Rows, first: int) -> torch.Tensor:
    """The logits of the tokens from `first` on: int32 [B, T] → [B, T - first, V].

    Rows may begin with negative tokens, which are not read, if the token before `first` is none.
    """
    closed, length = close_up(rows), rows.shape[1]
    ids = to_tokens(np.maximum(closed, 0), model)[:, :-1]
    if closed is rows:
        return make_logits(model, ids, length - first)
    shifts = (rows[:, :first] < 0).sum(axis=1)  # how far the tokens that count move
    logits = make_logits(model, ids, length - first + int(np.max(shifts)))
    places = torch.from_numpy(np.max(shifts) - shifts[:, None] + np.arange(length - first))
    return take_places(logits, places)
