"""What is asked of one block, its stored attention tensors, and edits: functions on their bits.

H: query heads, G: key/value heads, h: head size, d: model width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from surgery.families import Dimensions, Family, Projection, What
from surgery.product import multiply
from surgery.tensors import Array, Bits, Tensor, decode, encode
from surgery.variants import Fit, Kind, variant_of

Read = Callable[[str], Bits]
"""The name of a stored tensor → a new array of its bits."""
_STRONGEST: tuple[Kind, ...] = ("affine", "constant", "none")


@dataclass(frozen=True)
class Edit:
    """A tensor of the result that is rewritten or added. `make`: its bits, from the source's
    tensors and the fit of the block. Made again from the result, they stay the same, but for
    numbers that were fitted."""

    tensor: Tensor
    block: int
    make: Callable[[Read, Fit | None], Bits]


@dataclass(frozen=True)
class Cut:
    """Heads of a block that are edited, each with its variant, ascending; and what is stored.

    `config`, `stored`, `dtype`: of the source; `dtype` is that of its attention.
    """

    family: Family
    size: Dimensions
    config: Mapping[str, Any]
    stored: Mapping[str, Tensor]
    dtype: str
    block: int
    variants: Mapping[int, str]

    @property
    def whole(self) -> bool:
        """Whether every head is edited, so that no attention is left."""
        return len(self.variants) == self.size.num_heads

    @cached_property
    def kinds(self) -> dict[int, Kind]:
        """Edited head → what it adds."""
        return {head: variant_of(name).kind for head, name in self.variants.items()}

    @property
    def kind(self) -> Kind:
        """What the edited heads add together."""
        return next(kind for kind in _STRONGEST if kind in self.kinds.values())

    @property
    def bare(self) -> bool:
        """Whether the block adds nothing at all, not even its output bias."""
        return self.whole and self.kind == "none"

    @property
    def fitted(self) -> bool:
        """Whether calibration text is needed."""
        return any(variant_of(name).fitted for name in self.variants.values())

    @property
    def groups(self) -> list[range]:
        """The query heads of each key/value head."""
        each = self.size.heads_per_group
        return [range(first, first + each) for first in range(0, self.size.num_heads, each)]

    def has(self, projection: Projection, what: What = "bias") -> bool:
        return self.family.name(self.block, projection, what) in self.stored

    def can_have(self, projection: Projection) -> bool:
        """Whether a projection has a bias, or a key of config.json gives it one."""
        return self.has(projection) or projection in self.family.switch_of

    def shape(self, projection: Projection, what: What) -> tuple[int, ...]:
        """[rows, columns], or [rows] of a bias."""
        size, kv = self.size, self.size.num_groups * self.size.head_size
        rows = {"query": size.context, "key": kv, "value": kv, "output": size.d}[projection]
        if self.family.fused and projection != "output":
            rows = size.context + 2 * kv
        columns = size.context if projection == "output" else size.d
        return (rows,) if what == "bias" else (rows, columns)

    def views(self, projection: Projection, array: Array) -> dict[Projection, Array]:
        """What a tensor holds that holds this projection, head by head: views [n, h, …]."""
        heads = array.reshape(-1, self.size.head_size, *array.shape[1:])
        if self.family.fused == "by head":
            apart = heads.reshape(self.size.num_heads, 3, *heads.shape[1:])
            return {"query": apart[:, 0], "key": apart[:, 1], "value": apart[:, 2]}
        if self.family.fused == "by part":
            q, kv = self.size.num_heads, self.size.num_heads + self.size.num_groups
            return {"query": heads[:q], "key": heads[q:kv], "value": heads[kv:]}
        return {projection: heads}

    def edit(
        self,
        projection: Projection,
        what: What,
        change: Callable[[Bits, Read, Fit | None], Bits],
    ) -> Edit:
        """The edit of the tensor of a projection. A bias that is not there starts from -0.0, which
        changes no sum in any bit."""
        name, shape = self.family.name(self.block, projection, what), self.shape(projection, what)

        def make(read: Read, fit: Fit | None) -> Bits:
            old = read(name) if name in self.stored else np.full(shape, encode(-0.0, self.dtype))
            return change(old, read, fit)

        return Edit(Tensor(name, self.dtype, shape), self.block, make)

    def read(self, projection: Projection, what: What, read: Read) -> Array:
        """The numbers of the tensor of a projection."""
        return decode(read(self.family.name(self.block, projection, what)), self.dtype)

    def maps(self, read: Read, fit: Fit | None) -> tuple[Array, Array]:
        """M [H, h, d] and c [H, h] of all heads, zero for those that are not edited."""
        heads, size = self.size.num_heads, self.size
        weight = np.zeros((heads, size.head_size, size.d))
        bias = np.zeros((heads, size.head_size))
        for head, name in self.variants.items():
            if name == "identity":
                weight[head] = self.read_values("weight", read)[head // size.heads_per_group]
                if self.has("value"):
                    bias[head] = self.read_values("bias", read)[head // size.heads_per_group]
            elif name == "mean":
                bias[head] = get_fit(fit).mean[head]
            elif name == "linear":
                weight[head], bias[head] = get_map(fit)[0][head], get_map(fit)[1][head]
        return weight, bias

    def read_values(self, what: What, read: Read) -> Array:
        """W_V [G, h, d] or b_V [G, h]."""
        return self.views("value", self.read("value", what, read))["value"]

    def add_constants(self, heads: list[int] | range, fit: Fit | None, read: Read) -> Array:
        """What the constants of some heads add to the residual: Σ W_O c, float64 [d]."""
        contexts = np.zeros((self.size.num_heads, self.size.head_size))
        contexts[list(heads)] = get_fit(fit).mean[list(heads)]
        return multiply(self.read("output", "weight", read), contexts.reshape(-1, 1))[:, 0]


def get_fit(fit: Fit | None) -> Fit:
    """The fit, for a variant that cannot be without one."""
    if fit is None:
        raise ValueError("a fitted variant needs the fit of its block")
    return fit


def get_map(fit: Fit | None) -> tuple[Array, Array]:
    """M [H, h, d] and c [H, h] as fitted."""
    found = get_fit(fit)
    if found.weight is None or found.bias is None:
        raise ValueError("the fit of the block holds its mean alone")
    return found.weight, found.bias
