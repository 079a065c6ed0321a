"""Runs only some blocks of a model, so that a pass can start in the middle.

Blocks below an edit give what they gave before it: what a block was given is kept from an earlier
pass, and goes in where token embeddings do. The library's own forward runs every time, on fewer
blocks, so what comes out is equal to the whole pass bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from surgery.families import Family, family_of


def layers_of(model: Any) -> nn.ModuleList:
    """The blocks of a loaded model, in order."""
    layers: nn.ModuleList = model.get_submodule(_container(_family(model)))
    return layers


@contextmanager
def only(model: Any, first: int, last: int | None = None) -> Iterator[None]:
    """The model with blocks `first` to `last` only, and positions that were added already.

    `inputs_embeds` of its forward are then what block `first` is given.
    """
    family = _family(model)
    path, _, name = _container(family).rpartition(".")
    owner, layers = model.get_submodule(path), layers_of(model)
    positions = _learned_positions(family)
    stop = None if last is None else last + 1
    with ExitStack() as undo:
        undo.callback(setattr, owner, name, layers)
        setattr(owner, name, layers[first:stop])
        types = getattr(model.config, "layer_types", None)
        if types is not None:  # the library numbers the blocks that are there
            undo.callback(setattr, model.config, "layer_types", types)
            model.config.layer_types = types[first:stop]
        if positions is not None:
            table: Any = model.get_submodule(positions)
            undo.callback(model.set_submodule, positions, table)
            model.set_submodule(positions, _NothingToAdd(table.weight.dtype))
        yield


class _NothingToAdd(nn.Module):
    """In place of learned positions [.., T] -> [.., T, 1] of zeros."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return positions.new_zeros((*positions.shape, 1), dtype=self._dtype)


def _family(model: Any) -> Family:
    return family_of({"model_type": model.config.model_type})


def _container(family: Family) -> str:
    return family.attention.partition(".{block}")[0]


def _learned_positions(family: Family) -> str | None:
    tables = [rule.name for rule in family.rules if rule.shape == ("positions", "d")]
    return tables[0].removesuffix(".weight") if tables else None
