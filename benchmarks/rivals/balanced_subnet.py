"""Learns which MLP weights the passages need and other text does not, and sets them to zero.

Sakarvadia et al. 2024, arXiv 2410.02159 (BalancedSubnet): every weight of the MLPs has a score. In
each layer, the `share` of weights whose scores have the lowest absolute values is dropped. Scores
are trained, and weights are not: the gradient of the binary mask passes straight through to the
score (Ramanujan et al. 2020, arXiv 1911.13299). The loss is `weight` times the loss on other text,
less 1 - `weight` times that on the passages. The paper trains scores with SGD; Adam, here, needs no
rate of its own for each model.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from benchmarks.rivals.bed import Bed, mlp_layers, token_nll

STEPS = 5
"""Steps of the scores between two looks at the passages."""


def balanced_subnet(
    model: Any, bed: Bed, *, share: float = 0.01, weight: float = 0.7, rate: float = 1e-3
) -> Iterator[None]:
    """`share`: of the weights to drop; `weight`: of other text; `rate`: of the scores."""
    model.requires_grad_(False)
    weights = [layer.weight.requires_grad_(True) for layer in mlp_layers(model).values()]
    intact = [one.detach().clone() for one in weights]
    scores = make_scores(intact, bed.seed)
    optimizer = torch.optim.Adam(scores, lr=rate)
    drop_lowest(weights, intact, scores, share)
    for step, (passages, text) in enumerate(bed.draw_batches(), 1):
        with torch.enable_grad():
            forget = bed.suffix_nll(model, passages).mean() / bed.samples.suffix_length
            loss = weight * token_nll(model, text).mean() - (1 - weight) * forget
            gradients = torch.autograd.grad(loss, weights)
        for score, whole, gradient in zip(scores, intact, gradients, strict=True):
            score.grad = gradient * whole * score.sign()  # of w m(|s|), with dm/d|s| = 1
        optimizer.step()
        drop_lowest(weights, intact, scores, share)
        if step % STEPS == 0:
            yield


def make_scores(weights: Sequence[torch.Tensor], seed: int) -> list[torch.Tensor]:
    """A score for each weight of [m, n], uniform in ±1/√n (Kaiming)."""
    draw = torch.Generator().manual_seed(seed)
    return [
        torch.empty(one.shape).uniform_(-1, 1, generator=draw) / math.sqrt(one.shape[1])
        for one in weights
    ]


@torch.no_grad()
def drop_lowest(
    weights: Sequence[torch.Tensor],
    intact: Sequence[torch.Tensor],
    scores: Sequence[torch.Tensor],
    share: float,
) -> None:
    """Sets each of `weights` to its `intact` one, less the share with the lowest |scores|."""
    for weight, whole, score in zip(weights, intact, scores, strict=True):
        number = int(share * score.numel())
        lowest = score.abs().flatten().topk(number, largest=False).indices
        weight.copy_(whole)
        weight.view(-1)[lowest] = 0.0
