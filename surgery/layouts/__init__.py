"""Ways to store (M, c) in a checkpoint, one file each. A new one is a new file and a line here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from surgery.errors import UnsupportedError
from surgery.families import Family
from surgery.layouts import compact, stock
from surgery.layouts.block import Array, Block, BlockEdit, Config, Edits, Names, TensorChange
from surgery.layouts.one_hot import OneHot
from surgery.variants import Fit

__all__ = ["LAYOUTS", "Block", "BlockEdit", "Layout", "OneHot", "TensorChange", "layout_of"]


class Layout(Protocol):
    """A layout: one module per layout provides these names. Only `compute` reads tensors."""

    NAME: str

    def check(self, block: Block, edit: BlockEdit, /) -> None:
        """Raises `UnsupportedError` unless the layout can hold such an edit exactly."""

    def one_hot(self, block: Block, edit: BlockEdit, /) -> OneHot | None:
        """The constant queries and keys that the layout uses for such an edit, if any."""

    def changes(self, edits: Sequence[tuple[Block, BlockEdit]], /) -> tuple[TensorChange, ...]:
        """Which tensors change in these blocks, and in others because of them."""

    def compute(
        self, change: TensorChange, block: Block, edit: BlockEdit, fit: Fit | None, /
    ) -> Array:
        """A tensor's new content, in its stored dtype or in float64, for the caller to cast.

        Computed again from a tensor that it has rewritten, it changes nothing: so a result is
        proved without its source.
        """

    def config(self, config: Config, family: Family, edits: Edits, added: Names, /) -> Config:
        """The result's config.json, as a new dict. `added`: the names of added tensors."""

    def source_config(
        self, config: Config, family: Family, edits: Edits, added: Names, /
    ) -> Config:
        """What `config` was made from, as a new dict, as far as the layout needs to know it."""


_ALL: tuple[Layout, ...] = (stock, compact)
LAYOUTS: dict[str, Layout] = {layout.NAME: layout for layout in _ALL}


def layout_of(name: str) -> Layout:
    """The layout of that name."""
    if name not in LAYOUTS:
        raise UnsupportedError(f"unknown layout {name!r}", expected=" or ".join(LAYOUTS))
    return LAYOUTS[name]
