"""One block's attention tensors, fused or separate, seen per head, and what is asked of its heads.

H: query heads, G: key/value heads, h: head size, d: model width. A fused query_key_value weight
[3 d, d] views as [H, 3, h, d]: query, key and value are interleaved per head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Container, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from surgery.errors import CheckpointError
from surgery.families import Dimensions, Family, Role, TensorRule
from surgery.layouts.product import reproducible_product
from surgery.variants import Affine, Fit, Kind, Sources, Variant

Array = npt.NDArray[Any]
Action = Literal["rewrite", "add", "drop"]
Config = dict[str, Any]
Projection = Literal["query", "key", "value"]
_STRONGEST: tuple[Kind, ...] = ("affine", "constant", "none")


@dataclass(frozen=True)
class TensorChange:
    """One tensor of the result that differs from the source: rewritten, added or dropped."""

    action: Action
    name: str
    block: int
    role: Role | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Block:
    """Reads a block's tensors by role.

    `present` holds the names that the checkpoint stores; `config` is its config.json, for layouts.
    """

    family: Family
    dimensions: Dimensions
    index: int
    present: Container[str]
    read_tensor: Callable[[str], Array]
    config: Mapping[str, Any] = field(default_factory=dict)

    def change(self, action: Action, role: Role) -> TensorChange:
        """The change of the block's tensor of that role, which may not be stored."""
        rule = self.family.rule(role)
        assert rule is not None
        return self.change_of(action, rule)

    def change_of(self, action: Action, rule: TensorRule) -> TensorChange:
        """The change of the block's tensor of that rule."""
        assert rule.shape is not None
        shape = tuple(self.dimensions.sizes[size] for size in rule.shape)
        return TensorChange(
            action, rule.name.format(block=self.index), self.index, rule.role, shape
        )

    def name(self, role: Role) -> str:
        return self.family.name(role, self.index)

    def has(self, role: Role) -> bool:
        return self.family.rule(role) is not None and self.name(role) in self.present

    def read(self, role: Role) -> Array:
        return self.read_tensor(self.name(role))

    def stored(self, part: Projection, what: Literal["weight", "bias"]) -> Role:
        """The role of the tensor that holds the weights or biases of queries, keys or values."""
        name: Any = f"{'query_key_value' if self.family.fused else part}_{what}"
        role: Role = name
        return role

    @property
    def clip(self) -> float | None:
        """The bound that the model clips queries, keys and values to, if it does."""
        value = self.config.get(self.family.clip) if self.family.clip else None
        if value is not None and (type(value) not in (int, float) or not 0 < value < math.inf):
            what, got = f"{self.family.clip!r} is not a number above 0", repr(value)[:50]
            raise CheckpointError(what, where="config.json", got=got)
        return value

    @property
    def qk_norm(self) -> Literal["head", "all"] | None:
        """How the model normalizes queries and keys, as `Family.qk_norm`."""
        return self.family.qk_norm if self.has("query_norm") else None

    @property
    def is_capped(self) -> bool:
        """Whether scores are bent to a bound, so that none can lead by enough."""
        key = self.family.score_cap
        return key is not None and self.config.get(key, 0) is not None  # 0: the library's default

    @property
    def lacks_positions(self) -> bool:
        """Whether the block has no rotary positions, where others have some."""
        absent = self.family.rotary.absent if self.family.rotary else None
        if absent is None:
            return False
        entries = absent.entries(self.config, self.dimensions.num_blocks)
        return bool(entries[self.index] == absent.absent)

    def per_head(self, array: Array) -> Array:
        """[heads h, …] → [heads, h, …], a view: of query heads, or of key/value heads."""
        return array.reshape(-1, self.dimensions.head_size, *array.shape[1:])

    def parts(self, role: Role, array: Array) -> dict[Projection, Array]:
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


@dataclass(frozen=True)
class BlockEdit:
    """`variants` maps each edited query head to its variant, ascending by head.

    `scrubbed`: whether numbers that the edit makes useless become zero, too.
    """

    block: int
    dimensions: Dimensions
    variants: Mapping[int, Variant]
    scrubbed: bool = True

    @property
    def whole(self) -> bool:
        """Whether every head is edited, so that no attention is left."""
        return len(self.variants) == self.dimensions.num_heads

    @property
    def bare(self) -> bool:
        """Whether the block adds nothing at all, not even its output bias."""
        return self.whole and self.kind == "none"

    @property
    def heads(self) -> list[int]:
        return list(self.variants)

    @property
    def groups(self) -> list[range]:
        """The query heads of each key/value head."""
        each = self.dimensions.heads_per_group
        return [range(first, first + each) for first in range(0, self.dimensions.num_heads, each)]

    @property
    def kind(self) -> Kind:
        """What the edited heads add together."""
        kinds = {variant.kind for variant in self.variants.values()}
        return next(kind for kind in _STRONGEST if kind in kinds)

    @property
    def fitted(self) -> bool:
        """Whether calibration text is needed."""
        return any(variant.fitted for variant in self.variants.values())

    def of_kind(self, kind: Kind, heads: Iterable[int]) -> list[int]:
        """Returns those of `heads` that a variant of that kind edits."""
        return [h for h in heads if h in self.variants and kind == self.variants[h].kind]

    def affine(self, sources: Sources) -> Affine:
        """The maps of all heads of the block, zero for those that are not edited."""
        maps = {variant.name: variant.affine(sources) for variant in set(self.variants.values())}
        if self.whole and len(maps) == 1:
            return next(iter(maps.values()))
        weight = bias = None
        for head, variant in self.variants.items():
            found = maps[variant.name]
            if found.weight is not None:
                weight = np.zeros(sources.weight.shape) if weight is None else weight
                weight[head] = found.weight[head]
            if found.bias is not None:
                bias = np.zeros(sources.weight.shape[:2]) if bias is None else bias
                bias[head] = found.bias[head]
        return Affine(weight, bias)


Edits = Mapping[int, BlockEdit]
Names = Collection[str]
