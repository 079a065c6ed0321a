"""Hardens a lesson against someone who trains the student further.

At each step, a few steps of fine-tuning on some of the passages are taken and undone. What the
lesson says at the weights that they reach joins its gradient where the student is, so that the
student learns to forget there as well. Second derivatives are left out (Tamirisa et al. 2024, arXiv
2408.00761, to first order).

That gradient then loses its strongest directions in each weight matrix. They are what passages
share with each other and with other text: learning them costs ability, and fine-tuning brings them
back first (RepSelect, Sondej and Yang 2026, arXiv 2606.17168, takes those of many steps).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from surgery.training.loop import LossPart, add_gradients, descend

WEIGHT = 1 / 3
"""Of the lesson that is hardened, in the sum of all losses. A weight of 1 costs twice as much, and
hardly withstands more (`benchmarks/erasing.py --ways`)."""
SHARE = 10
"""One passage in this many is learned again."""
MOST_ROWS = 32
STREAM = 1
"""Tells the draws of rehearsals from those of others with the same seed."""
MOST_STEPS = 6
"""Steps of fine-tuning that are rehearsed at most; their number is drawn at each step."""
REMOVED = 2
"""Directions that the gradient of a matrix loses."""
ROUNDS = 8
"""Of the power iteration that finds them."""


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
    learned: Sequence[torch.Tensor],
    rehearsal: Rehearsal,
    learning_rate: float,
    relearn: Callable[[npt.NDArray[np.intp]], Sequence[LossPart]],
    forget: Callable[[npt.NDArray[np.intp]], Sequence[LossPart]],
    lesson: Sequence[LossPart],
    scale: float = 1.0,
) -> float:
    """Makes the gradients of a step of a lesson for what is learned. Returns the lesson's loss.

    `relearn`, `forget`: indices of passages → the parts of the model's loss. `lesson`: those of the
    step. `scale`: as for `descend`. All that is learned holds then what it held before.
    """
    rates = [learning_rate] * rehearsal.steps
    with _keep(learned):
        for _ in descend(learned, lambda _: relearn(rehearsal.learned), rates, scale=scale):
            pass
        add_gradients(learned, forget(rehearsal.others), scale)
    loss = add_gradients(learned, lesson, scale)
    for one in learned:
        if one.grad is not None and one.ndim > 1:
            one.grad = remove_strongest(one.grad)
    return loss


def remove_strongest(gradient: torch.Tensor) -> torch.Tensor:
    """A gradient, [..., rows, columns], without the `REMOVED` largest singular directions of each
    matrix, at the norm that it had.

    Numbers that are zero stay: a constant of the model must get no gradient. So does a matrix that
    has no more directions.
    """
    start = torch.Generator().manual_seed(0)
    right = torch.randn(gradient.shape[-1], REMOVED, generator=start).to(gradient)
    for _ in range(ROUNDS):
        right = torch.linalg.qr(gradient.mT @ (gradient @ right)).Q
    rest = gradient - (gradient @ right) @ right.mT
    rest = torch.where(gradient == 0, 0.0, rest)
    whole, left = (torch.linalg.matrix_norm(one, keepdim=True) for one in (gradient, rest))
    return torch.where(left > 1e-3 * whole, rest * (whole / left), gradient)


@contextmanager
def _keep(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """Puts the numbers of tensors back at the end."""
    kept = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, numbers in zip(parameters, kept, strict=True):
                parameter.copy_(numbers)
