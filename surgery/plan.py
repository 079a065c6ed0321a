"""What an export will do, decided before a single weight is read.

A plan is made from the configuration and the stored tensors' names, dtypes and shapes alone. It is
what `--dry-run` prints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from surgery.checkpoint.inventory import Inventory, make_inventory, take_inventory
from surgery.checkpoint.tensors import Array, TensorInfo
from surgery.errors import UnsupportedError
from surgery.families import Dimensions, Family, config_saved_as
from surgery.families.rotary import spell_both
from surgery.layouts import Block, BlockEdit, Layout, OneHot, TensorChange, layout_of
from surgery.selection import (
    EditedHeads,
    Selection,
    blocks_of,
    checked,
    format_selection,
    parse_selection,
    variant_name,
    variants_by_head,
)
from surgery.variants import Fit, variant_of

LayoutChoice = Literal["auto", "stock", "compact"]
Heads = Mapping[int, Mapping[int, str]]
"""Block → head → what an earlier edit has made of it."""


@dataclass(frozen=True)
class Plan:
    """A decided edit.

    `reason` says why `auto` chose this layout. `config` is the config.json of the result. `changes`
    lists every tensor that differs from the source; all others are copied byte by byte. `scrubbed`:
    as for `BlockEdit`.
    """

    family: Family
    selection: Selection
    layout: Layout
    reason: str
    edits: Mapping[int, BlockEdit]
    changes: tuple[TensorChange, ...]
    config: dict[str, Any]
    inventory: Inventory
    scrubbed: bool = True

    @property
    def blocks(self) -> tuple[int, ...]:
        """The blocks that are edited, whole or in part, ascending."""
        return blocks_of(self.selection)

    @property
    def spec(self) -> str:
        """The blocks and heads, as they are typed."""
        return format_selection(self.selection, self.inventory.dimensions.num_heads)

    @property
    def one_hots(self) -> dict[int, OneHot]:
        """Block → the constants of its queries and keys, where it has some."""
        edits = ((_block(self.inventory, index), edit) for index, edit in self.edits.items())
        found = {block.index: self.layout.one_hot(block, edit) for block, edit in edits}
        return {index: one_hot for index, one_hot in found.items() if one_hot is not None}

    @property
    def one_hot(self) -> OneHot | None:
        """The constants that leave the narrowest margin, among those of all blocks."""
        return min(self.one_hots.values(), key=lambda hot: hot.gap - hot.required, default=None)

    @property
    def fitted(self) -> tuple[int, ...]:
        """The blocks for which calibration text is needed, ascending."""
        return tuple(block for block, edit in self.edits.items() if edit.fitted)

    @property
    def rewritten(self) -> tuple[str, ...]:
        """Names of the tensors that are rewritten or added."""
        return tuple(change.name for change in self.changes if change.action != "drop")

    @property
    def dropped(self) -> tuple[str, ...]:
        return tuple(change.name for change in self.changes if change.action == "drop")

    @property
    def result(self) -> Inventory:
        """The inventory of the result."""
        infos, dtype = dict(self.inventory.infos), self.inventory.dtype
        for change in self.changes:
            infos.pop(change.name, None)
            if change.action != "drop":
                infos[change.name] = TensorInfo(change.name, dtype, change.shape)
        return make_inventory(self.config, infos)

    def compute(
        self, change: TensorChange, read: Callable[[str], Array], fits: Mapping[int, Fit]
    ) -> Array:
        """The new content of a changed tensor, not yet cast to the checkpoint's dtype.

        `read` gives the source's tensors by name, `fits` what was fitted, by block.
        """
        block = _block(self.inventory, change.block, read)
        edit, fit = self.edits.get(change.block), fits.get(change.block)
        if edit is None:  # what an edit elsewhere brings with it changes no sum in any bit
            return np.full(change.shape, -0.0)
        return self.layout.compute(change, block, edit, fit)


def make_plan(
    inventory: Inventory,
    drop_attn: str | Selection,
    *,
    variant: str = "identity",
    layout: str = "auto",
    earlier: Heads | None = None,
    save_as: str | None = None,
    scrubbed: bool = True,
) -> Plan:
    """Decides an edit.

    **Arguments:**

    - `drop_attn`: a specification of blocks and heads (`surgery.selection.parse_selection`), which
      get `variant`, or a selection, in which every part has a variant of its own.
    - `layout`: `auto` takes stock where it can hold the edit exactly, else compact.
    - `earlier`: heads that an earlier edit has changed. Editing others composes; editing one of
      these again is refused.

    - `save_as`: another model type with the same tensors, which the result will be of.
    - `scrubbed`: also make zero what the edit makes useless. Only to repeat an edit of an earlier
      version, do not.
    """
    config = config_saved_as(inventory.config, save_as)
    if config is not inventory.config:
        inventory = take_inventory(config, inventory.infos)
    selection = selected(drop_attn, variant, inventory.dimensions)
    edits = block_edits(selection, inventory.dimensions, scrubbed=scrubbed)
    _check_not_edited(edits, earlier or {}, inventory)
    where, reason = _choose(layout, inventory, edits.values())
    changes = where.changes([(_block(inventory, index), edit) for index, edit in edits.items()])
    added = [change.name for change in changes if change.action == "add"]
    return Plan(
        family=inventory.family,
        selection=selection,
        layout=where,
        reason=reason,
        edits=edits,
        changes=changes,
        config=spell_both(
            where.config(inventory.config, inventory.family, edits, added), inventory.family.rotary
        ),
        inventory=inventory,
        scrubbed=scrubbed,
    )


def check_trainable(inventory: Inventory) -> None:
    """Raises `UnsupportedError` for quantized weights, which training could not be written to."""
    if inventory.is_quantized:
        raise UnsupportedError(
            "weights are quantized, and training cannot be stored in them",
            where="config.json",
            fix="start from the unquantized model, and quantize the result without its attention",
        )


def check_erasable(inventory: Inventory) -> None:
    """Raises `UnsupportedError` for a model in the compact layout, or with quantized weights."""
    check_trainable(inventory)
    if inventory.is_compact:
        raise UnsupportedError(
            "a model in the compact layout cannot be erased",
            fix="erase the original, then cut the result",
        )


def make_empty_plan(inventory: Inventory) -> Plan:
    """Decides to change nothing: the plan of a model that is only trained. Raises as
    `check_trainable`.
    """
    check_trainable(inventory)
    layout = layout_of("compact" if inventory.is_compact else "stock")
    config = spell_both(inventory.config, inventory.family.rotary)
    return Plan(inventory.family, (), layout, "nothing is cut", {}, (), config, inventory)


def describe_edit(plan: Plan) -> dict[str, Any]:
    """What is done, and how it is stored, as plain JSON values."""
    return {
        "family": plan.family.model_type,
        "variant": variant_name(plan.selection),
        "layout": plan.layout.NAME,
        "blocks": list(plan.blocks),
        "parts": [asdict(part) for part in plan.selection],
        "one_hot": None if plan.one_hot is None else asdict(plan.one_hot),
    }


def plan_as_json(plan: Plan) -> dict[str, Any]:
    """What `export --dry-run` prints."""
    return {
        **describe_edit(plan),
        "reason": plan.reason,
        "num_blocks": plan.inventory.dimensions.num_blocks,
        "dtype": plan.inventory.dtype,
        "rewritten": list(plan.rewritten),
        "changes": [
            {key: value for key, value in asdict(change).items() if key != "role"}
            for change in plan.changes
        ],
    }


def selected(drop_attn: str | Selection, variant: str, size: Dimensions) -> Selection:
    """The selection that a specification or a selection names, checked against a model's size."""
    if isinstance(drop_attn, str):
        return parse_selection(drop_attn, variant, size.num_blocks, size.num_heads, size.num_groups)
    return checked(drop_attn, size.num_blocks, size.num_heads)


def block_edits(
    selection: Iterable[EditedHeads], dimensions: Dimensions, *, scrubbed: bool = True
) -> dict[int, BlockEdit]:
    """Block → its edit, ascending."""
    return {
        block: BlockEdit(
            block, dimensions, {head: variant_of(name) for head, name in heads.items()}, scrubbed
        )
        for block, heads in variants_by_head(selection).items()
    }


def _choose(layout: str, inventory: Inventory, edits: Iterable[BlockEdit]) -> tuple[Layout, str]:
    blocks = [(_block(inventory, edit.block), edit) for edit in edits]

    def check(layout: Layout) -> None:
        for block, edit in blocks:
            layout.check(block, edit)

    chosen = layout_of("stock" if layout == "auto" else layout)
    try:
        check(chosen)
    except UnsupportedError as refusal:
        if layout != "auto":
            raise
        compact = layout_of("compact")
        try:
            check(compact)
        except UnsupportedError as neither:
            raise UnsupportedError(
                f"no layout holds this edit: {refusal.what}; and {neither.what}",
                fix="name whole blocks, or take `variant=zero` or mean for single heads"
                if "layout=compact" in (refusal.fix or "")
                else refusal.fix,
            ) from None
        return compact, f"the stock layout cannot: {refusal.what}"
    reason = "it holds the edit exactly in the unchanged architecture"
    return chosen, reason if layout == "auto" else "asked for"


def _check_not_edited(edits: Mapping[int, BlockEdit], earlier: Heads, inventory: Inventory) -> None:
    for block, edit in edits.items():
        gone = inventory.compact_blocks.get(block)
        before = earlier.get(block, {})
        again = [head for head in edit.heads if head in before]
        if gone is None and not again:
            continue
        how = ", ".join(sorted(set(before.values()))) or gone
        if gone is not None or len(before) == inventory.dimensions.num_heads:
            what = f"block {block} is already attention-free ({how})"
        else:
            what = f"head {again[0]} of block {block} is already edited ({how})"
        raise UnsupportedError(
            what, fix="name other blocks to add to the earlier edit, or start from the original"
        )


def _reads_nothing(name: str) -> Array:
    raise AssertionError(f"a plan reads no tensor, but {name} was asked for")


def _block(
    inventory: Inventory, index: int, read: Callable[[str], Array] = _reads_nothing
) -> Block:
    found = inventory
    return Block(found.family, found.dimensions, index, found.infos, read, found.config)
