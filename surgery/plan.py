"""What an export will do, decided before a single weight is read.

A plan is made from the configuration and the stored tensors' names, dtypes and shapes alone. It is
what `--dry-run` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from surgery.blocks import parse_blocks
from surgery.checkpoint.tensors import Array
from surgery.errors import UnsupportedError
from surgery.families import Family
from surgery.inventory import Inventory
from surgery.layouts import Block, Change, Layout, OneHot, Target, layout_of
from surgery.variants import Kind, Variant, variant_of

LayoutChoice = Literal["auto", "stock", "compact"]


@dataclass(frozen=True)
class Plan:
    """A decided edit.

    `reason` says why `auto` chose this layout. `config` is the config.json of the result. `changes`
    lists every tensor that differs from the source; all others are copied byte by byte.
    """

    family: Family
    variant: Variant
    layout: Layout
    reason: str
    blocks: tuple[int, ...]
    one_hot: OneHot | None
    changes: tuple[Change, ...]
    config: dict[str, Any]
    inventory: Inventory

    @property
    def rewritten(self) -> tuple[str, ...]:
        """Names of the tensors that are rewritten or added."""
        return tuple(change.name for change in self.changes if change.action != "drop")

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(change.name for change in self.changes if change.action == "drop")

    def block(self, index: int, read: Callable[[str], Array]) -> Block:
        """A block of the source whose tensors come from `read`."""
        inventory = self.inventory
        return Block(
            inventory.family, inventory.dimensions, index, frozenset(inventory.infos), read
        )

    def compute(self, change: Change, read: Callable[[str], Array]) -> Array:
        """The new content of a changed tensor, not yet cast to the checkpoint's dtype."""
        block = self.block(change.block, read)
        return self.layout.compute(change, block, self.variant, self.one_hot)

    def to_json(self) -> dict[str, Any]:
        return {
            "family": self.family.model_type,
            "variant": self.variant.NAME,
            "layout": self.layout.NAME,
            "reason": self.reason,
            "blocks": list(self.blocks),
            "num_blocks": self.inventory.dimensions.num_blocks,
            "dtype": self.inventory.dtype,
            "one_hot": None if self.one_hot is None else self.one_hot.to_json(),
            "changes": [
                {key: value for key, value in asdict(change).items() if key != "role"}
                for change in self.changes
            ],
        }


def make_plan(
    inventory: Inventory,
    drop_attn: str,
    *,
    variant: str = "identity",
    layout: str = "auto",
    attention_free: Mapping[int, str] | None = None,
) -> Plan:
    """Decides an edit.

    **Arguments:**

    - `drop_attn`: block specification, see `surgery.blocks.parse_blocks`.
    - `layout`: `auto` takes stock where it can hold the variant exactly, else compact.
    - `attention_free`: blocks that an earlier edit has made attention-free → its variant. Editing
      others composes; editing one of these again is refused.

    **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    blocks = parse_blocks(drop_attn, inventory.dimensions.num_blocks)
    _check_not_edited(blocks, attention_free or {}, inventory)
    chosen = variant_of(variant)
    target = _target(inventory, blocks)
    where, reason = _choose(layout, target, chosen.KIND)
    present = frozenset(inventory.infos)
    changes: list[Change] = []
    for index in blocks:
        block = Block(target.family, target.dimensions, index, present, _reads_nothing)
        changes += where.changes(block, chosen.KIND)
    kinds: dict[int, Kind] = dict.fromkeys(blocks, chosen.KIND)
    return Plan(
        family=inventory.family,
        variant=chosen,
        layout=where,
        reason=reason,
        blocks=blocks,
        one_hot=where.one_hot(target, chosen.KIND),
        changes=tuple(changes),
        config=where.config(inventory.config, inventory.family, kinds),
        inventory=inventory,
    )


def _choose(layout: str, target: Target, kind: Kind) -> tuple[Layout, str]:
    if layout != "auto":
        chosen = layout_of(layout)
        refusal = chosen.refusal(target, kind)
        if refusal is not None:
            raise refusal
        return chosen, "asked for"
    refusal = layout_of("stock").refusal(target, kind)
    if refusal is None:
        return layout_of("stock"), "it holds the variant exactly in the unchanged architecture"
    return layout_of("compact"), f"the stock layout cannot: {refusal.what}"


def _check_not_edited(
    blocks: tuple[int, ...], attention_free: Mapping[int, str], inventory: Inventory
) -> None:
    edited = {**inventory.compact_blocks, **attention_free}
    for block in blocks:
        if block in edited:
            raise UnsupportedError(
                f"block {block} is already attention-free ({edited[block]})",
                fix="name other blocks to add to the earlier edit, or start from the original",
            )


def _target(inventory: Inventory, blocks: tuple[int, ...]) -> Target:
    block = Block(
        inventory.family,
        inventory.dimensions,
        blocks[0],
        frozenset(inventory.infos),
        _reads_nothing,
    )
    return Target(
        family=inventory.family,
        dimensions=inventory.dimensions,
        config=inventory.config,
        is_compact=inventory.is_compact,
        has_attention_bias=block.has("output_bias"),
    )


def _reads_nothing(name: str) -> Array:
    raise AssertionError(f"a plan reads no tensor, but {name} was asked for")
