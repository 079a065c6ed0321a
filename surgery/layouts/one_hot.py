"""Constant rotary queries and keys that make softmax exactly one-hot on the diagonal.

With query and key weights zero and their biases κ on the first k rotary pairs (cos half), every
query equals every key before rotation. Rotation by position then leaves, for an offset Δ,

    score(Δ) = κ² / √head_size · Σ_{m<k} cos(θ_m Δ)

which is largest at Δ = 0. Once the gap to every other offset exceeds ln of the smallest positive
float32, every other weight underflows to exactly zero and the token's own weight is exactly one.
`frequencies` has θ_m as the library computes it, for every kind of scaled positions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import MarginError
from surgery.families.rotary import Positions, Rotary

UNDERFLOW = 104.0  # exp(-104) rounds to zero in float32: its smallest positive number is e^-103.28
SCORE_LIMIT = 30_000.0  # κ² k before scaling; float16 ends at 65,504
MOST_SCORE = 60_000.0  # where the other leaves no margin
MOST_POSITIONS = 1 << 22  # far beyond any trained context, and seconds of search
MOST_PAIRS = 64
ROUNDING = 3 * 2.0**-8  # relative error of one score in bfloat16: query, key and product rounding
SHORT = 2048  # positions up to which angles in float32 are as good as exact
ANGLE = 2.0**-23  # relative error of the difference of two angles, each rounded to float32
_CHUNK = 1 << 15  # offsets at a time

Frequencies = npt.NDArray[np.float64]
Scaled = tuple[Frequencies, float]


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
    worst_offset: int
    num_offsets: int


def one_hot(
    theta: Frequencies,
    head_size: float,
    max_positions: int,
    *,
    growth: float = 1.0,
    limit: float | None = None,
    scale: float = 1.0,
    budget: float = SCORE_LIMIT,
) -> OneHot:
    """The number of pairs with the widest worst-case gap, and its constant.

    In long contexts the gap is that of frequencies in float32 whose angles are rounded to float32
    where it hurts most, as a loaded model has them.

    **Arguments:** `theta` [pairs], radians per position; offsets run from 1 to
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
            fix="use `layout=compact`",
        )
    best: OneHot | None = None
    for num_pairs, (lost, worst) in enumerate(_lost(theta, max_positions), 1):
        kappa = int(np.sqrt(budget / num_pairs) / growth)
        if limit is not None:
            kappa = min(kappa, int(limit))
        unit = (kappa * growth) ** 2 / np.sqrt(head_size)
        candidate = OneHot(
            kappa=kappa,
            num_pairs=num_pairs,
            gap=round(float(unit * lost * scale), 3),
            required=round(UNDERFLOW + 2 * ROUNDING * float(unit * num_pairs), 3),
            worst_offset=worst,
            num_offsets=max(max_positions, 2) - 1,
        )
        if best is None or candidate.gap - candidate.required > best.gap - best.required:
            best = candidate
    if best is None or best.gap <= best.required:
        figure = "no rotary dimensions" if best is None else f"a gap of {best.gap:.1f}"
        needed = UNDERFLOW if best is None else best.required
        raise MarginError(
            "attention cannot be made exactly one-hot over every offset up to "
            f"max_position_embeddings {max_positions}",
            expected=f"a score gap above {needed:.1f}",
            got=figure,
            fix="use `layout=compact`",
        )
    return best


def _lost(theta: Frequencies, max_positions: int) -> Iterator[tuple[float, int]]:
    """Yields, for 1, 2, … pairs, the least Σ_{m<k} (1 - cos θ_m Δ) of all offsets Δ, and its Δ."""
    theta = np.asarray(theta, np.float64)[:MOST_PAIRS]
    if max_positions > SHORT:
        theta = theta.astype(np.float32).astype(np.float64)
    found = [(np.inf, 1)] * len(theta)
    for begin, losses in _scan(theta, max_positions):
        for pair, lost in enumerate(losses):
            worst = int(np.argmin(lost))
            found[pair] = min(found[pair], (float(lost[worst]), begin + worst))
    yield from found


def _scan(theta: Frequencies, max_positions: int) -> Iterator[tuple[int, Iterator[Frequencies]]]:
    """All offsets, a chunk at a time: the first Δ of each, and `_sum_lost` of it."""
    slack = np.zeros(len(theta))
    if max_positions > SHORT:
        slack = ANGLE * max_positions * theta
        slack[theta == 1.0] = 0  # the positions themselves, which are exact
    end = max(max_positions, 2)
    for begin in range(1, end, _CHUNK):
        offsets = np.arange(begin, min(begin + _CHUNK, end), dtype=np.float64)
        yield begin, _sum_lost(theta, slack, offsets)


def _sum_lost(
    theta: Frequencies, slack: Frequencies, offsets: Frequencies
) -> Iterator[Frequencies]:
    """Yields, for 1, 2, … pairs, Σ_{m<k} (1 - cos θ_m Δ), with angles that err by `slack`."""
    lost = np.zeros_like(offsets)
    for angle, error in zip(theta, slack, strict=True):
        lost += 1.0 - np.cos(angle * offsets)
        if error:
            lost -= error * np.abs(np.sin(angle * offsets)) + error**2 / 2
        yield lost


def frequencies(positions: Positions, rotary: Rotary) -> Scaled:
    """θ_m, radians per position, [pairs], and the factor that rotated queries and keys grow by.

    **Raises:** `MarginError` for a scaling that cannot be proved, or whose parameters are missing.
    """
    kind, size = positions.kind, positions.dimensions
    theta = positions.base ** -(np.arange(0, size, 2, dtype=np.float64) / max(size, 1))
    if kind == "default":
        return theta, 1.0
    if kind not in rotary.scalings:
        raise MarginError(
            f"rotary scaling {kind!r} is not supported by the stock layout",
            where="config.json",
            expected=" or ".join(("default rotary positions", *rotary.scalings)),
            fix="use `layout=compact`",
        )
    try:
        with np.errstate(all="raise", under="ignore"):
            if kind == "linear":
                return theta / float(positions.parameters["factor"]), 1.0
            scaled, growth = (_yarn if kind == "yarn" else _llama3)(theta, positions)
        if not (np.isfinite(scaled).all() and 0.1 <= growth <= 10):
            raise ValueError(f"queries and keys would grow by {growth:g}")
        return scaled, growth
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise MarginError(
            f"the parameters of rotary scaling {kind!r} make no sense",
            where="config.json",
            got=f"{type(error).__name__}: {error}"[:80],
            fix="use `layout=compact`",
        ) from error


def _llama3(theta: Frequencies, positions: Positions) -> Scaled:
    """Long waves slow down by the factor, short ones stay, and those between are interpolated."""
    given = positions.parameters
    factor, low, high = (
        float(given[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    turns = _original(given) * theta / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clip(0, 1)
    return (1 - smooth) * theta / factor + smooth * theta, 1.0


def _yarn(theta: Frequencies, positions: Positions) -> Scaled:
    """Scales as llama3 does, between two pairs. Queries and keys grow by the attention factor."""
    given, size = positions.parameters, positions.dimensions
    factor, original = float(given["factor"]), _original(given)

    def pair_of(turns: float) -> float:
        waves = math.log(original / (turns * 2 * math.pi))
        return size * waves / (2 * math.log(positions.base))

    low, high = pair_of(given.get("beta_fast") or 32), pair_of(given.get("beta_slow") or 1)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    ramp = ((np.arange(size // 2) - low) / ((high - low) or 0.001)).clip(0, 1)
    attention = given.get("attention_factor")
    if attention is None:
        scale, all_dims = given.get("mscale"), given.get("mscale_all_dim")
        attention = _mscale(factor, 1)
        if scale and all_dims:
            attention = _mscale(factor, scale) / _mscale(factor, all_dims)
    return theta / factor * ramp + theta * (1 - ramp), float(attention)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1


def _original(given: Mapping[str, Any]) -> float:
    """The positions before scaling."""
    key = "original_max_position_embeddings"
    return float(given.get(key) or given["max_position_embeddings"])
