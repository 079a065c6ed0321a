"""Constant rotary queries and keys that make softmax exactly one-hot on the diagonal.

With query and key weights zero and their biases κ on the first k rotary pairs (cos half), every
query equals every key before rotation. Rotation by position then leaves, for an offset Δ,

    score(Δ) = κ² / √head_size · Σ_{m<k} cos(θ_m Δ)

which is largest at Δ = 0. Once the gap to every other offset exceeds ln of the smallest positive
float32, every other weight underflows to exactly zero and the token's own weight is exactly one.
Pair m turns by θ_m radians per position, base^(-2m / rotated dimensions) unless positions are
scaled; `frequencies` has θ_m as the library computes it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import CheckpointError, MarginError, UnsupportedError
from surgery.families import Family

UNDERFLOW = 104.0  # exp(-104) rounds to zero in float32: its smallest positive number is e^-103.28
SCORE_LIMIT = 30_000.0  # κ² k before scaling; float16 ends at 65,504
MOST_SCORE = 60_000.0  # where the other leaves no margin
MOST_POSITIONS = 1 << 22  # far beyond any trained context, and seconds of search
MOST_PAIRS = 64
ROUNDING = 3 * 2.0**-8  # relative error of one score in bfloat16: query, key and product rounding
NORMED = 0.98  # what a norm that rounds three times more in bfloat16 leaves of a score, at least
SHORT = 2048  # positions up to which angles in float32 are as good as exact
ANGLE = 2.0**-23  # relative error of the difference of two angles, each rounded to float32
_CHUNK = 1 << 15  # offsets at a time
_SLIDING, _FULL = "sliding_attention", "full_attention"
_EVERY = ("sliding_window_pattern", "_sliding_window_pattern")
_FIX = "take `variant=zero` or mean"

Frequencies = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OneHot:
    """The constant and what it achieves.

    `kappa` is a whole number (exact in float32, bfloat16 and float16); `num_pairs` counts rotary
    pairs; `gap` is the worst difference between the score at offset 0 and at any other offset up to
    `num_offsets`, in nats; `required` is what `gap` must exceed in the least precise dtype.
    """

    kappa: int
    num_pairs: int
    gap: float
    required: float
    num_offsets: int


def find_one_hot(config: Mapping[str, Any], family: Family, block: int) -> OneHot:
    """The number of pairs with the widest worst-case gap of a block, and its constant.

    **Raises:** `UnsupportedError` for an architecture whose queries cannot be constant and rotary,
    and `MarginError`, with the figure, when no choice leaves a sufficient gap.
    """
    if not family.rotary:
        raise UnsupportedError(
            f"{family.model_type} has no rotary positions, so its own architecture cannot make a "
            "token attend to itself alone",
            fix=f"{_FIX}, or `layout=compact`",
        )
    if family.cap is not None and config.get(family.cap, 0) is not None:  # 0: the library's default
        raise UnsupportedError(
            f"{family.model_type} caps the scores of its attention ({family.cap}), so a token's "
            "own cannot lead by enough",
            fix=_FIX,
        )
    theta, growth = frequencies(config, family, block)
    size = family.dimensions(config)
    head = float(size.head_size)
    if family.scale is not None:  # as of heads of another size
        key, default, power = family.scale
        head = read_number(config, key, default) ** (-2 * power)
    budget = SCORE_LIMIT if head <= size.head_size else MOST_SCORE
    terms = (
        *(tuple(theta.tolist()), head, size.max_positions, growth, read_clip(config, family)),
        1.0 if family.norms is None else NORMED,
    )
    try:
        return search(*terms, budget)
    except MarginError:
        if budget == MOST_SCORE:
            raise
        return search(*terms, MOST_SCORE)


def read_number(config: Mapping[str, Any], key: str, default: float) -> float:
    """A number above 0 of config.json."""
    value = config.get(key)
    value = default if value is None else value
    if type(value) not in (int, float) or not 1e-30 < value < 1e30:
        raise _wrong(f"{key!r} is not a number above 0", value)
    return float(value)


def read_clip(config: Mapping[str, Any], family: Family) -> float | None:
    """The bound that the model clips queries, keys and values to, if it does."""
    if family.clip is None or config.get(family.clip) is None:
        return None
    return read_number(config, family.clip, 0)


@lru_cache
def search(
    theta: tuple[float, ...],
    head_size: float,
    max_positions: int,
    growth: float = 1.0,
    limit: float | None = None,
    scale: float = 1.0,
    budget: float = SCORE_LIMIT,
) -> OneHot:
    """The number of pairs with the widest worst-case gap, and its constant.

    In long contexts the gap is that of frequencies in float32 whose angles are rounded to float32
    where it hurts most, as a loaded model has them.

    **Arguments:** `theta`: radians per position of each pair; offsets run from 1 to
    `max_positions` - 1. `growth`: what rotated queries and keys are multiplied by; `limit`: the
    largest value that queries and keys may have; `scale`: what else scores are multiplied by;
    `budget`: the most that a score may be before scaling.

    **Raises:** `MarginError`, with the figure, when no choice leaves a sufficient gap.
    """
    if max_positions > MOST_POSITIONS:
        raise MarginError(
            "too many positions to prove attention one-hot for each",
            where="config.json",
            expected=f"max_position_embeddings up to {MOST_POSITIONS:,}",
            got=max_positions,
            fix=_FIX,
        )
    best: OneHot | None = None
    for pairs, lost in enumerate(_least_lost(np.array(theta), max_positions), 1):
        kappa = int(math.sqrt(budget / pairs) / growth)
        if limit is not None:
            kappa = min(kappa, int(limit))
        unit = (kappa * growth) ** 2 / math.sqrt(head_size)
        gap = round(unit * lost * scale, 3)
        required = round(UNDERFLOW + 2 * ROUNDING * unit * pairs, 3)
        if best is None or gap - required > best.gap - best.required:
            best = OneHot(kappa, pairs, gap, required, max(max_positions, 2) - 1)
    if best is None or best.gap <= best.required:
        raise MarginError(
            "attention cannot be made exactly one-hot over every offset up to "
            f"max_position_embeddings {max_positions}",
            expected=f"a score gap above {UNDERFLOW if best is None else best.required:.1f}",
            got="no rotary dimensions" if best is None else f"a gap of {best.gap:.1f}",
            fix=_FIX,
        )
    return best


def _least_lost(theta: Frequencies, max_positions: int) -> list[float]:
    """For 1, 2, … pairs, the least Σ_{m<k} (1 - cos θ_m Δ) of all offsets Δ."""
    theta = theta[:MOST_PAIRS]
    slack = np.zeros(len(theta))  # how much an angle may err
    if max_positions > SHORT:
        theta = theta.astype(np.float32).astype(np.float64)
        slack = ANGLE * max_positions * theta
        slack[theta == 1.0] = 0  # the positions themselves, which are exact
    least = [math.inf] * len(theta)
    end = max(max_positions, 2)
    for begin in range(1, end, _CHUNK):
        offsets = np.arange(begin, min(begin + _CHUNK, end), dtype=np.float64)
        lost = np.zeros_like(offsets)
        for pair, (angle, error) in enumerate(zip(theta, slack, strict=True)):
            lost += 1.0 - np.cos(angle * offsets)
            if error:
                lost -= error * np.abs(np.sin(angle * offsets)) + error**2 / 2
            least[pair] = min(least[pair], float(np.min(lost)))
    return least


def frequencies(config: Mapping[str, Any], family: Family, block: int) -> tuple[Frequencies, float]:
    """θ_m of a block, radians per position, [pairs], and the factor that rotated queries and keys
    grow by.

    **Raises:** `CheckpointError` for values that make no sense, or are given twice and differ;
    `MarginError` for a scaling that is not proved.
    """
    given = _read_positions(config, family, block)
    share = _agree(
        "rotary share", [given.get("partial_rotary_factor"), config.get(family.share_key)]
    )
    share = family.share if share is None else share
    if type(share) not in (int, float) or not 0 <= share <= 1:
        raise _wrong("the rotary share is not a number from 0 to 1", share)
    key, default = family.base_key, family.base
    if family.sliding_base is not None and _layer_type(config, family, block) == _SLIDING:
        key, default = family.sliding_base
    base = _agree("rotary base", [given.get("rope_theta"), config.get(key)])
    base = default if base is None else base
    if type(base) not in (int, float) or not 1 <= base < 1e30:
        raise _wrong("the rotary base is not a number of at least 1", base)
    size = int(family.dimensions(config).head_size * share)
    theta = base ** -(np.arange(0, size, 2, dtype=np.float64) / max(size, 1))
    kind = str(given.get("rope_type", given.get("type", "default")))
    if kind == "default":
        return theta, 1.0
    if kind not in _SCALINGS:
        raise MarginError(
            f"rotary scaling {kind[:50]!r} is not proved one-hot",
            where="config.json",
            expected=" or ".join(("default", *_SCALINGS)),
            fix=_FIX,
        )
    whole = {"max_position_embeddings": config.get("max_position_embeddings"), **given}
    try:
        with np.errstate(all="raise", under="ignore"):
            scaled, growth = _SCALINGS[kind](theta, whole, size, base)
        if not (np.isfinite(scaled).all() and 0.1 <= growth <= 10):
            raise ValueError(f"queries and keys would grow by {growth:g}")
        return scaled, growth
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise MarginError(
            f"the parameters of rotary scaling {kind!r} make no sense",
            where="config.json",
            got=f"{type(error).__name__}: {error}"[:80],
            fix=_FIX,
        ) from error


def _read_positions(config: Mapping[str, Any], family: Family, block: int) -> Mapping[str, Any]:
    """What config.json says of the positions of a block, in the spelling of either version: kind,
    parameters, base, and share. Where blocks differ, only those that attend fully are scaled."""
    rope, scaling = (config.get(key) or {} for key in ("rope_parameters", "rope_scaling"))
    if not (isinstance(rope, dict) and isinstance(scaling, dict)):
        raise _wrong("'rope_parameters' or 'rope_scaling' is not an object", rope or scaling)
    if family.full_every:
        kind = _layer_type(config, family, block)
        rope = rope.get(kind, rope) if isinstance(rope.get(kind, rope), dict) else {}
        scaling = scaling if kind == _FULL else {}
    elif not rope and not scaling:
        return family.scaled
    for key in rope.keys() & scaling.keys():
        _agree(f"rotary {key}", [rope[key], scaling[key]])
    return {**rope, **scaling}


def _layer_type(config: Mapping[str, Any], family: Family, block: int) -> str:
    """How a block attends, where some attend within a window."""
    types = config.get("layer_types")
    if types is None:
        every = next((config[key] for key in _EVERY if key in config), family.full_every)
        if type(every) is not int or every < 1:
            raise _wrong(f"{_EVERY[0]!r} is not a positive whole number", every)
        return _SLIDING if (block + 1) % every else _FULL
    if not isinstance(types, list) or block >= len(types):
        raise _wrong("'layer_types' does not say how every block attends", types)
    return str(types[block])


def placed(config: Mapping[str, Any], family: Family) -> list[int] | None:
    """Of each block 1, or 0 if it has no positions; None where all have."""
    if not family.unplaced:
        return None
    number, given = family.dimensions(config).num_blocks, config.get("no_rope_layers")
    if given is None:
        every = config.get("no_rope_layer_interval", 4)
        if type(every) is not int or every < 1:
            raise _wrong("'no_rope_layer_interval' is not a positive whole number", every)
        return [int((block + 1) % every != 0) for block in range(number)]
    if not isinstance(given, list) or len(given) < number or not {*map(str, given)} <= {"0", "1"}:
        raise _wrong("'no_rope_layers' is not a 0 or 1 for each block", given)
    return list(given)


def _agree(what: str, values: list[Any]) -> Any:
    """The value that is given, perhaps twice; None if it is not."""
    found = [value for value in values if value is not None]
    if any(value != found[0] for value in found):
        got = " and ".join(repr(value)[:50] for value in found)
        raise _wrong(f"the {what} is given twice, and versions of the library differ", got)
    return found[0] if found else None


def _linear(
    theta: Frequencies, given: Mapping[str, Any], size: int, base: float
) -> tuple[Frequencies, float]:
    return theta / float(given["factor"]), 1.0


def _llama3(
    theta: Frequencies, given: Mapping[str, Any], size: int, base: float
) -> tuple[Frequencies, float]:
    """Long waves slow down by the factor, short ones stay, and those between are interpolated."""
    factor, low, high = (
        float(given[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    turns = _original(given) * theta / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clip(0, 1)
    return (1 - smooth) * theta / factor + smooth * theta, 1.0


def _yarn(
    theta: Frequencies, given: Mapping[str, Any], size: int, base: float
) -> tuple[Frequencies, float]:
    """Scales as llama3 does, between two pairs. Queries and keys grow by the attention factor."""
    factor, original = float(given["factor"]), _original(given)

    def pair_of(turns: float) -> float:
        return size * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(given.get("beta_fast") or 32), pair_of(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = ((np.arange(size // 2) - low) / ((high - low) or 0.001)).clip(0, 1)
    growth = given.get("attention_factor")
    if growth is None:
        scale, all_dims = given.get("mscale"), given.get("mscale_all_dim")
        growth = _mscale(factor, 1)
        if scale and all_dims:
            growth = _mscale(factor, scale) / _mscale(factor, all_dims)
    return theta / factor * ramp + theta * (1 - ramp), float(growth)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1


def _original(given: Mapping[str, Any]) -> float:
    """The positions before scaling."""
    key = "original_max_position_embeddings"
    return float(given.get(key) or given["max_position_embeddings"])


_SCALINGS = {"linear": _linear, "llama3": _llama3, "yarn": _yarn}


def _wrong(what: str, got: object) -> CheckpointError:
    return CheckpointError(what, where="config.json", got=repr(got)[:60])
