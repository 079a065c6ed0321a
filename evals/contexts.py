"""What the attention of blocks does in a pass, and how parts of a block respond to a scalar.

Shape letters: D draws, B rows, T tokens, H heads, h head size, d width.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from accelerate.utils import align_module_device
from torch import nn
from torch.nn import functional
from transformers import PreTrainedModel

from surgery.families import Family
from surgery.layouts import Block
from surgery.selection import Part
from surgery.variants import Affine, Fit, variant_of


class Seen(NamedTuple):
    """A block's attention in one pass: its input `x` [B, T, d], its context vectors `z` with heads
    side by side [B, T, H h], and by draw the gradients at `z` and at what the branch adds to the
    residual [B, T, d]: W_O z + b_O, or where there is a norm after attention, that norm of it."""

    x: torch.Tensor
    z: torch.Tensor
    at_z: Sequence[torch.Tensor]
    at_output: Sequence[torch.Tensor]
    norm: nn.Module | None = None


Captured = dict[int, torch.Tensor]


@contextmanager
def watch_blocks(
    model: PreTrainedModel, family: Family, blocks: Iterable[int]
) -> Iterator[tuple[Captured, Captured, Captured]]:
    """x, z, and what is added to the residual, by block, of the pass that is made inside."""
    xs: Captured = {}
    zs: Captured = {}
    outputs: Captured = {}

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
            adding = norm_after(model, family, block) or projection
            hooks.enter_context(adding.register_forward_hook(partial(take_output, block)))
        yield xs, zs, outputs


def norm_after(model: PreTrainedModel, family: Family, block: int) -> nn.Module | None:
    """The norm that the output of a block's attention goes through before it is added."""
    name = family.norm_after
    return None if name is None else model.get_submodule(name.format(block=block))


@torch.no_grad()
def respond_to(
    block: Block,
    parts: Sequence[Part],
    stock: Container[Part],
    fit: Fit | None,
    seen: Seen,
    limit: float | None,
) -> list[torch.Tensor]:
    """Of parts of one block, in order: each float64 [D, B]. A whole block that adds nothing to the
    residual loses its output bias, too. `limit`: to which the model clips values, if it does.

    A norm after attention undoes what scales its input, so a derivative would not see an output
    that becomes zero. There, what the norm gives is what changes.
    """
    heads, sources = block.dimensions.num_heads, block.sources(fit)
    affine = {part.variant: variant_of(part.variant).affine(sources) for part in parts}
    kinds = {(part.variant, part in stock) for part in parts}
    changes = {kind: _change(block, affine[kind[0]], *kind, seen, limit) for kind in kinds}
    by_head = {}
    if seen.norm is None:
        by_head = {kind: _dots(seen.at_z, change, heads) for kind, change in changes.items()}
    found = []
    for part in parts:
        kind, some = (part.variant, part in stock), list(part.heads)
        bare = len(some) == heads and variant_of(part.variant).KIND == "none"
        if seen.norm is not None:
            change = _change_after_norm(block, seen, changes[kind], some, bare=bare)
            found.append(_dots(seen.at_output, change, 1).squeeze(-1))
            continue
        response = by_head[kind][..., some].sum(-1)
        if bare and block.has("output_bias"):
            output_bias: Any = block.read("output_bias")
            response = response - _dots(seen.at_output, output_bias, 1).squeeze(-1)
        found.append(response)
    return found


def _dots(gradients: Sequence[torch.Tensor], change: torch.Tensor, heads: int) -> torch.Tensor:
    """Σ_t ⟨gradient, change⟩ head by head, float64 [D, B, heads] on the CPU."""
    products = ((g * change).view(*g.shape[:2], heads, -1).sum(-1) for g in gradients)
    return torch.stack([product.cpu().double().sum(1) for product in products])


def _precise(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _change(
    block: Block, affine: Affine, name: str, in_stock: bool, seen: Seen, limit: float | None
) -> torch.Tensor:
    """M x + c - z of all heads [B, T, H h], in a variant; z as of heads that attend."""
    x, z = _precise(seen.x), _precise(seen.z)
    width = z.shape[-1]

    def like_z(values: Any, *shape: int) -> torch.Tensor:
        if not isinstance(values, torch.Tensor):
            values = torch.from_numpy(np.array(values))  # it may lie in a file, to be read only
        moved: torch.Tensor = values.to(z)
        return moved.reshape(shape)

    if in_stock and affine.weight is not None and variant_of(name).FITTED:
        affine = _average_groups(affine, block.dimensions.num_groups)
    alone = z.new_zeros(width) if affine.bias is None else like_z(affine.bias, width)
    if affine.weight is not None:
        alone = functional.linear(x, like_z(affine.weight, width, x.shape[-1]), alone)
        if in_stock and limit is not None:
            alone = alone.clamp(-limit, limit)
    return alone - z


def _change_after_norm(
    block: Block, seen: Seen, change: torch.Tensor, heads: list[int], *, bare: bool
) -> torch.Tensor:
    """Of the norm of W_O z + b_O [B, T, d], where z of some heads changes. `bare`: it becomes 0."""
    assert seen.norm is not None
    z = _precise(seen.z)
    own_weight: Any = block.read("output_weight")
    own_bias: Any = block.read("output_bias") if block.has("output_bias") else None
    weight, bias = own_weight.to(z), None if own_bias is None else own_bias.to(z)
    before: torch.Tensor = seen.norm(functional.linear(z, weight, bias))
    if bare:
        return -before
    by_head = (*z.shape[:2], block.dimensions.num_heads, -1)
    moved = z.reshape(by_head).clone()
    moved[:, :, heads] += change.reshape(by_head)[:, :, heads]
    after: torch.Tensor = seen.norm(functional.linear(moved.view_as(z), weight, bias))
    return after - before


def _average_groups(affine: Affine, num_groups: int) -> Affine:
    """With one map for all query heads of a group: their mean, as the stock layout stores it."""

    def average(values: Any) -> Any:
        if values is None:
            return None
        grouped = np.asarray(values).reshape(num_groups, -1, *values.shape[1:])
        mean = grouped.mean(1, dtype=np.float64, keepdims=True)
        return np.broadcast_to(mean, grouped.shape).reshape(values.shape)

    return replace(affine, weight=average(affine.weight), bias=average(affine.bias))


def tensor_of(model: PreTrainedModel, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    with align_module_device(module):  # it may be offloaded
        return getattr(module, leaf).detach()
