"""`gradient-difference`: no model teaches, and the loss on the passages is raised.

Liu et al. 2022, arXiv 2203.12817, in the form of the TOFU benchmark (arXiv 2401.06121). Other text
is kept as by every way, by KL; a bound keeps the loss from rising without end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from surgery.record.manifest import GradientDifference
from surgery.training.ways.penalty import Penalty


@dataclass(frozen=True)
class ByGradientDifference(Penalty):
    """`most`: nats per token up to which the loss on a passage is raised."""

    most: float = 3.0

    @property
    def record(self) -> GradientDifference:
        return GradientDifference(most=self.most)

    def penalize(self, losses: torch.Tensor) -> torch.Tensor:
        return (self.most - losses).clamp(min=0)
