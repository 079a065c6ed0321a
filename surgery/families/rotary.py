"""Rotary positions, as config.json gives them in the spellings of many library versions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgery.errors import CheckpointError

_NUMBERS = {  # key in `rope_parameters`, at the top level; least, most, the library's default
    "share": ("partial_rotary_factor", "rotary_pct", 0, 1, 0.25),
    "base": ("rope_theta", "rotary_emb_base", 1, 1e30, 10_000),
}


def rotary_kind(config: Mapping[str, Any]) -> str:
    """ "default", or how positions are scaled. Raises `CheckpointError` for what is no object."""
    scaling, rope = _mapping(config, "rope_scaling"), _mapping(config, "rope_parameters")
    kinds = [given.get(key) for given in (scaling, rope) for key in ("rope_type", "type")]
    kind = next((kind for kind in kinds if kind is not None), "default")
    if kind == "default" and scaling and (rope or set(scaling) - {"rope_type", "type"}):
        kind = "default, with more"  # new versions of the library heed it, and old ones do not
    return str(kind)[:50]


def rotary_positions(config: Mapping[str, Any], head_size: int) -> tuple[int, float]:
    """How many of a head's dimensions are rotated, and the base of the frequencies.

    **Raises:** `CheckpointError` for values that make no sense, or that library versions would read
    differently.
    """
    rope = _mapping(config, "rope_parameters")
    found: dict[str, float] = {}
    for name, (inside, outside, least, most, default) in _NUMBERS.items():
        every = (rope.get(inside), config.get(inside), config.get(outside))
        given = [value for value in every if value is not None]
        value = given[0] if given else default
        if type(value) not in (int, float) or not least <= value <= most:
            raise CheckpointError(
                f"the rotary {name} makes no sense",
                where="config.json",
                expected=f"a number from {least} to {most:g}",
                got=repr(value)[:50],
            )
        if any(other != value for other in given):
            raise CheckpointError(
                f"the rotary {name} is given twice, and versions of the library differ in which "
                "they take",
                where="config.json",
                got=" and ".join(repr(v)[:50] for v in given),
            )
        found[name] = value
    if config.get("head_dim") not in (None, head_size):
        raise CheckpointError(
            "'head_dim' is not hidden_size divided by the number of heads",
            where="config.json",
            expected=head_size,
            got=repr(config["head_dim"])[:50],
        )
    dimensions = int(head_size * found["share"])
    if dimensions + dimensions % 2 > head_size:  # pairs
        raise CheckpointError(
            "the library rotates dimensions in pairs, and a head has an odd number of them",
            where="config.json",
            expected=f"a rotary share below 1 for heads of {head_size}",
            got=found["share"],
        )
    return dimensions, float(found["base"])


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{key!r} is not an object", where="config.json", got=repr(value)[:50]
        )
    return value
