"""One forward pass over some rows, and a backward pass for every draw: gradients of contexts.

Shape letters: B rows, T tokens, S suffix tokens, D draws, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from accelerate.utils import align_module_device
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from evals.response.texts import Text
from evals.running.forward import POSITIONS_AT_ONCE
from surgery.editing.loading import model_ids
from surgery.families import Family


@dataclass(frozen=True)
class Seen:
    """A block's attention in one pass: its input `x` after the layer norm, its context vectors `z`,
    heads side by side, and by draw the scalar's gradients at `z` and at W_O z + b_O; all [B, T, d].
    """

    x: torch.Tensor
    z: torch.Tensor
    at_z: tuple[torch.Tensor, ...]
    at_output: tuple[torch.Tensor, ...]


def see(
    model: PreTrainedModel,
    family: Family,
    blocks: Sequence[int],
    text: Text,
    rows: slice,
    draws: int,
) -> dict[int, Seen]:
    """Runs `rows` of `text` through the model and back. `blocks`: those to look at."""
    tokens = model_ids(model, torch.from_numpy(text.tokens[rows].astype(np.int64)))
    with torch.enable_grad(), _frozen(model), _watched(model, family, blocks) as (xs, zs, outputs):
        # The last token predicts nothing, so it is not read.
        hidden = model.base_model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
        hidden = hidden[:, text.prefix_length - 1 :]
        ends = _at_the_end(model, text, hidden, tokens, rows, draws)
        wanted = [*zs.values(), *outputs.values()]
        found = [
            torch.autograd.grad(hidden, wanted, end, retain_graph=True) for end in ends.unbind()
        ]
    by_draw = list(zip(*found, strict=True))
    at_z, at_output = by_draw[: len(zs)], by_draw[len(zs) :]
    return {
        block: Seen(xs[block], zs[block].detach(), of_z, of_output)
        for block, of_z, of_output in zip(zs, at_z, at_output, strict=True)
    }


@torch.no_grad()
def _at_the_end(
    model: PreTrainedModel,
    text: Text,
    hidden: torch.Tensor,
    tokens: torch.Tensor,
    rows: slice,
    draws: int,
) -> torch.Tensor:
    """The scalar's gradient at the final hidden states [D, B, S, d], `hidden` being [B, S, d]."""
    head = cast(Any, model).get_output_embeddings()
    targets = tokens[:, text.prefix_length :].flatten()
    random = text.random(range(len(text.tokens))[rows], draws).flatten(0, 1)
    pieces = []
    with align_module_device(head):  # it may be offloaded
        weight = head.weight
        each = (t.to(weight.device) for t in (hidden.flatten(0, 1), targets, random))
        for states, true, numbers in zip(
            *(torch.split(t, POSITIONS_AT_ONCE) for t in each), strict=True
        ):
            logits = functional.linear(states, weight)
            precise = logits.to(torch.promote_types(logits.dtype, torch.float32))
            pieces.append(text.score(precise, weight, true, numbers))
    return torch.cat(pieces, dim=1).view(draws, *hidden.shape).to(hidden)


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """Weights need no gradient, only the context vectors do."""
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]

    def set_all(needed: bool) -> None:
        with torch.inference_mode():  # offloaded parameters may have been made in it
            for name in learning:  # and are other objects after a pass
                model.get_parameter(name).requires_grad_(needed)

    set_all(False)
    try:
        yield
    finally:
        set_all(True)


_Captured = dict[int, torch.Tensor]


@contextmanager
def _watched(
    model: PreTrainedModel, family: Family, blocks: Sequence[int]
) -> Iterator[tuple[_Captured, _Captured, _Captured]]:
    """x, z and W_O z + b_O by block, of the pass that is made inside."""
    xs: _Captured = {}
    zs: _Captured = {}
    outputs: _Captured = {}

    def take_x(block: int, module: nn.Module, args: Any) -> None:
        xs[block] = args[0].detach()

    def take_z(block: int, module: nn.Module, args: Any) -> None:
        zs[block] = args[0]
        if not args[0].requires_grad:  # nothing below has a gradient: it begins here
            args[0].requires_grad_()

    def take_output(block: int, module: nn.Module, args: Any, output: torch.Tensor) -> None:
        outputs[block] = output

    with ExitStack() as hooks:
        for block in blocks:
            read, projection = map(model.get_submodule, family.reading(block))
            hooks.enter_context(read.register_forward_pre_hook(partial(take_x, block)))
            hooks.enter_context(projection.register_forward_pre_hook(partial(take_z, block)))
            hooks.enter_context(projection.register_forward_hook(partial(take_output, block)))
        yield xs, zs, outputs
