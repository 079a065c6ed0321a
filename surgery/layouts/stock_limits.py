"""What the stock layout can hold of an edit, and why it cannot hold the rest."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from surgery.errors import MarginError, UnsupportedError
from surgery.families import Dimensions, Family, Role
from surgery.families.rotary import rotary_positions
from surgery.layouts.block import Block
from surgery.layouts.edit import BlockEdit
from surgery.layouts.frequencies import frequencies
from surgery.layouts.one_hot import OneHot, find_cast_context
from surgery.layouts.one_hot import one_hot as find_one_hot
from surgery.layouts.storage import Storage, store

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
    held = storage_of(block, edit, _margin_or_none(block, config))
    if held.constants and not _has(family, "output_bias"):
        return UnsupportedError(
            f"{family.title} has no output bias, which the constant of {_heads(block, held)} needs",
            fix=_whole_groups(edit) or _FIX,
        )
    return None


def _affine_refusal(
    block: Block, edit: BlockEdit, config: dict[str, Any]
) -> UnsupportedError | None:
    family = block.family
    if family.rotary is None or not _has(family, block.stored("query", "bias")):
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
    if block.family.rotary is None or not _has(block.family, block.stored("query", "bias")):
        return None
    try:
        return _find(block, config)
    except MarginError:
        return None


def one_hot(block: Block, edit: BlockEdit, config: dict[str, Any]) -> OneHot | None:
    found = _margin_or_none(block, config)
    return found if storage_of(block, edit, found).alone else None


def cast_context(block: Block, config: dict[str, Any]) -> int:
    """The longest context in which the constants hold once a loaded model is cast."""
    return _find_both(block, config)[1]


def _find(block: Block, config: dict[str, Any]) -> OneHot:
    return _find_both(block, config)[0]


def _find_both(block: Block, config: dict[str, Any]) -> tuple[OneHot, int]:
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
    given: tuple[float, ...], size: Dimensions, growth: float, limit: float | None, scale: float
) -> tuple[OneHot, int]:
    theta, head = np.asarray(given), size.head_size
    found = find_one_hot(theta, head, size.max_positions, growth=growth, limit=limit, scale=scale)
    return found, find_cast_context(found, theta, head, growth**2 * scale)


def storage_of(block: Block, edit: BlockEdit, one_hot: OneHot | None) -> Storage:
    """Where the block's maps and constants go, with or without one-hot attention."""
    return store(edit, one_hot=one_hot is not None, all_together=block.family.qk_norm is not None)


def _has(family: Family, role: Role) -> bool:
    return family.rule(role) is not None
