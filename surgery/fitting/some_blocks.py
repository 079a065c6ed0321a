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


def find_layers(model: Any) -> nn.ModuleList:
    """The blocks of a loaded model, in order."""
    layers: nn.ModuleList = model.get_submodule(_name_container(_find_family(model)))
    return layers


@contextmanager
def run_only(model: Any, first: int, last: int | None = None) -> Iterator[None]:
    """The model with blocks `first` to `last` only, and positions that were added already.

    `inputs_embeds` of its forward are then what block `first` is given.
    """
    family = _find_family(model)
    path, _, name = _name_container(family).rpartition(".")
    owner, layers = model.get_submodule(path), find_layers(model)
    positions = _find_positions(family)
    stop = None if last is None else last + 1
    with ExitStack() as undo:
        undo.callback(setattr, owner, name, layers)
        setattr(owner, name, layers[first:stop])
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


def _find_family(model: Any) -> Family:
    return family_of({"model_type": model.config.model_type})


def _name_container(family: Family) -> str:
    return family.attention.partition(".{block}")[0]


def _find_positions(family: Family) -> str | None:
    tables = [rule.name for rule in family.rules if rule.shape == ("positions", "d")]
    return tables[0].removesuffix(".weight") if tables else None
