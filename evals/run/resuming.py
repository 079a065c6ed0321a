"""Passes through a model that keep the inputs of blocks, and passes that begin at a block.

An earlier pass keeps the input of the lowest edited block, and the next one resumes there
(`surgery.fitting.some_blocks`).

Shape letters: B rows, T tokens, d width.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from surgery.fitting.some_blocks import find_layers, run_only
from surgery.loading import place_ids


@dataclass(frozen=True)
class Run:
    """The result of a pass.

    - `hidden`: [B, T, d] final hidden states, after the last layer norm.
    - `inputs`: [B, T, d] the residual stream that enters each requested block.
    """

    hidden: torch.Tensor
    inputs: dict[int, torch.Tensor]


def run_tokens(model: PreTrainedModel, tokens: torch.Tensor, *, keep: Collection[int] = ()) -> Run:
    """A whole pass over `tokens` (int64 [B, T]), keeping the inputs of the blocks in `keep`."""
    return _run(model, 0, keep, input_ids=place_ids(model, tokens))


def run_from_block(
    model: PreTrainedModel,
    block: int,
    states: torch.Tensor,
    *,
    keep: Collection[int] = (),
) -> Run:
    """Runs a pass that begins with the input of `block`: `states` [B, T, d], from a `Run`.

    `keep`: blocks whose inputs to keep; the number of blocks stands for what leaves the last.
    """
    with run_only(model, block):
        return _run(model, block, keep, inputs_embeds=states)


@torch.inference_mode()
def _run(model: PreTrainedModel, first: int, keep: Collection[int], **entry: Any) -> Run:
    inputs: dict[int, torch.Tensor] = {}
    layers = find_layers(model)

    def take_input(block: int, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs[block] = args[0] if args else kwargs["hidden_states"]

    def take_output(block: int, module: nn.Module, args: Any, output: Any) -> None:
        inputs[block] = output[0] if isinstance(output, tuple) else output

    with ExitStack() as hooks:
        for block in keep:
            if block - first < len(layers):
                layer, take = layers[block - first], partial(take_input, block)
                handle = layer.register_forward_pre_hook(take, with_kwargs=True)
            else:
                handle = layers[-1].register_forward_hook(partial(take_output, block))
            hooks.callback(handle.remove)
        output = model.base_model(**entry, use_cache=False, return_dict=True)
    return Run(output.last_hidden_state, inputs)
