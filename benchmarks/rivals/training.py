"""Unlearning by training: gradient difference, NPO, and SimNPO.

All train every weight with AdamW, and hold the predictions on other text to those of the base, by
KL(base || model). They differ in what they do on the passages:

- `gradient_difference_kl` raises the loss on a passage up to `most` nats per token (Liu et al.
  2022, arXiv 2203.12817, in the form of the TOFU benchmark, arXiv 2401.06121).
- `npo_kl`: the less likely a passage is already, the weaker its gradient (Zhang et al. 2024, arXiv
  2404.05868, negative preference optimization).
- `simnpo`: the same without a reference model; the loss counts by token (Fan et al. 2024, arXiv
  2410.07163, with a margin of 0).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any

import torch
from torch.nn import functional

from benchmarks.rivals.bed import Bed, token_kl
from surgery.training.loop import LARGEST_GRADIENT, LossPart, descend, fall
from surgery.training.student import cast_weights

LEARNING_RATE = 1e-4
BETA = 0.1
"""How soon NPO lets a passage go (the paper's value)."""
STEPS = 5
"""Training steps between two looks at the passages."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Passages and windows of a batch → the loss."""


def gradient_difference_kl(
    model: Any, bed: Bed, *, rate: float = LEARNING_RATE, weight: float = 1.0, most: float = 5.0
) -> Iterator[None]:
    length = bed.samples.suffix_length

    def forget(passages: torch.Tensor) -> torch.Tensor:
        return -(bed.suffix_nll(model, passages) / length).clamp(max=most).mean()

    return _hold(model, bed, forget, rate, weight)


def npo_kl(
    model: Any, bed: Bed, *, rate: float = LEARNING_RATE, weight: float = 1.0, beta: float = BETA
) -> Iterator[None]:
    reference = cast_weights(model, bed.passes)

    def forget(passages: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            before = bed.suffix_nll(reference, passages)
        return npo_loss(bed.suffix_nll(model, passages), before, beta).mean()

    return _hold(model, bed, forget, rate, weight)


def simnpo(
    model: Any, bed: Bed, *, rate: float = LEARNING_RATE, weight: float = 1.0, beta: float = 2.5
) -> Iterator[None]:
    length = bed.samples.suffix_length

    def forget(passages: torch.Tensor) -> torch.Tensor:
        by_token = bed.suffix_nll(model, passages) / length
        return (-2 / beta * functional.logsigmoid(beta * by_token)).mean()

    return _hold(model, bed, forget, rate, weight)


def npo_loss(nll: torch.Tensor, reference_nll: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """−(2/β) log σ(−β log(π/π_ref)), from the summed NLL of each passage under both models, [B]."""
    return -2 / beta * functional.logsigmoid(beta * (nll - reference_nll))


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
