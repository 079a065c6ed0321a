"""Layout `stock`: the unchanged architecture, so the library's own class loads it.

**GPT-NeoX:** query and key rows of an edited head become constants that make its attention exactly
one-hot on the diagonal (see one_hot.py); its value rows hold M and c. For `identity` these are the
rows that are there already, untouched.

**Heads that add nothing** (every family): their value rows become zero, so their context is exactly
zero. A whole block that adds nothing loses its output bias as well.

**Constants without rotary positions** (GPT-Neo): value rows zero, and the output bias takes W_O c.

**Limits:** GPT-Neo has no query or key bias and no relative positions, so its attention cannot be
made one-hot and only constants fit. The same goes for GPT-NeoX with `attention_bias: false`.
Size, cache and speed stay as they were.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np

from surgery.errors import MarginError, UnsupportedError
from surgery.families import Family, Role
from surgery.layouts.block import Array, Block
from surgery.layouts.change import Change
from surgery.layouts.edit import BlockEdit
from surgery.layouts.one_hot import OneHot, inverse_frequencies
from surgery.layouts.one_hot import one_hot as find_one_hot
from surgery.variants import Fit

NAME = "stock"
_FIX = "use `layout=compact`, or `variant=zero`"


def refusal(block: Block, edit: BlockEdit, config: dict[str, Any]) -> UnsupportedError | None:
    """The reason, with what to do, why the unchanged architecture cannot hold the edit."""
    if config["model_type"] == block.family.compact_model_type:
        return UnsupportedError(
            "the source is a compact checkpoint, which needs its own modeling file in any case",
            fix="use `layout=compact`",
        )
    if edit.kind == "constant" and not block.has("output_bias"):
        return UnsupportedError(
            "a model without attention biases cannot hold a constant in the stock layout",
            fix=_FIX,
        )
    if edit.kind != "affine":
        return None
    if not block.family.rotary:
        return UnsupportedError(
            f"{block.family.title} has no query and key biases and no rotary positions, so its "
            "own architecture cannot make a token attend to itself alone",
            fix=f"{_FIX} or mean",
        )
    if not block.has("output_bias"):
        return UnsupportedError(
            "attention_bias is false, and without query and key biases the architecture cannot "
            "make a token attend to itself alone",
            fix=_FIX,
        )
    try:
        _find(block, config)
    except MarginError as error:
        return error
    return None


def one_hot(block: Block, edit: BlockEdit, config: dict[str, Any]) -> OneHot | None:
    if edit.kind == "none" or not (block.family.rotary and block.has("output_bias")):
        return None
    try:
        return _find(block, config)
    except MarginError:
        if edit.kind == "affine":
            raise
        return None  # a constant can stand in the output bias as well


def _find(block: Block, config: dict[str, Any]) -> OneHot:
    head_size = block.dimensions.head_size
    frequencies = tuple(inverse_frequencies(config, head_size).tolist())
    return _remembered(frequencies, head_size, block.dimensions.max_positions)


@lru_cache
def _remembered(frequencies: tuple[float, ...], head_size: int, max_positions: int) -> OneHot:
    return find_one_hot(np.asarray(frequencies), head_size, max_positions)


def changes(block: Block, edit: BlockEdit, one_hot: OneHot | None) -> tuple[Change, ...]:
    d = block.dimensions.d
    roles: list[tuple[Role, tuple[int, ...]]]
    if block.family.fused:
        roles = [("query_key_value_weight", (3 * d, d)), ("query_key_value_bias", (3 * d,))]
    else:
        roles = [("value_weight", (d, d)), ("value_bias", (d,))]
    removed = edit.whole and edit.kind == "none"
    if removed or (edit.kind == "constant" and one_hot is None):
        roles.append(("output_bias", (d,)))
    return tuple(
        Change("rewrite", block.name(role), block.index, role, shape)
        for role, shape in roles
        if block.has(role)
    )


def compute(
    change: Change, block: Block, edit: BlockEdit, fit: Fit | None, one_hot: OneHot | None
) -> Array:
    affine = edit.affine(block.sources(fit))
    if change.role == "output_bias":
        return block.branch_bias(affine)
    new = block.read(change.role)
    if change.role in ("value_weight", "value_bias"):
        block.per_head(new)[edit.heads] = 0
        return new
    heads = block.fused_per_head(new)
    if one_hot is None:
        heads[edit.heads, 2] = 0
        return new
    silent = [head for head, variant in edit.variants.items() if variant.KIND == "none"]
    alone = [head for head in edit.heads if head not in silent]
    heads[silent, 2] = 0
    heads[alone, :2] = 0
    if change.role == "query_key_value_bias":
        heads[alone, :2, : one_hot.num_pairs] = one_hot.kappa
    content = affine.weight if change.role == "query_key_value_weight" else affine.bias
    heads[alone, 2] = 0 if content is None else content[alone]
    return new


def config(
    config: dict[str, Any], family: Family, edits: Mapping[int, BlockEdit]
) -> dict[str, Any]:
    return dict(config)


source_config = config
