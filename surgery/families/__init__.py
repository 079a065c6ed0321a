"""The architectures that can be edited: one frozen record each, found by model type."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import UnsupportedError, find_near
from surgery.families import experts, gemma, gpt, llama
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
    "has_window",
    "left_out",
]

FAMILIES: tuple[Family, ...] = (
    *gpt.FAMILIES,
    *llama.FAMILIES,
    *gemma.FAMILIES,
    *experts.FAMILIES,
)


def config_saved_as(config: dict[str, Any], name: str | None) -> dict[str, Any]:
    """config.json of the same weights as another model type, which holds more edits."""
    family = family_of(config)
    if name in (None, family.model_type):
        return config
    if name not in family.saved_as:
        raise UnsupportedError(
            f"a {family.title} model cannot be saved as {name}",
            expected=" or ".join(family.saved_as) or "no other model type",
        )
    if family.window and has_window(config):
        window = config.get(family.window)
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


def has_window(config: Mapping[str, Any]) -> bool:
    """Whether the model attends within a window that is shorter than its context."""
    family = family_of(config)
    window = config.get(family.window, 0) if family.window else None  # 0: the library's default
    return window is not None and not family.dimensions(config).max_positions <= window


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a parsed config.json, compact checkpoints included.

    **Raises:** `UnsupportedError` for every other architecture, and what is near.
    """
    model_type = config.get("model_type")
    for family in FAMILIES:
        if model_type in (family.model_type, family.compact_model_type):
            return family
    names = [family.model_type for family in FAMILIES]
    near = ", ".join(find_near(model_type, names, 2))
    missing = "no record says where its tensors are (docs/families.md lists what others lack)"
    raise UnsupportedError(
        f"unsupported model_type {model_type}; supported: {', '.join(names)}",
        fix=f"near is {near}, but {missing}" if near else missing,
    )
