"""Unlearning by training: plain fine-tuning, gradient difference, and NPO.

All three train every weight with AdamW. They differ in their loss:

- `finetune_control` minimizes the loss on other text. What it forgets, any training forgets.
- `gradient_difference` also maximizes the loss on the passages (Liu et al. 2022, arXiv 2203.12817,
  in the form of the TOFU benchmark, arXiv 2401.06121).
- `npo` bounds that maximum: the less likely a passage is already, the weaker its gradient (Zhang
  et al. 2024, arXiv 2404.05868, negative preference optimization, with the loss on other text).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional

from benchmarks.rivals.bed import Bed, token_nll

LEARNING_RATE = 1e-4
BETA = 0.1
"""How soon NPO lets a passage go (the paper's value)."""
STEPS = 5
"""Training steps between two looks at the passages."""

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Passages and windows of a batch → the loss."""


def finetune_control(model: Any, bed: Bed) -> Iterator[None]:
    return _train(model, bed, lambda passages, text: token_nll(model, text).mean())


def gradient_difference(model: Any, bed: Bed) -> Iterator[None]:
    length = bed.samples.suffix_length

    def loss(passages: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        return token_nll(model, text).mean() - bed.suffix_nll(model, passages).mean() / length

    return _train(model, bed, loss)


def npo(model: Any, bed: Bed) -> Iterator[None]:
    reference = copy.deepcopy(model)

    def loss(passages: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            before = bed.suffix_nll(reference, passages)
        forget = npo_loss(bed.suffix_nll(model, passages), before)
        return forget.mean() + token_nll(model, text).mean()

    return _train(model, bed, loss)


def npo_loss(nll: torch.Tensor, reference_nll: torch.Tensor, beta: float = BETA) -> torch.Tensor:
    """−(2/β) log σ(−β log(π/π_ref)), from the summed NLL of each passage under both models, [B]."""
    return -2 / beta * functional.logsigmoid(beta * (nll - reference_nll))


def _train(model: Any, bed: Bed, loss_of: Loss) -> Iterator[None]:
    model.requires_grad_(True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.0)
    for step, (passages, text) in enumerate(bed.draw_batches(), 1):
        with torch.enable_grad():
            loss_of(passages, text).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % STEPS == 0:
            yield
