"""The architectures that can be edited: one frozen record each, found by model type."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from surgery.errors import UnsupportedError
from surgery.families.gpt_neo import GPT_NEO
from surgery.families.gpt_neox import GPT_NEOX
from surgery.families.llama import (
    LLAMA,
    MISTRAL,
    OLMO,
    OLMO2,
    OLMO3,
    PHI,
    QWEN2,
    QWEN3,
    STABLELM,
)
from surgery.families.record import Dimensions, Family, Role, Switch, TensorRule, left_out

__all__ = [
    "FAMILIES",
    "Dimensions",
    "Family",
    "Role",
    "Switch",
    "TensorRule",
    "config_saved_as",
    "family_of",
    "left_out",
]

FAMILIES: tuple[Family, ...] = (
    GPT_NEOX,
    GPT_NEO,
    LLAMA,
    QWEN2,
    QWEN3,
    OLMO,
    OLMO2,
    OLMO3,
    PHI,
    STABLELM,
    MISTRAL,
)
_MISSING = {
    "gpt2": "it has no rotary positions, so only `zero` and `mean` could be held",
    "gptj": "its queries and keys have no biases, so only `zero` could be held",
    "opt": "it has no rotary positions, so only `zero` and `mean` could be held",
    "bloom": "its positions are ALiBi, which no constant can make one-hot",
    "mpt": "its positions are ALiBi, which no constant can make one-hot",
    "falcon": "its queries, keys and values are stored in another order",
    "phi3": "its queries, keys and values are one tensor in another order",
    "mixtral": "its MLPs are experts, and its queries and keys have no biases",
    "gemma": "its record is not written; its norms store 1 + gain",
    "gemma2": "its queries and keys have no norm and no biases in other engines",
    "gemma3": "its record is not written; its norms store 1 + gain",
    "gemma3_text": "its record is not written; its norms store 1 + gain",
    "smollm3": "its record is not written; some of its blocks have no rotary positions",
    "starcoder2": "its record is not written; one key gives biases to attention and MLP alike",
    "granite": "its record is not written; it multiplies scores",
    "cohere": "its record is not written; its rotary pairs are interleaved",
}


def config_saved_as(config: dict[str, Any], name: str | None) -> dict[str, Any]:
    """config.json of the same weights as another model type, which holds more edits.

    **Raises:** `UnsupportedError` where that would be another model.
    """
    family = family_of(config)
    if name in (None, family.model_type):
        return config
    if name not in family.saved_as:
        raise UnsupportedError(
            f"a {family.title} model cannot be saved as {name}",
            expected=" or ".join(family.saved_as) or "no other model type",
        )
    window = config.get(family.window, 0) if family.window else None  # 0: the library's default
    if window is not None and not family.dimensions(config).max_positions <= window:
        raise UnsupportedError(
            f"the model attends within a window, which {name} does not have",
            where=family.window,
            expected="null, or at least max_position_embeddings",
            got=window or "the library's default",
            fix="use `layout=compact`, or `variant=zero`",
        )
    (other,) = (family for family in FAMILIES if family.model_type == name)
    kept = {key: value for key, value in config.items() if key != family.window}
    return {**kept, "model_type": name, "architectures": [other.architecture]}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a parsed config.json, compact checkpoints included.

    **Raises:** `UnsupportedError` for every other architecture, which says what is near.
    """
    model_type = config.get("model_type")
    for family in FAMILIES:
        if model_type in (family.model_type, family.compact_model_type):
            return family
    names = [family.model_type for family in FAMILIES]
    near = difflib.get_close_matches(str(model_type)[:60], names, n=2)
    missing = _MISSING.get(str(model_type))
    raise UnsupportedError(
        f"unsupported model_type {model_type}; supported: {', '.join(names)}"
        + (f"; near: {', '.join(near)}" if near else ""),
        fix=missing,
    )
