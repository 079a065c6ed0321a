"""Rotary positions, as config.json gives them in the spellings of many library versions.

A head's first dimensions are rotated in pairs; pair m turns by θ_m radians per position, and
θ_m = base^(-2m / rotated dimensions) unless the positions are scaled.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.errors import CheckpointError

SLIDING, FULL = "sliding_attention", "full_attention"
EVERY = ("sliding_window_pattern", "_sliding_window_pattern")
"""Keys of N, where the last of every N blocks attends fully; newer versions write the second."""
_NUMBERS = {  # key in `rope_parameters`, another that some use at the top level; least, most
    "share": ("partial_rotary_factor", "rotary_pct", 0, 1),
    "base": ("rope_theta", "rotary_emb_base", 1, 1e30),
}


@dataclass(frozen=True)
class Absent:
    """Blocks without positions, and how such a block gets them: then it can attend to itself alone.

    `key`: of the list in config.json that has an entry for each block, `present` or `absent`;
    `every`, `default`: the key, and its default, of the number of blocks of which the last has none
    where there is no such list; `attribute`: of the attention module, which is set to `value_of` of
    the configuration; `needs`: a key without which no block has positions.
    """

    key: str
    present: Any
    absent: Any
    every: str
    default: int
    attribute: str
    value_of: Callable[[Any], Any]
    needs: str | None = None

    def entries(self, config: Mapping[str, Any], num_blocks: int) -> list[Any]:
        """An entry for each block."""
        if self.needs is not None and config.get(self.needs, 0) is None:
            raise _wrong(f"without {self.needs!r} no block has positions", None, "a number")
        given = config.get(self.key)
        if given is None:
            every = config.get(self.every, self.default)
            if type(every) is not int or every < 1:
                raise _wrong(f"{self.every!r} makes no sense", every, "a positive whole number")
            return [self.present if (b + 1) % every else self.absent for b in range(num_blocks)]
        if (
            not isinstance(given, list)
            or len(given) < num_blocks
            or any(entry not in (self.present, self.absent) for entry in given)
        ):
            expected = f"{self.present!r} or {self.absent!r} for each block"
            raise _wrong(f"{self.key!r} does not say which blocks have positions", given, expected)
        return list(given)


@dataclass(frozen=True)
class Rotary:
    """What an architecture does with the rotary keys of config.json.

    - `share`, `base`: the library's defaults, and `share_key`, `base_key`, their keys in versions
      before 5; `partial`: whether config.json can name a share.
    - `scalings`: the kinds of scaled positions that the stock layout can be proved for; `scaled`:
      the scaling where config.json names none.
    - `full_every`: parameters are given by the type of a block (sliding or full attention), and
      every so many blocks attend fully where `layer_types` does not say; 0: one set for all blocks.
      `sliding_base`: the key of the base of sliding blocks, and its default; None: it is that of
      the others.
    - `adjacent`: pair m is dimensions 2m and 2m + 1 of a head, not m and m + half of those rotated.
    - `absent`: which blocks have no positions.
    """

    share: float = 1.0
    base: float = 10_000
    share_key: str = "partial_rotary_factor"
    base_key: str = "rope_theta"
    partial: bool = False
    scalings: tuple[str, ...] = ("linear", "llama3", "yarn")
    scaled: Mapping[str, Any] = field(default_factory=dict)
    full_every: int = 0
    sliding_base: tuple[str, float] | None = None
    adjacent: bool = False
    absent: Absent | None = None

    def keys_of(self, number: str, layer_type: str | None) -> tuple[tuple[str, ...], float]:
        """The keys of a share or base at the top level, and its default. The library reads the
        first, and the others must agree."""
        if number == "base" and layer_type == SLIDING:
            own = self.sliding_base
            return ((), self.base) if own is None else ((own[0],), own[1])
        is_share, (inside, other, *_) = number == "share", _NUMBERS[number]
        key, default = (self.share_key, self.share) if is_share else (self.base_key, self.base)
        return tuple(dict.fromkeys((key, inside, other))), default  # each once

    @property
    def keys(self) -> Iterator[str]:
        """The keys of config.json that are read."""
        yield from ("rope_parameters", "rope_scaling", "rope_theta", "head_dim")
        if self.partial:
            yield from ("partial_rotary_factor",)
        if self.full_every:
            yield from ("layer_types", *EVERY)
        if self.sliding_base is not None:
            yield self.sliding_base[0]
        if self.absent is not None:
            yield from (self.absent.key, self.absent.every)

    def first_of_pairs(self, num_pairs: int) -> slice:
        """The first dimensions of a head's first pairs."""
        return slice(0, 2 * num_pairs, 2) if self.adjacent else slice(0, num_pairs)

    def layer_type(self, config: Mapping[str, Any], block: int) -> str | None:
        """Which of several sets of parameters a block uses; None where there is one set."""
        if not self.full_every:
            return None
        types = config.get("layer_types")
        if types is None:
            every = next((config[key] for key in EVERY if key in config), self.full_every)
            if type(every) is not int or every < 1:
                raise _wrong(f"{EVERY[0]!r} makes no sense", every, "a positive whole number")
            return SLIDING if (block + 1) % every else FULL
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
    share, base = (_read_number(name, config, rotary, layer_type) for name in _NUMBERS)
    dimensions = _count_dimensions(config, head_size, share)
    scaling, rope = _scaling_of(config, layer_type)
    if not config.get("rope_scaling") and not config.get("rope_parameters"):
        scaling = dict(rotary.scaled)
    kind = _kind(scaling, rope, exact=not rotary.scalings)
    parameters = {
        "max_position_embeddings": config.get("max_position_embeddings"),
        **(scaling or rope),
    }
    factor = parameters.get("factor", 1)
    if type(factor) in (int, float) and not factor > 0:  # the library would divide by it
        raise _wrong("the rotary 'factor' makes no sense", factor, "a number above 0")
    return Positions(kind, dimensions, base, parameters)


def check_positions(config: Mapping[str, Any], rotary: Rotary) -> None:
    """Raises `CheckpointError` for shares and bases that make no sense, or that versions of the
    library read differently."""
    kinds = (FULL, SLIDING) if rotary.full_every else (None,)
    for kind in kinds:
        _read_number("share", config, rotary, kind)
    bases = [_read_number("base", config, rotary, kind) for kind in kinds]
    if not rotary.full_every:
        return
    rope = _mapping(config, "rope_parameters")
    kind, theta = _kind({}, rope, exact=False), rope.get("rope_theta")
    if kind != "default" or any(theta not in (None, base) for base in bases):
        raise CheckpointError(
            "'rope_parameters' do not tell the types of blocks apart, and versions of the library "
            "differ in what that means",
            where="config.json",
            expected=f"those of {FULL!r} and {SLIDING!r}, each an object",
            got=repr(rope)[:50],
        )
    if rotary.sliding_base is None and bases[0] != bases[1]:
        raise CheckpointError(
            f"the rotary base of {SLIDING!r} is not that of {FULL!r}, and some versions of the "
            "library have one for both",
            where="config.json",
            expected=f"{bases[0]:g}",
            got=f"{bases[1]:g}",
            fix="give both one 'rope_theta' in 'rope_parameters'",
        )


def spell_both(config: Mapping[str, Any], rotary: Rotary | None) -> dict[str, Any]:
    """The same configuration, with what `rope_parameters` say also under the keys before version 5.

    Earlier versions ignore `rope_parameters` without a word, and would take their own defaults.
    """
    return {**config, **find_unspelled(config, rotary)}


def find_unspelled(config: Mapping[str, Any], rotary: Rotary | None) -> dict[str, Any]:
    """What `rope_parameters` say that no key before version 5 does, under such keys."""
    rope = config.get("rope_parameters")
    if rotary is None or not isinstance(rope, dict):
        return {}
    full, sliding = (
        rope[kind] if isinstance(rope.get(kind), dict) else rope for kind in (FULL, SLIDING)
    )
    given = {rotary.base_key: full.get("rope_theta")}
    if rotary.partial:
        given[rotary.share_key] = full.get("partial_rotary_factor")
    if rotary.sliding_base is not None:
        given[rotary.sliding_base[0]] = sliding.get("rope_theta")
    if full.get("rope_type", "default") != "default":
        given["rope_scaling"] = {key: full[key] for key in full if key not in _NOT_SCALING}
    missing = {k: v for k, v in given.items() if v is not None and config.get(k) is None}
    if rotary.scaled and "rope_scaling" not in {**config, **missing}:
        missing["rope_scaling"] = None  # else they would take their default, which scales
    return missing


_NOT_SCALING = ("rope_theta", "partial_rotary_factor")


def _read_number(
    name: str, config: Mapping[str, Any], rotary: Rotary, layer_type: str | None
) -> float:
    """The rotary share or base of blocks of a type, as the library takes it.

    It heeds `rope_parameters` only where there is no `rope_scaling`, and then the key at the top
    level. Only where parameters are given by the type of a block, it joins both.
    """
    inside, _, least, most = _NUMBERS[name]
    scaling, rope = _scaling_of(config, layer_type)
    heeded = scaling or rope if layer_type is None else {**rope, **scaling}
    keys, default = rotary.keys_of(name, layer_type)
    read = [(heeded, inside), *((config, key) for key in keys[:1])]
    taken = [place[key] for place, key in read if key in place]
    value = taken[0] if taken else default
    if name == "share" and not rotary.partial and value is None:
        value = default  # only where there is a share does null stand for another than the default
    if type(value) not in (int, float) or not least <= value <= most:
        expected = f"a number from {least} to {most:g}"
        raise _wrong(f"the rotary {name} makes no sense", value, expected)
    places = [(rope, inside), (scaling, inside), *((config, key) for key in keys)]
    given = [place[key] for place, key in places if place.get(key) is not None]
    if any(other != value for other in given):
        what, fix = "twice, and versions of the library differ in which they take", None
        if not taken:
            what = f"where the library does not read it, and it takes {default:g}"
            fix = f"give it as {keys[0]!r} at the top level"
        raise CheckpointError(
            f"the rotary {name} is given {what}",
            where="config.json",
            got=" and ".join(repr(v)[:50] for v in given),
            fix=fix,
        )
    if name == "share" and not rotary.partial and value != 1:
        what = "this architecture rotates all dimensions of a head"
        raise _wrong(what, value, "a rotary share of 1")
    return float(value)


def _scaling_of(
    config: Mapping[str, Any], layer_type: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """`rope_scaling` and `rope_parameters`, as far as they are of blocks of that type."""
    scaling, rope = _mapping(config, "rope_scaling"), _mapping(config, "rope_parameters")
    if layer_type is None:
        return scaling, rope
    return (scaling if layer_type == FULL else {}), _mapping(rope, layer_type)


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
    return {key: value for key, value in given.items() if key not in ("type", *_NOT_SCALING)}


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key) or {}
    if not isinstance(value, dict):
        raise _wrong(f"{key!r} is not an object", value)
    return value


def _wrong(what: str, got: object, expected: object = None) -> CheckpointError:
    return CheckpointError(what, where="config.json", expected=expected, got=repr(got)[:50])
