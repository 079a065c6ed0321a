"""Layout `compact`, of GPT-NeoX and GPT-Neo: one affine module stands in the place of attention.

The block holds W_O M [d, d] and W_O c + b_O [d] (`affine`), the vector alone (`constant`), or
nothing (`none`). It keeps no key/value cache.

**Limits:** the result needs its modeling file, which travels with it (`trust_remote_code`).
Products are rounded once to the checkpoint's dtype, so logits agree with the stock layout within
that rounding.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import numpy as np

from surgery.cut import Cut, Edit, Read
from surgery.errors import CheckpointError, UnsupportedError
from surgery.families import Family, family_of
from surgery.product import multiply
from surgery.tensors import Bits, Tensor, encode
from surgery.variants import Fit, Kind

MODELING_FILE = Path(__file__).with_name("modeling_attention_free.py")
"""The file to copy beside a compact checkpoint."""
_TYPES = ("gpt_neox", "gpt_neo")


def check(cut: Cut) -> None:
    """Raises `UnsupportedError` unless a block can be without its attention module."""
    num_heads = cut.size.num_heads
    if cut.family.model_type not in _TYPES:
        raise UnsupportedError(
            f"{cut.family.model_type} has no compact layout",
            expected=" or ".join(_TYPES),
            fix="use `layout=stock`",
        )
    if not cut.whole:
        raise UnsupportedError(
            f"{num_heads - len(cut.variants)} of {num_heads} heads of block {cut.block} still "
            "attend, and the compact layout takes the whole attention module out",
            fix="use `layout=stock`, or name the whole block",
        )


def list_edits(cut: Cut) -> Iterator[Edit]:
    """The tensors that are added."""
    where, d = cut.family.attention.format(block=cut.block), cut.size.d

    def make_weight(read: Read, fit: Fit | None) -> Bits:
        weight, _ = cut.maps(read, fit)
        product = multiply(cut.read("output", "weight", read), weight.reshape(-1, d))
        return encode(product, cut.dtype)

    def make_bias(read: Read, fit: Fit | None) -> Bits:
        output, (_, bias) = cut.read("output", "weight", read), cut.maps(read, fit)
        new = multiply(output, bias.reshape(-1, 1))[:, 0]
        if cut.has("output"):
            new = new + cut.read("output", "bias", read).astype(np.float64)
        return encode(new, cut.dtype)

    if cut.kind == "affine":
        yield Edit(Tensor(f"{where}.affine.weight", cut.dtype, (d, d)), cut.block, make_weight)
    if cut.kind != "none":
        yield Edit(Tensor(f"{where}.affine.bias", cut.dtype, (d,)), cut.block, make_bias)


def list_dropped(cut: Cut) -> list[str]:
    """What is stored of the block's attention, masks that older libraries stored among it."""
    within = cut.family.attention.format(block=cut.block) + "."
    return [name for name in cut.stored if name.startswith(within)]


def make_config(config: Mapping[str, Any], cuts: Mapping[int, Cut]) -> dict[str, Any]:
    """The keys of config.json that change."""
    family = family_of(config)
    kinds = read_blocks(config) | {block: cut.kind for block, cut in cuts.items()}
    return {
        "architectures": [name_classes(family)["AutoModelForCausalLM"]],
        "auto_map": auto_map(family),
        "model_type": family.compact_model_type,
        "attention_free_blocks": {str(block): kinds[block] for block in sorted(kinds)},
    }


def is_compact(config: Mapping[str, Any]) -> bool:
    """Whether a parsed config.json is of a compact checkpoint."""
    return str(config.get("model_type")).startswith("attention_free_")


def read_blocks(config: Mapping[str, Any]) -> dict[int, Kind]:
    """Block → what replaces its attention; {} for a model of the library's own classes."""
    if not is_compact(config):
        return {}
    recorded, number = config.get("attention_free_blocks"), family_of(config).dimensions(config)
    if not isinstance(recorded, dict) or not all(
        re.fullmatch(r"0|[1-9]\d{0,8}", block, re.ASCII)
        and int(block) < number.num_blocks
        and kind in get_args(Kind)
        for block, kind in recorded.items()
    ):
        raise CheckpointError(
            "'attention_free_blocks' does not say what replaces the attention of each block",
            where="config.json",
            expected=f"blocks below {number.num_blocks} → {', '.join(get_args(Kind))}",
            got=recorded,
        )
    return {int(block): kind for block, kind in recorded.items()}


def name_classes(family: Family) -> dict[str, str]:
    """Auto class → the class of a family's compact checkpoints."""
    stem = "AttentionFree" + family.architecture.removesuffix("ForCausalLM")
    kinds = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
    return {auto: stem + kind for auto, kind in kinds.items()}


def auto_map(family: Family) -> dict[str, str]:
    """The value of `auto_map` in config.json: auto class → file.Class."""
    return {auto: f"{MODELING_FILE.stem}.{name}" for auto, name in name_classes(family).items()}
