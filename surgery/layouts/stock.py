"""Layout `stock`: the unchanged architecture, so the library's own class loads it.

**Affine variants** (GPT-NeoX): query and key rows become constants that make attention exactly
one-hot on the diagonal (see one_hot.py); the value rows hold M and c. For `identity` these are the
rows that are there already, untouched.

**Constants and nothing** (every family): the value rows become zero, so that every head's context
is exactly zero, and the output bias holds what the branch adds.

**Limits:** GPT-Neo has no query or key bias and no relative positions, so its attention cannot be
made one-hot and only constants fit. The same goes for GPT-NeoX with `attention_bias: false`.
Size, cache and speed stay as they were.
"""

from __future__ import annotations

from typing import Any

from surgery.errors import MarginError, UnsupportedError
from surgery.families import Family, Role
from surgery.layouts.block import Array, Block
from surgery.layouts.change import Change, Target
from surgery.layouts.one_hot import OneHot, inverse_frequencies
from surgery.layouts.one_hot import one_hot as find_one_hot
from surgery.variants import Kind, Variant

NAME = "stock"
_FIX = "use --layout compact, or --variant zero"


def refusal(target: Target, kind: Kind) -> UnsupportedError | None:
    """The reason, with what to do, why the unchanged architecture cannot hold the variant."""
    if target.is_compact:
        return UnsupportedError(
            "the source is a compact checkpoint, which needs its own modeling file in any case",
            fix="use --layout compact",
        )
    if kind == "constant" and not target.has_attention_bias:
        return UnsupportedError(
            "a model without attention biases cannot hold a constant in the stock layout",
            fix=_FIX,
        )
    if kind != "affine":
        return None
    if not target.family.rotary:
        return UnsupportedError(
            f"{target.family.title} has no query and key biases and no rotary positions, so its "
            "own architecture cannot make a token attend to itself alone",
            fix=_FIX,
        )
    if not target.has_attention_bias:
        return UnsupportedError(
            "attention_bias is false, and without query and key biases the architecture cannot "
            "make a token attend to itself alone",
            fix=_FIX,
        )
    try:
        one_hot(target, kind)
    except MarginError as error:
        return error
    return None


def one_hot(target: Target, kind: Kind) -> OneHot | None:
    if kind != "affine":
        return None
    head_size = target.dimensions.head_size
    frequencies = inverse_frequencies(target.config, head_size)
    return find_one_hot(frequencies, head_size, target.dimensions.max_positions)


def changes(block: Block, kind: Kind) -> tuple[Change, ...]:
    d = block.dimensions.d
    roles: list[tuple[Role, tuple[int, ...]]]
    if block.family.fused:
        roles = [("query_key_value_weight", (3 * d, d)), ("query_key_value_bias", (3 * d,))]
    else:
        roles = [("value_weight", (d, d))]
    if kind != "affine":
        roles.append(("output_bias", (d,)))
    return tuple(
        Change("rewrite", block.name(role), block.index, role, shape)
        for role, shape in roles
        if block.has(role)
    )


def compute(change: Change, block: Block, variant: Variant, one_hot: OneHot | None) -> Array:
    affine = variant.affine(block.values())
    if change.role == "output_bias":
        return block.branch_bias(affine)
    new = block.read(change.role)
    if change.role == "value_weight":
        new[...] = 0
    elif affine.weight is None:
        block.fused_per_head(new)[:, 2] = 0
    elif change.role == "query_key_value_weight":
        heads = block.fused_per_head(new)
        heads[:, :2] = 0
        heads[:, 2] = affine.weight
    else:
        assert one_hot is not None
        heads = block.fused_per_head(new)
        heads[:, :2] = 0
        heads[:, :2, : one_hot.num_pairs] = one_hot.kappa
        heads[:, 2] = 0 if affine.bias is None else affine.bias
    return new


def config(config: dict[str, Any], family: Family, blocks: dict[int, Kind]) -> dict[str, Any]:
    return dict(config)
