"""Layout `compact`: the attention module is gone, one affine module stands in its place.

The block holds W_O M [d, d] and W_O c + b_O [d] (`affine`), the vector alone (`constant`), or
nothing (`none`). It keeps no key/value cache.

**Limits:** the result needs its modeling file: the one that travels with it (`trust_remote_code`),
or an installed attn-surgery. Products are rounded once to the checkpoint's dtype, so logits agree
with the stock layout within that rounding.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from surgery.errors import UnsupportedError
from surgery.families import Family
from surgery.layouts.block import Array, Block, BlockEdit, Config, Edits, Names, TensorChange
from surgery.layouts.product import reproducible_product
from surgery.modeling import auto_map, class_names
from surgery.variants import Fit

NAME = "compact"


def check(block: Block, edit: BlockEdit) -> None:
    """Only a block that has no head left can be without its attention module."""
    num_heads = block.dimensions.num_heads
    if not edit.whole:
        raise UnsupportedError(
            f"{num_heads - len(edit.variants)} of {num_heads} heads of block {edit.block} still "
            "attend, and the compact layout takes the whole attention module out",
            fix="use `layout=stock`, or name the whole block",
        )
    if block.config.get("quantization_config"):
        raise UnsupportedError(
            "weights are quantized, and only the library's own class reads those",
            fix="use `layout=stock`",
        )
    stored = any(v.kind == "affine" and not v.fitted for v in edit.variants.values())
    if block.clip is not None and stored:
        raise UnsupportedError(
            f"the model clips values to {block.clip}, and the compact layout has nothing that "
            "clips",
            fix="take `variant=linear`, mean or zero",
        )


def one_hot(block: Block, edit: BlockEdit) -> None:
    return None


def changes(edits: Sequence[tuple[Block, BlockEdit]]) -> tuple[TensorChange, ...]:
    found: list[TensorChange] = []
    for block, edit in edits:
        for rule in block.family.rules:
            if rule.role is None:
                continue
            name = rule.name.format(block=block.index)
            if name in block.present:
                found.append(TensorChange("drop", name, block.index, rule.role, ()))
        if edit.kind == "affine":
            found.append(block.change("add", "affine_weight"))
        if edit.kind != "none":
            found.append(block.change("add", "affine_bias"))
    return tuple(found)


def compute(change: TensorChange, block: Block, edit: BlockEdit, fit: Fit | None) -> Array:
    """W_O M [d, d] or W_O c + b_O [d], in float64."""
    affine, d = edit.affine(block.sources(fit)), block.dimensions.d
    if change.role == "affine_weight":
        assert affine.weight is not None
        return reproducible_product(block.read("output_weight"), affine.weight.reshape(-1, d))
    bias = np.zeros(d) if affine.bias is None else block.constant(affine.bias)
    if block.has("output_bias"):
        bias = bias + block.read("output_bias").astype(np.float64)
    return bias


def config(config: Config, family: Family, edits: Edits, added: Names) -> Config:
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


def source_config(config: Config, family: Family, edits: Edits, added: Names) -> Config:
    source = {key: value for key, value in config.items() if key != "auto_map"}
    kinds = source.pop("attention_free_blocks", None) or {}
    earlier = {block: kind for block, kind in kinds.items() if int(block) not in edits}
    if earlier:
        return {**config, "attention_free_blocks": earlier}
    return {**source, "architectures": [family.architecture], "model_type": family.model_type}
