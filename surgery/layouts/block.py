"""One block's attention tensors, fused or separate, seen per head.

H: number of heads, h: head size, d = H h: model width. A fused query_key_value weight [3 d, d]
views as [H, 3, h, d]: query, key and value are interleaved per head.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.families import Dimensions, Family, Role
from surgery.layouts.product import reproducible_product
from surgery.variants import Affine, Fit, Sources

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Block:
    """Reads a block's tensors by role. `present` holds the names that the checkpoint stores."""

    family: Family
    dimensions: Dimensions
    index: int
    present: Container[str]
    read_tensor: Callable[[str], Array]

    def name(self, role: Role) -> str:
        return self.family.name(role, self.index)

    def has(self, role: Role) -> bool:
        return self.family.has(role) and self.name(role) in self.present

    def read(self, role: Role) -> Array:
        return self.read_tensor(self.name(role))

    def per_head(self, array: Array) -> Array:
        """[d, …] → [H, h, …], a view."""
        return array.reshape(self.dimensions.num_heads, self.dimensions.head_size, *array.shape[1:])

    def fused_per_head(self, array: Array) -> Array:
        """[3 d, …] → [H, 3, h, …], a view."""
        heads, size = self.dimensions.num_heads, self.dimensions.head_size
        return array.reshape(heads, 3, size, *array.shape[1:])

    def sources(self, fit: Fit | None = None) -> Sources:
        """W_V [H, h, d] and b_V [H, h], in the stored dtype, and what was fitted."""
        if self.family.fused:
            weight = self.fused_per_head(self.read("query_key_value_weight"))[:, 2]
            bias = None
            if self.has("query_key_value_bias"):
                bias = self.fused_per_head(self.read("query_key_value_bias"))[:, 2]
            return Sources(weight, bias, fit)
        bias = self.per_head(self.read("value_bias")) if self.has("value_bias") else None
        return Sources(self.per_head(self.read("value_weight")), bias, fit)

    def branch_weight(self, affine: Affine) -> Array:
        """W_O M, float64 [d, d], for a map whose weight is not None."""
        d = self.dimensions.d
        assert affine.weight is not None
        return reproducible_product(self.read("output_weight"), affine.weight.reshape(d, d))

    def branch_bias(self, affine: Affine) -> Array:
        """W_O c + b_O, float64 [d]."""
        d = self.dimensions.d
        bias = np.zeros(d)
        if affine.bias is not None:
            bias = reproducible_product(self.read("output_weight"), affine.bias.reshape(d, 1))[:, 0]
        if affine.keep_output_bias and self.has("output_bias"):
            bias = bias + self.read("output_bias").astype(np.float64)
        return bias
