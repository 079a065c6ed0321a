"""Where the response of each head in each variant is kept, and which of them make up an edit."""

from __future__ import annotations

from dataclasses import dataclass

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
