"""Unlearning by training without a teacher: gradient difference and SimNPO.

Both train every weight with AdamW, and hold the predictions on other text to those of the base, by
KL(base || model). On the passages, they do what `benchmarks.rivals.penalties` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import numpy as np
import torch

from benchmarks.rivals.bed import Bed, token_kl
from benchmarks.rivals.penalties import Penalty, let_go, measure_penalty, raise_loss
from surgery.training.loop import LARGEST_GRADIENT, LossPart, descend, fall
from surgery.training.student import cast_weights

LEARNING_RATE = 1e-4
STEPS = 5
"""Training steps between two looks at the passages."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Passages and windows of a batch → the loss."""


def penalize(
    model: Any,
    bed: Bed,
    *,
    way: Callable[..., torch.Tensor],
    rate: float = LEARNING_RATE,
    weight: float = 1.0,
    **setting: float,
) -> Iterator[None]:
    """`way`: a penalty, which has a `setting`."""
    penalty: Penalty = partial(way, **setting)

    def forget(passages: torch.Tensor) -> torch.Tensor:
        rows = passages.numpy().astype(np.int32)
        return measure_penalty(penalty, model, rows, bed.samples.prefix_length)

    return _hold(model, bed, forget, rate, weight)


gradient_difference_kl = partial(penalize, way=raise_loss)
simnpo = partial(penalize, way=let_go)


def _hold(
    model: Any,
    bed: Bed,
    forget: Callable[[torch.Tensor], torch.Tensor],
    rate: float,
    weight: float,
) -> Iterator[None]:
    """Trains on `forget`, times `weight`, while the predictions on other text stay."""
    base = cast_weights(model, bed.passes)
    return train(
        model,
        bed,
        lambda passages, text: weight * forget(passages) + token_kl(base, model, text).mean(),
        rate,
    )


def train(
    model: Any,
    bed: Bed,
    loss_of: Loss,
    rate: float = LEARNING_RATE,
    learns: Callable[[str], bool] = lambda name: True,
) -> Iterator[None]:
    """`rate`: constant, or with `bed.looks` the first one; `learns`: whether the parameter of this
    name is trained.
    """
    learned: list[torch.Tensor] = []
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns(name))
        learned += [parameter] if learns(name) else []
    batches = bed.draw_batches()

    def measure(step: int) -> list[LossPart]:
        return [partial(loss_of, *next(batches))]

    steps = STEPS * bed.looks if bed.looks else None
    rates = fall(rate, steps) if steps else repeat(rate)
    for step, _ in enumerate(descend(learned, measure, rates, clip=LARGEST_GRADIENT), 1):
        if step % STEPS == 0:
            yield
