"""`MODEL`: another model with the same tokens teaches, such as the public base of a fine-tune."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from surgery.hub.resolved import ResolvedModel
from surgery.loading import load_to_train
from surgery.record.manifest import Source
from surgery.training.losses import Divergence
from surgery.training.student import copy_sharing


@dataclass(frozen=True)
class ByModel:
    """`model`: the one that teaches, with the tokens of the student."""

    model: ResolvedModel
    advice = "name a model that never saw them"
    calibration = None

    @property
    def record(self) -> Source:
        return self.model.identified

    @contextmanager
    def open(self, model: Any) -> Iterator[Divergence]:
        """As for `Way`. Weights that are alike are in memory once."""
        yield Divergence(load_beside(model, self.model))


def load_beside(model: Any, teacher: ResolvedModel) -> Any:
    """A teacher, which shares with the loaded `model` the weights that are alike.

    It is loaded on the CPU, so that a GPU never holds two.
    """
    others = dict(model.named_parameters())

    def find_alike(name: str, weight: torch.Tensor) -> torch.Tensor | None:
        other = others.get(name)
        if other is None or other.shape != weight.shape:
            return None
        return other if torch.equal(other, weight.to(other.device)) else None

    loaded = load_to_train(teacher.checkpoint, torch.device("cpu"), model.dtype)
    return copy_sharing(loaded, find_alike).to(model.device)
