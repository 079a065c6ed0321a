"""What is asked of one block: which of its heads are edited, and how each one is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from surgery.variants import Affine, Kind, Sources, Variant

_STRONGEST: tuple[Kind, ...] = ("affine", "constant", "none")


@dataclass(frozen=True)
class BlockEdit:
    """`variants` maps each edited query head to its variant, ascending by head.

    `num_groups`: key/value heads, each shared by as many query heads (0: each has its own).
    """

    block: int
    num_heads: int
    variants: Mapping[int, Variant]
    num_groups: int = 0

    @property
    def whole(self) -> bool:
        """Whether every head is edited, so that no attention is left."""
        return len(self.variants) == self.num_heads

    @property
    def heads(self) -> list[int]:
        return list(self.variants)

    @property
    def groups(self) -> list[range]:
        """The query heads of each key/value head."""
        each = self.num_heads // (self.num_groups or self.num_heads)
        return [range(first, first + each) for first in range(0, self.num_heads, each)]

    @property
    def kind(self) -> Kind:
        """What the edited heads add together."""
        kinds = {variant.KIND for variant in self.variants.values()}
        return next(kind for kind in _STRONGEST if kind in kinds)

    @property
    def fitted(self) -> bool:
        """Whether calibration text is needed."""
        return any(variant.FITTED for variant in self.variants.values())

    def of_kind(self, kind: Kind, heads: Iterable[int]) -> list[int]:
        """Those of `heads` that are edited by a variant of that kind."""
        return [h for h in heads if h in self.variants and kind == self.variants[h].KIND]

    def affine(self, sources: Sources) -> Affine:
        """The maps of all heads of the block, zero for those that are not edited.

        b_O goes only with a whole block that adds nothing.
        """
        keep = not (self.whole and self.kind == "none")
        maps = {variant.NAME: variant.affine(sources) for variant in set(self.variants.values())}
        if self.whole and len(maps) == 1:
            (only,) = maps.values()
            return Affine(only.weight, only.bias, keep)
        weight = bias = None
        if any(found.weight is not None for found in maps.values()):
            weight = np.zeros(sources.weight.shape)
        if any(found.bias is not None for found in maps.values()):
            bias = np.zeros(sources.weight.shape[:2])
        for head, variant in self.variants.items():
            found = maps[variant.NAME]
            if weight is not None and found.weight is not None:
                weight[head] = found.weight[head]
            if bias is not None and found.bias is not None:
                bias[head] = found.bias[head]
        return Affine(weight, bias, keep)
