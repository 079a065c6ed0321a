"""Hardens a lesson against someone who trains the student further: they are rehearsed as it learns.

At each step, a few steps of fine-tuning on some of the passages are taken and undone. What the
lesson says at the weights that they reach joins the gradient of that step, so that the student
learns to forget there as well. Second derivatives are left out (Tamirisa et al. 2024, arXiv
2408.00761, to first order).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

WEIGHT = 1 / 3
"""Of the lesson that is hardened, in the sum of all losses. A weight of 1 costs twice as much, and
hardly withstands more (docs/erasing.md)."""
SHARE = 10
"""One passage in this many is learned again."""
MOST_ROWS = 32
STREAM = 1
"""Tells the draws of rehearsals from those of others with the same seed."""
MOST_STEPS = 6
"""Steps of fine-tuning that are rehearsed at most; their number is drawn at each step."""


@dataclass(frozen=True)
class Rehearsal:
    """What is rehearsed at a step: so many `steps` on the passages `learned`.

    The `others` must stay forgotten. Both are indices of passages.
    """

    learned: npt.NDArray[np.intp]
    others: npt.NDArray[np.intp]
    steps: int


def draw_rehearsals(passages: int, per_step: int, steps: int, seed: int) -> list[Rehearsal]:
    """One rehearsal for each step of a lesson that takes `per_step` passages at a time.

    A lone passage is both learned and to be forgotten. An attacker who draws with the same seed
    (`evals.measure.attacks.attack.split`) learns another set of passages than any rehearsal.
    """
    draw, found = np.random.default_rng((seed, STREAM)), []
    held = min(MOST_ROWS, max(1, passages // SHARE))
    for _ in range(steps):
        order = draw.permutation(passages)
        others = order[held : held + per_step] if passages > held else order
        found.append(Rehearsal(order[:held], others, int(draw.integers(1, MOST_STEPS + 1))))
    return found


def harden(
    learned: Sequence[torch.nn.Parameter],
    rehearsal: Rehearsal,
    learning_rate: float,
    relearn: Callable[[npt.NDArray[np.intp]], Iterator[torch.Tensor]],
    forget: Callable[[npt.NDArray[np.intp]], Iterator[torch.Tensor]],
) -> None:
    """Adds to the gradients of parameters that of `forget` where `relearn` would take them.

    `relearn`, `forget`: indices of passages → the parts of the model's loss, scalars, each of which
    is let go before the next is asked for. The parameters then hold what they held before.
    """
    before = [parameter.grad for parameter in learned]
    with _keep(learned):
        optimizer = torch.optim.AdamW(learned, lr=learning_rate, weight_decay=0.0)
        with torch.enable_grad():
            for _ in range(rehearsal.steps):
                optimizer.zero_grad()
                for part in relearn(rehearsal.learned):
                    part.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            optimizer.zero_grad()
            for part in forget(rehearsal.others):
                part.backward()  # type: ignore[no-untyped-call]
    for parameter, first in zip(learned, before, strict=True):
        if first is not None:
            parameter.grad = first if parameter.grad is None else first.add_(parameter.grad)


@contextmanager
def _keep(parameters: Sequence[torch.nn.Parameter]) -> Iterator[None]:
    """Puts the numbers of parameters back at the end."""
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, numbers in zip(parameters, kept, strict=True):
                parameter.copy_(numbers)
