"""What the stock layout can hold of an edit, where it puts that, and why it cannot hold the rest.

Query heads of a group share their keys and values, so a group can attend to its own token alone
only as a whole, and then all of its heads read one map. No tensor is read here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from surgery.errors import MarginError, UnsupportedError
from surgery.families import Family, Role
from surgery.families.rotary import rotary_positions
from surgery.layouts.block import Block, BlockEdit
from surgery.layouts.one_hot import (
    MOST_SCORE,
    SCORE_LIMIT,
    OneHot,
    frequencies,
)
from surgery.layouts.one_hot import one_hot as search_one_hot

_FIX = "use `layout=compact`, or `variant=zero`"
_NORMED = 0.98
"""What is left of a constant that a norm has rounded three times more in bfloat16, at least."""


@dataclass(frozen=True)
class Storage:
    """Groups and query heads of one block, by what is done to them.

    - `alone`: groups whose queries and keys become constants that make attention one-hot.
    - `maps`: groups whose values become M and c.
    - `units`: groups whose value becomes a single 1, and whose constants, summed, stand in the one
      column of the output projection that reads it.
    - `silent`: groups whose values become zero.
    - `muted`: query heads that the output projection no longer reads.
    - `constants`: query heads whose constant goes into the output bias.
    - `idle_keys`, `idle_queries`: groups and query heads that no attention is read from, so that a
      scrub makes these rows zero. `idle_columns`: query heads whose columns of the output
      projection meet nothing but zeros, which a scrub makes zero, too.
    """

    alone: list[int]
    maps: list[int]
    units: list[int]
    silent: list[int]
    muted: list[int]
    constants: list[int]
    idle_keys: list[int]
    idle_queries: list[int]
    idle_columns: list[int]


def storage_of(block: Block, edit: BlockEdit) -> Storage:
    """Where the block's maps and constants go, with one-hot attention where that is possible."""
    shared = block.qk_norm is not None  # one norm: constants for all groups
    together = shared or block.lacks_positions  # or one entry of config.json
    hot = edit.kind != "none" and (edit.whole or not together) and find_one_hot(block) is not None
    held = Storage([], [], [], [], [], [], [], [], [])
    for group, heads in enumerate(edit.groups):
        constant, affine = edit.of_kind("constant", heads), edit.of_kind("affine", heads)
        whole = all(head in edit.variants for head in heads)
        if not affine and constant and whole and hot:
            (held.maps if len(heads) == 1 else held.units).append(group)
            continue
        if affine:
            held.maps.append(group)
        elif whole:
            held.silent.append(group)
        if affine or not whole:
            held.muted.extend(h for h in heads if h in edit.variants and h not in affine)
        held.constants.extend(constant)
    hot_groups = sorted(held.maps + held.units)
    held.alone.extend(range(len(edit.groups)) if shared and hot_groups else hot_groups)
    if edit.scrubbed:
        _find_idle(block, edit, held)
    return held


def _find_idle(block: Block, edit: BlockEdit, held: Storage) -> None:
    """Fills in the idle rows and columns. A norm over all heads reads queries and keys of each."""
    held.idle_columns.extend(h for group in held.silent for h in edit.groups[group])
    if edit.whole or block.qk_norm != "all":
        held.idle_keys.extend(group for group in held.silent if group not in held.alone)
        hot = {head for group in held.alone for head in edit.groups[group]}
        unread = {*held.muted, *held.idle_columns}
        held.idle_queries.extend(sorted(unread - hot))


def check(block: Block, edit: BlockEdit) -> None:
    """Raises `UnsupportedError`, with what to do, unless the architecture can hold the edit."""
    family = block.family
    if block.config["model_type"] == family.compact_model_type:
        raise UnsupportedError(
            "the source is a compact checkpoint, which needs its own modeling file in any case",
            fix="use `layout=compact`",
        )
    if edit.kind == "affine":
        _check_affine(block, edit)
    constants = storage_of(block, edit).constants
    if constants and not _has(family, "output_bias"):
        raise UnsupportedError(
            f"{family.title} has no output bias, which the constant of head "
            f"{block.index}.{constants[0]} needs",
            fix=_name_groups(edit) or _FIX,
        )


def _check_affine(block: Block, edit: BlockEdit) -> None:
    family = block.family
    if block.is_capped:
        raise UnsupportedError(
            f"{family.title} caps the scores of its attention ({family.score_cap}), so a token's "
            "own cannot lead by enough",
            fix=f"{_FIX} or mean",
        )
    if not _can_rotate(block):
        lacks = "query and key biases" if family.rotary else "rotary positions"
        fix = _FIX if family.rotary else f"{_FIX} or mean"
        raise UnsupportedError(
            f"{family.title} has no {lacks}, so its own architecture cannot make a token attend to "
            "itself alone",
            fix=fix,
        )
    shared = _name_shared(block)
    if shared is not None and not edit.whole:
        raise UnsupportedError(
            f"all heads of block {edit.block} share {shared}, and some still attend",
            fix=f"name the whole block, {edit.block}, or take `variant=zero` or mean",
        )
    for group, heads in enumerate(edit.groups):
        named = edit.of_kind("affine", heads)
        left = [head for head in heads if head not in edit.variants]
        if named and left:
            raise UnsupportedError(
                f"head {edit.block}.{named[0]} shares its keys and values with head "
                f"{edit.block}.{left[0]}, which still attends",
                fix=_name_groups(edit),
            )
        names = {edit.variants[head].name for head in named}
        if len(names) > 1:
            raise UnsupportedError(
                f"heads of group {edit.block}.g{group} share one map, and "
                f"cannot be {' and '.join(sorted(names))} at once",
                fix="give all of them one variant",
            )
    fitted = any(v.kind == "affine" and v.fitted for v in edit.variants.values())
    if block.clip is not None and fitted:
        raise UnsupportedError(
            f"the model clips values to {block.clip}, and would clip what was fitted",
            fix="use `layout=compact`, or another variant",
        )
    _search(*_terms(block))


def _name_shared(block: Block) -> str | None:
    """What all heads of a block have in common, so that they are edited together."""
    if block.qk_norm is not None:
        return "the norm of queries and keys"
    return "the lack of positions" if block.lacks_positions else None


def _name_groups(edit: BlockEdit) -> str | None:
    """Names groups in place of single query heads; None where every head is one."""
    if edit.dimensions.heads_per_group == 1:
        return None
    named = [g for g, heads in enumerate(edit.groups) if set(heads) & set(edit.variants)]
    groups = ",".join(f"{edit.block}.g{group}" for group in named)
    return f"name the whole group, {groups}, or take `variant=zero`"


def one_hot(block: Block, edit: BlockEdit) -> OneHot | None:
    return find_one_hot(block) if storage_of(block, edit).alone else None


def find_one_hot(block: Block) -> OneHot | None:
    """The constants that the block's queries and keys would get, where they can be held at all."""
    try:
        return _search(*_terms(block)) if _can_rotate(block) else None
    except MarginError:
        return None


_Terms = tuple[tuple[float, ...], float, int, float, float | None, float, float]


def _terms(block: Block) -> _Terms:
    family, size = block.family, block.dimensions
    assert family.rotary is not None
    kind = family.rotary.layer_type(block.config, block.index)
    positions = rotary_positions(block.config, family.rotary, size.rotated, kind)
    theta, growth = frequencies(positions, family.rotary)
    scale = 1.0 if block.qk_norm is None else _NORMED
    head: float = size.rotated
    whole = head
    if family.scores is not None:  # as of heads of another size
        head = family.scores.of(block.config) ** -2
    budget = SCORE_LIMIT if head <= whole else MOST_SCORE
    most = size.max_positions
    return tuple(theta.tolist()), head, most, growth, block.clip, scale, budget


@lru_cache
def _search(
    given: tuple[float, ...],
    head: float,
    most: int,
    growth: float,
    limit: float | None,
    scale: float,
    budget: float,
) -> OneHot:
    theta = np.asarray(given)
    terms: dict[str, Any] = {"growth": growth, "limit": limit, "scale": scale}
    try:
        return search_one_hot(theta, head, most, **terms, budget=budget)
    except MarginError:
        if budget == MOST_SCORE:
            raise
        return search_one_hot(theta, head, most, **terms, budget=MOST_SCORE)


def _can_rotate(block: Block) -> bool:
    biased = _has(block.family, block.stored("query", "bias"))
    return block.family.rotary is not None and biased and not block.is_capped


def _has(family: Family, role: Role) -> bool:
    return family.rule(role) is not None
