"""What the ways without a teacher share: they are themselves the loss on the passages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from surgery.record.manifest import Teacher
from surgery.training.losses import PLAIN, Rows, measure_losses


class Penalty(ABC):
    """A way, and its loss, which falls as passages become less likely. Each passage counts by its
    number of tokens."""

    teacher = None
    calibration = None
    advice = ""  # for a teacher that recites

    @property
    @abstractmethod
    def record(self) -> Teacher: ...

    @contextmanager
    def open(self, _: Any) -> Iterator[Penalty]:
        """As for `Way`."""
        yield self

    @abstractmethod
    def penalize(self, losses: torch.Tensor) -> torch.Tensor:
        """The mean next-token loss of each passage, [B], in nats → what the student minimizes."""

    def __call__(self, student: Any, rows: Rows, first: int, cast: Any = PLAIN) -> torch.Tensor:
        """As for `Loss`."""
        with cast:
            losses, lengths = measure_losses(student, rows, first)
        return (lengths * self.penalize(losses)).sum() / lengths.sum()
