"""The architectures that can be edited: one frozen record each, found by model type."""

from __future__ import annotations

from typing import Any

from surgery.errors import UnsupportedError
from surgery.families.gpt_neo import GPT_NEO
from surgery.families.gpt_neox import GPT_NEOX
from surgery.families.record import Dimensions, Family, Role, TensorRule, left_out

__all__ = ["FAMILIES", "Dimensions", "Family", "Role", "TensorRule", "family_of", "left_out"]

FAMILIES: tuple[Family, ...] = (GPT_NEOX, GPT_NEO)


def family_of(config: dict[str, Any]) -> Family:
    """The family of a parsed config.json, compact checkpoints included.

    **Raises:** `UnsupportedError` for every other architecture.
    """
    model_type = config.get("model_type")
    for family in FAMILIES:
        if model_type in (family.model_type, family.compact_model_type):
            return family
    supported = ", ".join(family.model_type for family in FAMILIES)
    raise UnsupportedError(f"unsupported model_type {model_type}; supported: {supported}")
