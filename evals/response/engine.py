"""The responses of every head in every variant on one text, from one pass forward and a few back.

Shape letters: B rows, T tokens, H heads, h head size, d width, D draws, N rows in all.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import align_module_device
from torch.nn import functional
from transformers import PreTrainedModel

from evals.response.passes import Seen, see
from evals.response.responses import Responses, Units
from evals.response.texts import Text
from evals.running.batching import row_ranges
from evals.running.forward import check_head
from evals.running.processes import Processes, map_in_order
from surgery.errors import MeasurementError
from surgery.families import Dimensions, family_of
from surgery.layouts import Block
from surgery.variants import Fit, variant_of

_BYTES = 1 << 30
"""About what the activations of the rows that go through the model together may take."""
_SHARES = 16
"""In how many parts a text goes through at least, so that processes can share it evenly."""


def respond(
    model: PreTrainedModel,
    text: Text,
    variants: Sequence[str],
    fits: Mapping[int, Fit] | None = None,
    *,
    draws: int,
    processes: Processes | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Responses:
    """r_u(n) = Σ_t ⟨∂s/∂z_u(t), M_u x_t + c_u − z_u(t)⟩ for every head u, variant and row n.

    s is the text's scalar, z_u the head's context vectors; weights get no gradient. Rows that are
    computed together are decided by shapes alone, and random numbers belong to a row, so that the
    result is the same whatever memory there is and however many processes share the work.

    **Arguments:** `model`: in eval mode, with its language modeling head; `fits`: by block, for
    variants that are fitted; `draws`: random vectors for each row; `advance` is told of rows done.

    Raises `MeasurementError` where responses are not finite.
    """
    config = model.config.to_dict()
    family = family_of(config)
    dimensions = family.dimensions(config)
    check_head(model, torch.from_numpy(text.tokens[:1, :4].astype(np.int64)))
    attending = family.attending(dict(model.named_modules()), dimensions.num_blocks)
    units = Units(dimensions, attending, tuple(variants))
    present = frozenset(model.state_dict())
    processes = processes or Processes()

    def one(rows: slice) -> npt.NDArray[np.float32]:
        seen = see(model, family, units.blocks, text, rows, draws)
        parts = []
        for index in units.blocks:
            block = Block(family, dimensions, index, present, lambda name: _tensor(model, name))
            fit = (fits or {}).get(index)
            parts.append(_responses(block, units.variants, fit, seen.pop(index)))
        found = torch.cat(parts).float().numpy()
        advance(processes.count * found.shape[-1])
        return found

    rows, at_once = len(text.tokens), _rows_at_once(dimensions, text.tokens.shape[1], draws)
    chunks = row_ranges(rows, min(at_once, math.ceil(rows / _SHARES)))
    values = np.concatenate(map_in_order(chunks, one, processes=processes), axis=-1)
    if not np.isfinite(values).all():
        raise MeasurementError(
            "the model's gradients are not finite",
            got=f"NaN or infinity in {int((~np.isfinite(values)).any((0, 1)).sum())} rows",
            fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
        )
    return Responses(units, values, text.scale)


def _tensor(model: PreTrainedModel, name: str) -> Any:
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    with align_module_device(module):  # it may be offloaded
        return getattr(module, leaf).detach()


@torch.no_grad()
def _responses(block: Block, variants: Sequence[str], fit: Fit | None, seen: Seen) -> torch.Tensor:
    """A block's units, in their order: float64 [H · variants + 1, D, B]."""
    heads = block.dimensions.num_heads
    precise = torch.promote_types(seen.z.dtype, torch.float32)
    x, z = seen.x.to(precise), seen.z.to(precise)
    found = [
        torch.stack([_dot(gradient, change, heads) for gradient in seen.at_z])
        for change in _changes(block, variants, fit, x, z)
    ]  # [D, B, H] for each variant
    by_head = torch.stack(found, dim=-1).flatten(2)
    dropped = by_head.new_zeros(*by_head.shape[:2], 1)
    if block.has("output_bias"):
        bias: Any = block.read("output_bias")
        dropped = -torch.stack([_dot(gradient, bias, 1) for gradient in seen.at_output])
    return torch.cat([by_head, dropped], dim=-1).permute(2, 0, 1)


def _changes(
    block: Block, variants: Sequence[str], fit: Fit | None, x: torch.Tensor, z: torch.Tensor
) -> Iterator[torch.Tensor]:
    """What each variant would change in the context vectors of all heads: M x + c - z [B, T, d].

    `x`, `z`: [B, T, d], the attention's input and its context vectors, heads side by side.
    """
    sources, d = block.sources(fit), z.shape[-1]

    def like_z(values: Any, *shape: int) -> torch.Tensor:
        if not isinstance(values, torch.Tensor):
            values = torch.from_numpy(np.array(values))  # it may lie in a file, to be read only
        moved: torch.Tensor = values.to(z)
        return moved.reshape(shape)

    for variant in map(variant_of, variants):
        affine = variant.affine(sources)
        bias = None if affine.bias is None else like_z(affine.bias, d)
        if affine.weight is not None:
            yield functional.linear(x, like_z(affine.weight, d, d), bias) - z
        else:
            yield -z if bias is None else bias - z


def _dot(gradient: torch.Tensor, change: torch.Tensor, heads: int) -> torch.Tensor:
    """Σ_t ⟨gradient, change⟩ head by head, [B, T, d] -> float64 [B, heads] on the CPU."""
    products = (gradient * change).view(*gradient.shape[:2], heads, -1).sum(-1)
    return products.cpu().double().sum(1)


def _rows_at_once(dimensions: Dimensions, length: int, draws: int) -> int:
    """What passes back need of each row: vectors of every block, gradients, attention's scores."""
    vectors = (18 + 2 * draws) * dimensions.d + 4 * dimensions.num_heads * length
    row = 4 * length * dimensions.num_blocks * vectors
    return max(1, _BYTES // row)
