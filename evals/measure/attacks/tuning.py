"""Trains on rows of tokens, as every attack that trains does: deterministic, without dropout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch

from evals.data import Tokens
from evals.measure.attacks.attack import Learned
from evals.run.console import show_progress
from surgery.reading.corpus import close_up
from surgery.training.loop import LossPart, Optimizer, descend
from surgery.training.losses import divide, measure_loss, to_tokens
from surgery.training.student import Student, copy_sharing, make_student

STEPS = (5, 10, 20)
ROWS = 32
"""The most rows per step."""
RATES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Learning rates, from the highest on. Training that makes a model (`surgery.training`) lowers its
rate with the width of a model. An attack needs no such rule: it goes down these until one leaves
the base what it gives."""
RANKS: dict[Learned, int] = {"rank-8 adapters": 8}
LARGE = 1_000_000_000
"""From this many parameters on, low-rank adapters are trained instead of the weights."""

Make = Callable[[Any], Student]
"""Model → who learns."""


def train(
    model: Any,
    make: Make,
    rows: Tokens,
    steps: int,
    learning_rate: float,
    told: str = "fine-tuning",
    *,
    optimizer: Optimizer = "AdamW",
) -> Iterator[tuple[int, Student]]:
    """Trains a student of a model, and yields it after each step with the number of steps.

    Each step takes the next `ROWS` of `rows` (int32 [M, T]), in a cycle. The loss is the next-token
    loss, in nats. `told`: what progress calls it.

    Raises `NotFiniteError` before the step whose loss is not finite: no later one would be.
    """
    student = make(model)
    with show_progress(told, steps) as advance:
        learning = _learn(student, rows, steps, learning_rate, optimizer)
        for step, _ in enumerate(learning, 1):
            advance(1)
            yield step, student


def _learn(
    student: Student,
    rows: Tokens,
    steps: int,
    learning_rate: float,
    optimizer: Optimizer,
) -> Iterator[float]:
    rows = close_up(rows)

    def measure_part(share: float, some: Tokens) -> torch.Tensor:
        with student.cast():
            return share * measure_loss(student.model, to_tokens(some, student.model))

    def list_parts(step: int) -> list[LossPart]:
        number = min(ROWS, len(rows))
        taken = rows.take(range(step * number, (step + 1) * number), axis=0, mode="wrap")
        return [partial(measure_part, *part) for part in divide(taken, 1)]

    rates = [learning_rate] * steps
    return descend(student.learned, list_parts, rates, scale=student.scale, optimizer=optimizer)


def fine_tune(
    model: Any,
    rows: Tokens,
    *,
    learning_rate: float,
    steps: Sequence[int] = STEPS,
    learned: Learned = "all weights",
    optimizer: Optimizer = "AdamW",
    told: str = "fine-tuning",
) -> Iterator[Any]:
    """Yields a tuned copy of the model after each number of `steps`. The model does not change.

    `rows`: int32 [M, T]. `learned`: what is trained, as `settle_learned` says. `told`: as for
    `train`, which also says what is raised.

    The loss is the next-token loss in nats on every token of a row. A copy has the model's dtype.
    Its weights are trained in float32; the passes of a bfloat16 model are in bfloat16.
    """
    make = partial(_make, settle_learned(model, learned))
    given = make, rows, steps[-1], learning_rate, told
    for step, student in train(model, *given, optimizer=optimizer):
        if step in steps:
            yield take_copy(student)


def _make(learned: Learned, model: Any) -> Student:
    """Who learns what is `learned`."""
    return make_student(model, rank=RANKS.get(learned, 0))


def take_copy(student: Student) -> Any:
    """What a student is now, in the dtype of its model. It shares what was not learned. Adapters
    stay in float32, beside weights that did not change."""
    dtype = student.dtype if student.adapted is None else torch.float32

    def change(name: str, weight: torch.Tensor) -> torch.Tensor | None:
        return weight.detach().to(dtype, copy=True) if weight.requires_grad else None

    return copy_sharing(student.model, change)


def settle_learned(model: Any, learned: Learned) -> Learned:
    """What is trained: adapters in place of all weights from `LARGE` parameters on."""
    small = sum(parameter.numel() for parameter in model.parameters()) < LARGE
    return learned if small or learned != "all weights" else "rank-8 adapters"
