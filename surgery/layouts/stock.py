"""Layout `stock`: the unchanged architecture, so the library's own class loads it.

**Heads that attend to themselves alone:** query and key rows become constants that make attention
exactly one-hot on the diagonal (see one_hot.py); the value rows hold M and c. For `identity` these
are the rows that are there already, untouched. Where queries and keys are normalized, the gain of
that norm makes the constants as large as they must be.

**Grouped heads:** a key/value head and its query heads are edited together, and share one M: the
mean of what was fitted to each of them. Their constants, which differ, are summed in one column of
the output projection, and the value that this column reads becomes 1.

**Heads that add nothing** (every family): their value rows become zero, so their context is exactly
zero; or, where other heads share the values, the output projection's columns that read them. A
whole block that adds nothing loses its output bias as well.

**Constants where attention cannot be made one-hot:** the output bias takes W_O c.

**Added biases:** where a key of config.json gives a model biases, it is switched on, and all blocks
get all of them. Those that hold nothing are -0.0, which changes no sum in any bit.

**Limits:** without query and key biases or relative positions, attention cannot be made one-hot.
Size, cache and speed stay as they were.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from surgery.families import Family, Role, Switch
from surgery.layouts.block import Array, Block, Part
from surgery.layouts.change import Change, Stored
from surgery.layouts.edit import BlockEdit
from surgery.layouts.one_hot import OneHot
from surgery.layouts.stock_limits import one_hot, refusal, storage_of
from surgery.layouts.storage import Storage
from surgery.variants import Affine, Fit

__all__ = [
    "NAME",
    "changes",
    "compute",
    "config",
    "one_hot",
    "refusal",
    "source_config",
    "with_switched",
]

NAME = "stock"


def changes(block: Block, edit: BlockEdit, one_hot: OneHot | None) -> tuple[Change, ...]:
    held = storage_of(block, edit, one_hot)
    return tuple(
        Change(
            "rewrite" if block.has(role) else "add",
            block.name(role),
            block.index,
            role,
            block.shape(role),
        )
        for role in _roles(block, edit, held)
        if block.has(role) or block.switch(role)
    )


def _roles(block: Block, edit: BlockEdit, held: Storage) -> list[Role]:
    """The roles of the tensors that hold the edit, in the order of their names in the record."""
    parts: list[Part] = []
    if held.alone:
        parts += ["query", "key"]
    fitted = (edit.variants[h] for g in held.maps for h in edit.groups[g] if h in edit.variants)
    rewritten = any(not (v.KIND == "affine" and not v.FITTED) for v in fitted)
    if block.family.fused or held.silent or held.units or rewritten:
        parts.append("value")
    roles: list[Role] = []
    for part in parts:
        weight, bias = block.stored(part, "weight"), block.stored(part, "bias")
        needed = held.alone or block.has(bias)  # a value of zero needs no bias
        roles += [weight, bias] if needed else [weight]
    if held.alone and block.family.qk_norm is not None:
        roles += ["query_norm", "key_norm"]
    if held.muted or held.units:
        roles.append("output_weight")
    if held.constants or (held.bare and block.has("output_bias")):
        roles.append("output_bias")
    return list(dict.fromkeys(roles))


def compute(
    change: Change, block: Block, edit: BlockEdit, fit: Fit | None, one_hot: OneHot | None
) -> Array:
    held = storage_of(block, edit, one_hot)
    new = block.read(change.role) if block.has(change.role) else np.full(change.shape, -0.0)
    if change.role in ("query_norm", "key_norm"):
        assert one_hot is not None
        gain = one_hot.kappa * np.sqrt(one_hot.num_pairs / block.dimensions.head_size)
        block.per_head(new)[:, : one_hot.num_pairs] = gain
        return new
    if change.role in ("output_bias", "output_weight"):
        affine = edit.affine(block.sources(fit))
        if change.role == "output_bias":
            return _output_bias(block, held, affine)
        return _output_weight(block, edit, held, affine, new)
    for part, heads in block.parts(change.role, new).items():
        if part == "value":
            _write_values(block, edit, held, heads, change, fit)
        elif held.alone:
            own = list(held.alone) if part == "key" else _heads_of(edit, held.alone)
            heads[own] = 0
            if change.role.endswith("_bias"):
                assert one_hot is not None
                kappa = one_hot.kappa if block.family.qk_norm is None else 1
                heads[own, : one_hot.num_pairs] = kappa
    return new


def _heads_of(edit: BlockEdit, groups: Sequence[int]) -> list[int]:
    return [head for group in groups for head in edit.groups[group]]


def _write_values(
    block: Block, edit: BlockEdit, held: Storage, values: Array, change: Change, fit: Fit | None
) -> None:
    """Puts M or c into `values` [G, h, …] in place, zeros and ones where they stand instead."""
    is_bias = change.role.endswith("_bias")
    values[[*held.silent, *held.units]] = 0
    if is_bias:
        values[list(held.units), 0] = 1
    affine = edit.affine(block.sources(fit)) if held.maps else Affine(None, None)
    content = affine.bias if is_bias else affine.weight
    for group in held.maps:
        heads = edit.of_kind("affine", edit.groups[group]) or list(edit.groups[group])
        if edit.variants[heads[0]].KIND == "affine" and not edit.variants[heads[0]].FITTED:
            continue  # the values that are there
        values[group] = 0 if content is None else content[heads].astype(np.float64).mean(0)


def _output_weight(
    block: Block, edit: BlockEdit, held: Storage, affine: Affine, weight: Array
) -> Array:
    """W_O [d, H h] without muted heads, and with the constants of `units` in one column each."""
    columns = weight.reshape(weight.shape[0], -1, block.dimensions.head_size)
    sums = {unit: _constant(block, edit.groups[unit], affine) for unit in held.units}
    columns[:, list(held.muted)] = 0
    for unit, column in sums.items():
        heads = edit.groups[unit]
        columns[:, list(heads), 0] = 0
        columns[:, heads[0], 0] = column
    return weight


def _output_bias(block: Block, held: Storage, affine: Affine) -> Array:
    """b_O and the constants that it takes, float64 [d]."""
    bias = np.full(block.dimensions.d, -0.0)
    if held.bare:
        return np.zeros(block.dimensions.d)
    if block.has("output_bias"):
        bias = block.read("output_bias").astype(np.float64)
    return bias + _constant(block, held.constants, affine) if held.constants else bias


def _constant(block: Block, heads: Sequence[int], affine: Affine) -> Array:
    """Σ W_O c over some heads, float64 [d]."""
    assert affine.bias is not None
    contexts = np.zeros(affine.bias.shape)
    contexts[list(heads)] = affine.bias[list(heads)]
    return block.constant(contexts)


def with_switched(changes: Sequence[Change], inventory: Stored) -> tuple[Change, ...]:
    """The changes, and the tensors that every block has once those that are added are switched on.

    `inventory`: what the source stores.
    """
    family, sizes = inventory.family, inventory.dimensions.sizes
    switches = _switched(family, [c.name for c in changes if c.action == "add"])
    named = {change.name for change in changes} | set(inventory.infos)
    return (
        *changes,
        *(
            Change("add", name, block, rule.role, tuple(sizes[size] for size in rule.shape))
            for block in range(inventory.dimensions.num_blocks)
            for rule in family.rules
            if rule.when in switches and rule.role is not None and rule.shape is not None
            if (name := rule.name.format(block=block)) not in named
        ),
    )


def config(
    config: dict[str, Any],
    family: Family,
    edits: Mapping[int, BlockEdit],
    added: Collection[str] = (),
) -> dict[str, Any]:
    return {**config, **{rule.key: rule.value for rule in _switched(family, added)}}


def source_config(
    config: dict[str, Any],
    family: Family,
    edits: Mapping[int, BlockEdit],
    added: Collection[str] = (),
) -> dict[str, Any]:
    return {**config, **{rule.key: not rule.value for rule in _switched(family, added)}}


def _switched(family: Family, added: Collection[str]) -> set[Switch]:
    """The switches of config.json that some of the tensors need."""
    matches = (family.match(name) for name in added)
    return {match[0].when for match in matches if match is not None and match[0].when is not None}
