"""Stored responses of each head in each variant.

Shape letters: U units, D draws, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from surgery.families import Dimensions
from surgery.plan import block_edits
from surgery.selection import Selection


@dataclass(frozen=True)
class Units:
    """Every head of `blocks` with every one of `variants`, and each block's output bias.

    The bias is there because a whole block that adds nothing loses it, too. The units of a block
    stand side by side: head by head its variants, then the bias.
    """

    dimensions: Dimensions
    blocks: tuple[int, ...]
    variants: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.blocks) * self.per_block

    @property
    def per_block(self) -> int:
        return self.dimensions.num_heads * len(self.variants) + 1

    def of(self, selection: Selection) -> list[int]:
        """The units whose responses add up to that of an edit, ascending.

        Raises `ValueError` for a block or variant that is not among the units.
        """
        found = []
        for block, edit in block_edits(selection, self.dimensions).items():
            first = self.blocks.index(block) * self.per_block
            for head, variant in edit.variants.items():
                found.append(first + head * len(self.variants) + self.variants.index(variant.NAME))
            if edit.whole and edit.kind == "none":
                found.append(first + self.per_block - 1)
        return found


@dataclass(frozen=True, eq=False)
class Responses:
    """How a scalar of a text answers to every unit, to first order.

    `values`: float32 [U, D, N]. `scale` makes a figure of the mean square, see
    `evals.response.texts`. Responses add, so the figure of a set is that of their sum.
    """

    units: Units
    values: npt.NDArray[np.float32]
    scale: float
