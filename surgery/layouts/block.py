"""One block's attention tensors, fused or separate, seen per head.

H: query heads, G: key/value heads, h: head size, d: model width. A fused query_key_value weight
[3 d, d] views as [H, 3, h, d]: query, key and value are interleaved per head.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any, Literal

import numpy.typing as npt

from surgery.families import Dimensions, Family, Role, Switch
from surgery.layouts.product import reproducible_product
from surgery.variants import Fit, Sources

Array = npt.NDArray[Any]
Part = Literal["query", "key", "value"]


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

    def shape(self, role: Role) -> tuple[int, ...]:
        """The shape of the block's tensor of that role, which may not be stored."""
        rule = self.family.rule(role)
        assert rule is not None
        assert rule.shape is not None
        return tuple(self.dimensions.sizes[size] for size in rule.shape)

    def has(self, role: Role) -> bool:
        return self.family.rule(role) is not None and self.name(role) in self.present

    def read(self, role: Role) -> Array:
        return self.read_tensor(self.name(role))

    def stored(self, part: Part, what: Literal["weight", "bias"]) -> Role:
        """The role of the tensor that holds the weights or biases of queries, keys or values."""
        name: Any = f"{'query_key_value' if self.family.fused else part}_{what}"
        role: Role = name
        return role

    def switch(self, role: Role) -> Switch | None:
        """What has to be switched in config.json before the block can hold such a tensor."""
        rule = self.family.rule(role)
        return None if rule is None or self.has(role) else rule.when

    def per_head(self, array: Array) -> Array:
        """[heads h, …] → [heads, h, …], a view: of query heads, or of key/value heads."""
        return array.reshape(-1, self.dimensions.head_size, *array.shape[1:])

    def parts(self, role: Role, array: Array) -> dict[Part, Array]:
        """What a tensor of q, k, v weights or biases holds, head by head, as views [n, h, …]."""
        if self.family.fused:
            heads = array.reshape(-1, 3, self.dimensions.head_size, *array.shape[1:])
            return {"query": heads[:, 0], "key": heads[:, 1], "value": heads[:, 2]}
        part: Any = role.partition("_")[0]
        return {part: self.per_head(array)}

    def sources(self, fit: Fit | None = None) -> Sources:
        """W_V [H, h, d] and b_V [H, h] of each query head, as stored, and what was fitted."""
        weight, bias = self.stored("value", "weight"), self.stored("value", "bias")
        each = self.dimensions.heads_per_group

        def of_query_heads(role: Role) -> Array:
            values = self.parts(role, self.read(role))["value"]
            shared = [head // each for head in range(self.dimensions.num_heads)]
            return values if each == 1 else values[shared]

        found = of_query_heads(bias) if self.has(bias) else None
        return Sources(of_query_heads(weight), found, fit)

    def constant(self, contexts: Array) -> Array:
        """What constant context vectors [H, h] add to the residual: W_O c, float64 [d]."""
        return reproducible_product(self.read("output_weight"), contexts.reshape(-1, 1))[:, 0]
