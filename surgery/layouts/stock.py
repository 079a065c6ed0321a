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
from functools import lru_cache
from typing import Any

import numpy as np

from surgery.errors import MarginError, UnsupportedError
from surgery.families import Dimensions, Family, Role, Switch
from surgery.families.rotary import rotary_positions
from surgery.layouts.block import Array, Block, Part
from surgery.layouts.change import Change, Stored
from surgery.layouts.edit import BlockEdit
from surgery.layouts.frequencies import frequencies
from surgery.layouts.one_hot import OneHot
from surgery.layouts.one_hot import one_hot as find_one_hot
from surgery.layouts.storage import Storage, store
from surgery.variants import Affine, Fit

NAME = "stock"
_FIX = "use `layout=compact`, or `variant=zero`"
_NORMED = 0.98
"""What is left of a constant that a norm has rounded three times more in bfloat16, at least."""


def refusal(block: Block, edit: BlockEdit, config: dict[str, Any]) -> UnsupportedError | None:
    """The reason, with what to do, why the unchanged architecture cannot hold the edit."""
    family = block.family
    if config["model_type"] == family.compact_model_type:
        return UnsupportedError(
            "the source is a compact checkpoint, which needs its own modeling file in any case",
            fix="use `layout=compact`",
        )
    if edit.kind == "affine":
        refused = _affine_refusal(block, edit, config)
        if refused is not None:
            return refused
    held = _storage(block, edit, _margin_or_none(block, config))
    if held.constants and not family.has("output_bias"):
        return UnsupportedError(
            f"{family.title} has no output bias, which the constant of {_heads(block, held)} needs",
            fix=_whole_groups(edit) or _FIX,
        )
    return None


def _affine_refusal(
    block: Block, edit: BlockEdit, config: dict[str, Any]
) -> UnsupportedError | None:
    family = block.family
    if family.rotary is None or not family.has(block.stored("query", "bias")):
        lacks = "query and key biases" if family.rotary else "rotary positions"
        return UnsupportedError(
            f"{family.title} has no {lacks}, so its own architecture cannot make a token attend to "
            "itself alone",
            fix=_saved_as(family) or _FIX + ("" if family.rotary else " or mean"),
        )
    if family.qk_norm is not None and not edit.whole:
        return UnsupportedError(
            f"all heads of block {edit.block} share the norm of queries and keys, and some still "
            "attend",
            fix=f"name the whole block, {edit.block}, or take `variant=zero` or mean",
        )
    groups = [heads for heads in edit.groups if edit.of_kind("affine", heads)]
    for heads in groups:
        left = [head for head in heads if head not in edit.variants]
        if left:
            named = next(iter(edit.of_kind("affine", heads)))
            return UnsupportedError(
                f"head {edit.block}.{named} shares its keys and values with head "
                f"{edit.block}.{left[0]}, which still attends",
                fix=_whole_groups(edit),
            )
        names = {edit.variants[head].NAME for head in edit.of_kind("affine", heads)}
        if len(names) > 1:
            return UnsupportedError(
                f"heads of group {edit.block}.g{edit.groups.index(heads)} share one map, and "
                f"cannot be {' and '.join(sorted(names))} at once",
                fix="give all of them one variant",
            )
    clip = config.get(family.clip) if family.clip else None
    if clip is not None and any(v.KIND == "affine" and v.FITTED for v in edit.variants.values()):
        return UnsupportedError(
            f"the model clips values to {clip}, and would clip what was fitted",
            fix="use `layout=compact`, or another variant",
        )
    try:
        _find(block, config)
    except MarginError as error:
        return error
    return None


def _saved_as(family: Family) -> str | None:
    """What another class with the same tensors could hold."""
    if not family.saved_as:
        return None
    return f"save it as {family.saved_as[0]} (`save_as={family.saved_as[0]}`), or {_FIX}"


def _whole_groups(edit: BlockEdit) -> str | None:
    """The groups to name in place of single query heads; None where every head is one."""
    named = [g for g, heads in enumerate(edit.groups) if set(heads) & set(edit.variants)]
    if len(edit.groups) == edit.num_heads:
        return None
    groups = ",".join(f"{edit.block}.g{group}" for group in named)
    return f"name the whole group, {groups}, or take `variant=zero`"


def _heads(block: Block, held: Storage) -> str:
    return f"head {block.index}.{held.constants[0]}"


def _margin_or_none(block: Block, config: dict[str, Any]) -> OneHot | None:
    """The constants that the block's queries and keys would get, where they can be held at all."""
    if block.family.rotary is None or not block.family.has(block.stored("query", "bias")):
        return None
    try:
        return _find(block, config)
    except MarginError:
        return None


def one_hot(block: Block, edit: BlockEdit, config: dict[str, Any]) -> OneHot | None:
    found = _margin_or_none(block, config)
    return found if _storage(block, edit, found).alone else None


def _find(block: Block, config: dict[str, Any]) -> OneHot:
    family, size = block.family, block.dimensions
    assert family.rotary is not None
    kind = family.rotary.layer_type(config, block.index)
    positions = rotary_positions(config, family.rotary, size.head_size, kind)
    theta, growth = frequencies(positions, family.rotary)
    limit = config.get(family.clip) if family.clip else None
    scale = 1.0 if family.qk_norm is None else _NORMED
    return _remembered(tuple(theta.tolist()), size, growth, limit, scale)


@lru_cache
def _remembered(
    theta: tuple[float, ...], size: Dimensions, growth: float, limit: float | None, scale: float
) -> OneHot:
    return find_one_hot(
        np.asarray(theta),
        size.head_size,
        size.max_positions,
        growth=growth,
        limit=limit,
        scale=scale,
    )


def _storage(block: Block, edit: BlockEdit, one_hot: OneHot | None) -> Storage:
    return store(edit, one_hot=one_hot is not None, all_together=block.family.qk_norm is not None)


def changes(block: Block, edit: BlockEdit, one_hot: OneHot | None) -> tuple[Change, ...]:
    held = _storage(block, edit, one_hot)
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
    held = _storage(block, edit, one_hot)
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
