"""Runs only some blocks of a model, so that a pass can start in the middle.

Blocks below an edit give the same outputs as before. So the inputs of a block are kept from an
earlier pass and go in as embeddings. The library's own forward runs on fewer blocks, so its output
equals that of a whole pass bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from surgery.families import Family, family_of


def find_layers(model: Any) -> nn.ModuleList:
    """Returns the blocks of a loaded model, in order."""
    layers: nn.ModuleList = model.get_submodule(_name_layers(model))
    return layers


@contextmanager
def run_only(model: Any, first: int, last: int | None = None) -> Iterator[None]:
    """Leaves only blocks `first` to `last` in the model, and adds no positions.

    `inputs_embeds` of its forward are then the inputs of block `first`.
    """
    path, _, name = _name_layers(model).rpartition(".")
    owner, layers = model.get_submodule(path), find_layers(model)
    some = slice(first, None if last is None else last + 1)
    with ExitStack() as undo:
        undo.callback(setattr, owner, name, layers)
        setattr(owner, name, layers[some])
        types = getattr(model.config, "layer_types", None)
        if types is not None:  # the library numbers the blocks that are there
            undo.callback(setattr, model.config, "layer_types", types)
            model.config.layer_types = types[some]
        for rule in _find_family(model).rules:
            if rule.shape == ("positions", "d"):
                positions = rule.name.removesuffix(".weight")
                table: Any = model.get_submodule(positions)
                undo.callback(model.set_submodule, positions, table)
                model.set_submodule(positions, _NothingToAdd(table.weight.dtype))
        yield


class _NothingToAdd(nn.Module):
    """Replaces learned positions: [.., T] -> zeros [.., T, 1]."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self._dtype = dtype

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        return positions.new_zeros((*positions.shape, 1), dtype=self._dtype)


def _find_family(model: Any) -> Family:
    return family_of({"model_type": model.config.model_type})


def _name_layers(model: Any) -> str:
    return _find_family(model).attention.partition(".{block}")[0]
