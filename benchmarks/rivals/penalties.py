"""Losses that fall as passages become less likely: gradient difference, and SimNPO.

The first is that of Liu et al. 2022, arXiv 2203.12817, in the form of the TOFU benchmark (arXiv
2401.06121), with a bound that keeps the loss from rising without end. The second is that of Fan et
al. 2024, arXiv 2410.07163, with a margin of 0, by token and without a second model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from surgery.training.losses import Rows, measure_losses

Penalty = Callable[[torch.Tensor], torch.Tensor]
"""The mean next-token loss of each passage, [B], in nats -> what the student minimizes."""


def raise_loss(losses: torch.Tensor, *, most: float = 3.0) -> torch.Tensor:
    """`most`: nats per token up to which the loss on a passage is raised."""
    return (most - losses).clamp(min=0)


def let_go(losses: torch.Tensor, *, beta: float = 4.5) -> torch.Tensor:
    """`beta`: how soon a passage is let go."""
    return -2 / beta * functional.logsigmoid(beta * losses)


def measure_penalty(penalty: Penalty, model: Any, rows: Rows, first: int) -> torch.Tensor:
    """The mean over the tokens of int32 [B, T] from `first` on. Each passage counts by its number
    of tokens."""
    losses, lengths = measure_losses(model, rows, first)
    return (lengths * penalty(losses)).sum() / lengths.sum()
