"""What a layout is: a way to store (M, c) in a checkpoint."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from surgery.errors import UnsupportedError
from surgery.families import Dimensions, Family, Role
from surgery.layouts.block import Array, Block
from surgery.layouts.edit import BlockEdit
from surgery.layouts.one_hot import OneHot
from surgery.variants import Fit


@dataclass(frozen=True)
class Change:
    """One tensor of the result that differs from the source: rewritten, added or dropped."""

    action: Literal["rewrite", "add", "drop"]
    name: str
    block: int
    role: Role
    shape: tuple[int, ...]


class Stored(Protocol):
    """What a source stores: `surgery.checkpoint.inventory.Inventory`."""

    @property
    def family(self) -> Family: ...
    @property
    def dimensions(self) -> Dimensions: ...
    @property
    def infos(self) -> Mapping[str, Any]: ...


class Layout(Protocol):
    """A layout: one module per layout provides these names.

    `config`: the source's config.json. Of the source's tensors only `compute` reads any.
    """

    @property
    def NAME(self) -> str: ...

    def refusal(
        self, block: Block, edit: BlockEdit, config: dict[str, Any], /
    ) -> UnsupportedError | None:
        """Why the layout cannot hold such an edit exactly; None when it can."""

    def one_hot(self, block: Block, edit: BlockEdit, config: dict[str, Any], /) -> OneHot | None:
        """The constant queries and keys that the layout uses for such an edit, if any."""

    def changes(
        self, block: Block, edit: BlockEdit, one_hot: OneHot | None, /
    ) -> tuple[Change, ...]:
        """Which tensors of a block change, from names and shapes alone."""

    def with_switched(self, changes: Sequence[Change], inventory: Stored, /) -> tuple[Change, ...]:
        """The changes of all blocks, and what else they bring with them in any block."""

    def compute(
        self,
        change: Change,
        block: Block,
        edit: BlockEdit,
        fit: Fit | None,
        one_hot: OneHot | None,
        /,
    ) -> Array:
        """A tensor's new content, in its stored dtype or in float64, for the caller to cast.

        Computed again from a tensor that it has rewritten, it changes nothing: so a result is
        proved without its source.
        """

    def config(
        self,
        config: dict[str, Any],
        family: Family,
        edits: Mapping[int, BlockEdit],
        added: Collection[str],
        /,
    ) -> dict[str, Any]:
        """The result's config.json, as a new dict. `added`: the names of added tensors."""

    def source_config(
        self,
        config: dict[str, Any],
        family: Family,
        edits: Mapping[int, BlockEdit],
        added: Collection[str],
        /,
    ) -> dict[str, Any]:
        """What `config` was made from, as a new dict, as far as the layout needs to know it."""
