"""A pass through a model's blocks that stops to look, and one that begins in the middle.

Blocks below an edit give what they gave before it: the input of the lowest edited block is kept
from an earlier pass, and the pass is taken up there. The library's own forward runs every time, on
fewer blocks, so what comes out is equal to the whole pass bit for bit.

Shape letters: B rows, T tokens, d width.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from evals.running.forward import CACHE
from surgery.editing.loading import model_ids
from surgery.families import Family, family_of


@dataclass(frozen=True)
class Run:
    """What a pass gave.

    - `hidden`: [B, T, d] final hidden states, after the last layer norm.
    - `inputs`: [B, T, d] the residual stream that the blocks asked for were given.
    """

    hidden: torch.Tensor
    inputs: dict[int, torch.Tensor]


def from_tokens(model: PreTrainedModel, tokens: torch.Tensor, *, keep: Collection[int] = ()) -> Run:
    """A whole pass over `tokens` (int64 [B, T]), keeping the inputs of the blocks in `keep`."""
    return _run(model, 0, keep, input_ids=model_ids(model, tokens))


def from_block(
    model: PreTrainedModel,
    block: int,
    states: torch.Tensor,
    *,
    keep: Collection[int] = (),
    last: int | None = None,
    cache: Any = None,
) -> Run:
    """A pass that begins with what `block` is given: `states` [B, T, d], from a `Run`'s inputs.

    **Arguments:**

    - `keep`: blocks whose inputs to keep.
    - `last`: the last block to run, where only those inputs are wanted and not the model's output.
    - `cache`: a cache of earlier tokens of the same rows, extended in place; an empty
      `DynamicCache` to begin with.
    """
    entry = {"inputs_embeds": states} if cache is None else {"inputs_embeds": states, CACHE: cache}
    with _only(model, block, last):
        run = _run(model, block, keep, **entry)
    if cache is not None and block > 0:  # its length is read off the first block's layer
        tokens = states.new_zeros(len(states), 1, states.shape[1], 1)
        cache.update(tokens, tokens, 0)
    return run


@torch.inference_mode()
def _run(model: PreTrainedModel, first: int, keep: Collection[int], **entry: Any) -> Run:
    inputs: dict[int, torch.Tensor] = {}
    layers: Any = _layers(model, _family(model))

    def hook(block: int) -> Any:
        def look(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
            inputs[block] = arguments[0]

        return look

    with ExitStack() as hooks:
        for block in keep:
            handle = layers[block - first].register_forward_pre_hook(hook(block))
            hooks.callback(handle.remove)
        output = model.base_model(**entry, use_cache=CACHE in entry, return_dict=True)
    return Run(output.last_hidden_state, inputs)


@contextmanager
def _only(model: PreTrainedModel, first: int, last: int | None) -> Iterator[None]:
    """The model with blocks `first` to `last` only, and positions that were added already."""
    family = _family(model)
    path, _, name = _container(family).rpartition(".")
    owner, layers = model.get_submodule(path), _layers(model, family)
    positions = _learned_positions(family)
    stop = None if last is None else last + 1
    with ExitStack() as undo:
        undo.callback(setattr, owner, name, layers)
        setattr(owner, name, layers[first:stop])
        if positions is not None:
            table: Any = model.get_submodule(positions)
            undo.callback(model.set_submodule, positions, table)
            model.set_submodule(positions, _NothingToAdd(table.weight))
        yield


class _NothingToAdd(nn.Module):
    """In place of learned positions [.., T] -> [.., T, 1] of zeros."""

    def __init__(self, like: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("zero", like.new_zeros(1))

    def forward(self, positions: torch.Tensor) -> torch.Tensor:
        zero: torch.Tensor = self.get_buffer("zero")
        return zero.expand(*positions.shape, 1)


def _family(model: PreTrainedModel) -> Family:
    return family_of({"model_type": model.config.model_type})


def _container(family: Family) -> str:
    return family.attention.partition(".{block}")[0]


def _layers(model: PreTrainedModel, family: Family) -> Any:
    return model.get_submodule(_container(family))


def _learned_positions(family: Family) -> str | None:
    tables = [rule.name for rule in family.rules if rule.shape == ("positions", "d")]
    return tables[0].removesuffix(".weight") if tables else None
