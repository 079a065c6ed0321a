"""Ways to store an attention-free block, one file each. A new one is a new file and a line here."""

from __future__ import annotations

from surgery.errors import UnsupportedError
from surgery.layouts import compact, stock
from surgery.layouts.block import Block
from surgery.layouts.change import Change, Layout
from surgery.layouts.edit import BlockEdit
from surgery.layouts.one_hot import OneHot

__all__ = ["LAYOUTS", "Block", "BlockEdit", "Change", "Layout", "OneHot", "layout_of"]

_ALL: tuple[Layout, ...] = (stock, compact)
LAYOUTS: dict[str, Layout] = {layout.NAME: layout for layout in _ALL}


def layout_of(name: str) -> Layout:
    """The layout of that name. Raises `UnsupportedError` for an unknown one."""
    if name not in LAYOUTS:
        raise UnsupportedError(f"unknown layout {name!r}", expected=" or ".join(LAYOUTS))
    return LAYOUTS[name]
