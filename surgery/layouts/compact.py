"""Layout `compact`: the attention module is gone, one affine module stands in its place.

The block holds W_O M [d, d] and W_O c + b_O [d] (`affine`), the vector alone (`constant`), or
nothing (`none`). It keeps no key/value cache.

**Limits:** the result needs its modeling file: the one that travels with it (`trust_remote_code`),
or an installed attn-surgery. Products are rounded once to the checkpoint's dtype, so logits agree
with the stock layout within that rounding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from surgery.errors import UnsupportedError
from surgery.families import Family
from surgery.layouts.block import Array, Block
from surgery.layouts.change import Change, Stored
from surgery.layouts.edit import BlockEdit
from surgery.layouts.one_hot import OneHot
from surgery.layouts.product import reproducible_product
from surgery.modeling.names import auto_map, class_names
from surgery.variants import Fit

NAME = "compact"


def refusal(block: Block, edit: BlockEdit, config: dict[str, Any]) -> UnsupportedError | None:
    """Only a block that has no head left can be without its attention module."""
    if edit.whole:
        return _clipped(block, edit, config)
    left = edit.num_heads - len(edit.variants)
    return UnsupportedError(
        f"{left} of {edit.num_heads} heads of block {edit.block} still attend, and the compact "
        "layout takes the whole attention module out",
        fix="use `layout=stock`, or name the whole block",
    )


def _clipped(block: Block, edit: BlockEdit, config: dict[str, Any]) -> UnsupportedError | None:
    clip = config.get(block.family.clip) if block.family.clip else None
    if clip is None or all(v.FITTED or v.KIND != "affine" for v in edit.variants.values()):
        return None
    return UnsupportedError(
        f"the model clips values to {clip}, and the compact layout has nothing that clips",
        fix="take `variant=linear`, mean or zero",
    )


def one_hot(block: Block, edit: BlockEdit, config: dict[str, Any]) -> OneHot | None:
    return None


def changes(block: Block, edit: BlockEdit, one_hot: OneHot | None) -> tuple[Change, ...]:
    d = block.dimensions.d
    dropped = tuple(
        Change("drop", name, block.index, rule.role, ())
        for rule in block.family.rules
        if rule.role is not None and (name := rule.name.format(block=block.index)) in block.present
    )
    added: tuple[Change, ...] = ()
    if edit.kind == "affine":
        name = block.name("affine_weight")
        added += (Change("add", name, block.index, "affine_weight", (d, d)),)
    if edit.kind != "none":
        name = block.name("affine_bias")
        added += (Change("add", name, block.index, "affine_bias", (d,)),)
    return dropped + added


def compute(
    change: Change, block: Block, edit: BlockEdit, fit: Fit | None, one_hot: OneHot | None
) -> Array:
    """W_O M [d, d] or W_O c + b_O [d], in float64."""
    affine, d = edit.affine(block.sources(fit)), block.dimensions.d
    if change.role == "affine_weight":
        assert affine.weight is not None
        return reproducible_product(block.read("output_weight"), affine.weight.reshape(-1, d))
    bias = np.zeros(d) if affine.bias is None else block.constant(affine.bias)
    if affine.keep_output_bias and block.has("output_bias"):
        bias = bias + block.read("output_bias").astype(np.float64)
    return bias


def with_switched(changes: Sequence[Change], inventory: Stored) -> tuple[Change, ...]:
    return tuple(changes)


def config(
    config: dict[str, Any],
    family: Family,
    edits: Mapping[int, BlockEdit],
    added: Collection[str] = (),
) -> dict[str, Any]:
    earlier = config.get("attention_free_blocks") or {}
    kinds = {int(block): kind for block, kind in earlier.items()}
    kinds |= {block: edit.kind for block, edit in edits.items()}
    return {
        **config,
        "architectures": [class_names(family)["AutoModelForCausalLM"]],
        "auto_map": auto_map(family),
        "model_type": family.compact_model_type,
        "attention_free_blocks": {str(block): kinds[block] for block in sorted(kinds)},
    }


def source_config(
    config: dict[str, Any],
    family: Family,
    edits: Mapping[int, BlockEdit],
    added: Collection[str] = (),
) -> dict[str, Any]:
    source = {key: value for key, value in config.items() if key != "auto_map"}
    kinds = source.pop("attention_free_blocks", None) or {}
    earlier = {block: kind for block, kind in kinds.items() if int(block) not in edits}
    if earlier:
        return {**config, "attention_free_blocks": earlier}
    return {**source, "architectures": [family.architecture], "model_type": family.model_type}
