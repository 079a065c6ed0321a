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

from surgery.families import family_of


def find_layers(model: Any) -> nn.ModuleList:
    """Returns the blocks of a loaded model, in order."""
    layers: nn.ModuleList = model.get_submodule(_name_layers(model))
    return layers


@contextmanager
def run_only(model: Any, first: int) -> Iterator[None]:
    """Leaves only the blocks from `first` on in the model.

    `inputs_embeds` of its forward are then the inputs of block `first`, whatever a model otherwise
    makes of embeddings: it may add learned positions, or multiply them.
    """
    path, _, name = _name_layers(model).rpartition(".")
    owner, layers = model.get_submodule(path), find_layers(model)
    with ExitStack() as undo:
        undo.callback(setattr, owner, name, layers)
        setattr(owner, name, layers[first:])
        types = getattr(model.config, "layer_types", None)
        if types is not None:  # the library numbers the blocks that are there
            undo.callback(setattr, model.config, "layer_types", types)
            model.config.layer_types = types[first:]
        given: list[torch.Tensor] = []

        weight = model.get_input_embeddings().weight

        def take(module: nn.Module, args: Any, kwargs: Any) -> Any:
            given[:] = [kwargs["inputs_embeds"]]
            # positions are added to it where they are: on the first of several devices
            there = given[0] if weight.is_meta else given[0].to(weight.device)
            return args, {**kwargs, "inputs_embeds": there}

        def put(module: nn.Module, args: Any, kwargs: Any) -> Any:
            if args:
                return (*given, *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": given[0]}

        undo.callback(owner.register_forward_pre_hook(take, with_kwargs=True).remove)
        undo.callback(layers[first].register_forward_pre_hook(put, with_kwargs=True).remove)
        yield


def _name_layers(model: Any) -> str:
    family = family_of({"model_type": model.config.model_type})
    return family.attention.partition(".{block}")[0]
