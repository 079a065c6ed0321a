"""`simnpo`: no model teaches, and the less likely a passage is already, the weaker its gradient.

Fan et al. 2024, arXiv 2410.07163, with a margin of 0. The loss counts by token, and needs no second
model, as negative preference optimization does.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional

from surgery.record.manifest import SimNPO
from surgery.training.ways.penalty import Penalty


@dataclass(frozen=True)
class BySimNPO(Penalty):
    """`beta`: how soon a passage is let go."""

    beta: float = 4.5

    @property
    def record(self) -> SimNPO:
        return SimNPO(beta=self.beta)

    def penalize(self, losses: torch.Tensor) -> torch.Tensor:
        return -2 / self.beta * functional.logsigmoid(self.beta * losses)
