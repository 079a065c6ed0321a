"""What each variant would change in the context vectors of a block.

Shape letters: B rows, T tokens, H heads, h head size, d width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from surgery.layouts import Block
from surgery.variants import Fit, variant_of


def changes(
    block: Block, variants: Sequence[str], fit: Fit | None, x: torch.Tensor, z: torch.Tensor
) -> Iterator[torch.Tensor]:
    """M x + c - z [B, T, d] of all heads, for one variant after the other.

    **Arguments:** `block` reads the model's own tensors; `fit`: for variants that are fitted; `x`,
    `z`: [B, T, d], the attention's input and its context vectors, heads side by side.
    """
    sources = block.sources(fit)

    def like(z: torch.Tensor, values: Any, *shape: int) -> torch.Tensor:
        if not isinstance(values, torch.Tensor):
            values = torch.from_numpy(np.array(values))  # it may lie in a file, to be read only
        moved: torch.Tensor = values.to(z)
        return moved.reshape(shape)

    d = z.shape[-1]
    for variant in map(variant_of, variants):
        affine = variant.affine(sources)
        bias = None if affine.bias is None else like(z, affine.bias, d)
        if affine.weight is not None:
            yield functional.linear(x, like(z, affine.weight, d, d), bias) - z
        else:
            yield -z if bias is None else bias - z
