"""Rotary positions, as config.json gives them in the spellings of many library versions.

A head's first dimensions are rotated in pairs; pair m turns by θ_m radians per position, and
θ_m = base^(-2m / rotated dimensions) unless the positions are scaled.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from surgery.errors import CheckpointError

SLIDING, FULL = "sliding_attention", "full_attention"
_NUMBERS = {  # key in `rope_parameters`, at the top level; least, most
    "share": ("partial_rotary_factor", "rotary_pct", 0, 1),
    "base": ("rope_theta", "rotary_emb_base", 1, 1e30),
}


@dataclass(frozen=True)
class Rotary:
    """What an architecture does with the rotary keys of config.json.

    - `share`, `base`: the library's defaults; `partial`: whether config.json can name a share.
    - `scalings`: the kinds of scaled positions that the stock layout can be proved for.
    - `full_every`: parameters are given by the type of a block (sliding or full attention), and
      every so many blocks attend fully where `layer_types` does not say; 0: one set for all blocks.
    """

    share: float = 1.0
    base: float = 10_000
    partial: bool = False
    scalings: tuple[str, ...] = ("linear", "llama3", "yarn")
    full_every: int = 0

    @property
    def keys(self) -> Iterator[str]:
        """The keys of config.json that are read."""
        yield from ("rope_parameters", "rope_scaling", "rope_theta", "head_dim")
        if self.partial:
            yield from ("partial_rotary_factor",)
        if self.full_every:
            yield "layer_types"

    def layer_type(self, config: Mapping[str, Any], block: int) -> str | None:
        """Which of several sets of parameters a block uses; None where there is one set."""
        if not self.full_every:
            return None
        types = config.get("layer_types")
        if types is None:
            return SLIDING if (block + 1) % self.full_every else FULL
        if not (isinstance(types, list) and block < len(types) and types[block] in (SLIDING, FULL)):
            expected = f"a list of {SLIDING} and {FULL}, one for each block"
            raise _wrong("'layer_types' does not say how every block attends", types, expected)
        return str(types[block])


@dataclass(frozen=True)
class Positions:
    """The rotary positions of one block: `dimensions` of a head are rotated.

    `kind` is "default" or the way in which positions are scaled, by `parameters`.
    """

    kind: str
    dimensions: int
    base: float
    parameters: Mapping[str, Any]


def rotary_positions(
    config: Mapping[str, Any], rotary: Rotary, head_size: int, layer_type: str | None = None
) -> Positions:
    """What config.json says of a block's positions.

    **Raises:** `CheckpointError` for values that make no sense, or that library versions would read
    differently.
    """
    scaling, rope = _mapping(config, "rope_scaling"), _mapping(config, "rope_parameters")
    if layer_type is not None:
        rope = _mapping(rope, layer_type)
        scaling = scaling if layer_type == FULL else {}
    found: dict[str, float] = {}
    for name, (inside, outside, least, most) in _NUMBERS.items():
        default = getattr(rotary, name)
        scaled = scaling.get(inside) if rotary.scalings else None  # old versions do not heed it
        every = (rope.get(inside), scaled, config.get(inside), config.get(outside))
        given = [value for value in every if value is not None]
        value = given[0] if given else default
        if type(value) not in (int, float) or not least <= value <= most:
            expected = f"a number from {least} to {most:g}"
            raise _wrong(f"the rotary {name} makes no sense", value, expected)
        if any(other != value for other in given):
            raise CheckpointError(
                f"the rotary {name} is given twice, and versions of the library differ in which "
                "they take",
                where="config.json",
                got=" and ".join(repr(v)[:50] for v in given),
            )
        if name == "share" and not rotary.partial and value != 1:
            what = "this architecture rotates all dimensions of a head"
            raise _wrong(what, value, "a rotary share of 1")
        found[name] = value
    dimensions = _count_dimensions(config, head_size, found["share"])
    kind = _kind(scaling, rope, exact=not rotary.scalings)
    parameters = {
        "max_position_embeddings": config.get("max_position_embeddings"),
        **(scaling or rope),
    }
    factor = parameters.get("factor", 1)
    if type(factor) in (int, float) and not factor > 0:  # the library would divide by it
        raise _wrong("the rotary 'factor' makes no sense", factor, "a number above 0")
    return Positions(kind, dimensions, float(found["base"]), parameters)


def _count_dimensions(config: Mapping[str, Any], head_size: int, share: float) -> int:
    """How many dimensions of a head are rotated."""
    if config.get("head_dim") not in (None, head_size):
        what = "'head_dim' is not hidden_size divided by the number of heads"
        raise _wrong(what, config["head_dim"], head_size)
    dimensions = int(head_size * share)
    if dimensions + dimensions % 2 > head_size:  # pairs
        what = "the library rotates dimensions in pairs, and a head has an odd number of them"
        raise _wrong(what, share, f"a rotary share below 1 for heads of {head_size}")
    return dimensions


def _kind(scaling: Mapping[str, Any], rope: Mapping[str, Any], *, exact: bool) -> str:
    """`exact`: any scaling that comes with a kind "default" counts, as old versions heed it."""
    kinds = [given.get(key) for given in (scaling, rope) for key in ("rope_type", "type")]
    kind = next((kind for kind in kinds if kind is not None), "default")
    more = set(scaling) - {"rope_type", "type"}
    if kind == "default" and scaling and (rope or more):
        kind = "default, with more"  # new versions of the library heed it, and old ones do not
    elif scaling and rope and not exact and _plain(scaling) != _plain(rope):
        kind = f"{kind}, given twice"
    return str(kind)[:50]


def _plain(given: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key not in ("type", "rope_theta")}


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise _wrong(f"{key!r} is not an object", value)
    return value


def _wrong(what: str, got: object, expected: object = None) -> CheckpointError:
    return CheckpointError(what, where="config.json", expected=expected, got=repr(got)[:50])
