"""Sets to zero the MLP weights that matter to the passages and not to other text.

A threshold on a saliency, and not the method of a paper: `balanced_subnet.py`, beside this, learns
such a mask. A weight's score is |w · ∂loss/∂w| on the passages minus that on other text, each
divided by its mean: a first-order estimate of what the loss changes by when the weight goes. The
share of weights removed grows step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.rivals.bed import Bed, mlp_layers, token_nll

BATCHES = 20
FIRST, GROWTH, MOST = 1e-5, 1.5, 0.1
"""The first share of the MLP weights to remove, its growth per step, and the largest share."""


def pruning(model: Any, bed: Bed) -> Iterator[None]:
    weights = [layer.weight for layer in mlp_layers(model).values()]
    length = bed.samples.suffix_length
    batches = [pair for pair, _ in zip(bed.draw_batches(), range(BATCHES), strict=False)]
    passages = score_weights(
        weights, [lambda rows=rows: bed.suffix_nll(model, rows).mean() / length
                  for rows, _ in batches])  # fmt: skip
    text = score_weights(
        weights, [lambda rows=rows: token_nll(model, rows).mean() for _, rows in batches]
    )
    scores = passages / passages.mean() - text / text.mean()
    order, share = scores.argsort(descending=True), FIRST
    while share < MOST:
        clear_weights(weights, order[: int(share * len(order))])
        yield
        share *= GROWTH


def score_weights(
    weights: list[torch.nn.Parameter], losses: list[Callable[[], torch.Tensor]]
) -> torch.Tensor:
    """|w · ∂loss/∂w| of every weight, summed over the losses; all weights in one row."""
    sums = [torch.zeros_like(weight) for weight in weights]
    for loss in losses:
        with torch.enable_grad():
            gradients = torch.autograd.grad(loss(), weights)
        for total, weight, gradient in zip(sums, weights, gradients, strict=True):
            total += (weight.detach() * gradient).abs()
    return torch.cat([total.flatten() for total in sums])


@torch.no_grad()
def clear_weights(weights: list[torch.nn.Parameter], chosen: torch.Tensor) -> None:
    """Sets to zero the `chosen` of all weights, counted as in `score_weights`."""
    begin = 0
    for weight in weights:
        mine = chosen[(chosen >= begin) & (chosen < begin + weight.numel())] - begin
        weight.view(-1)[mine] = 0.0
        begin += weight.numel()
