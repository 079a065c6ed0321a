"""Constant rotary queries and keys that make softmax exactly one-hot on the diagonal.

With query and key weights zero and their biases κ on the first k rotary pairs (cos half), every
query equals every key before rotation. Rotation by position then leaves, for an offset Δ,

    score(Δ) = κ² / √head_size · Σ_{m<k} cos(θ_m Δ)

which is largest at Δ = 0. Once the gap to every other offset exceeds ln of the smallest positive
float32, every other weight underflows to exactly zero and the token's own weight is exactly one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import MarginError
from surgery.families.rotary import rotary_kind, rotary_positions

UNDERFLOW = 104.0  # exp(-104) rounds to zero in float32: its smallest positive number is e^-103.28
SCORE_LIMIT = 30_000.0  # κ² k before scaling; float16 ends at 65,504
MOST_POSITIONS = 1 << 22  # a table of offsets that fits in memory; far beyond any trained context
ROUNDING = 3 * 2.0**-8  # relative error of one score in bfloat16: query, key and product rounding


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


def inverse_frequencies(config: dict[str, Any], head_size: int) -> npt.NDArray[np.float64]:
    """θ_m = base^(-2m / rotary dimensions) for m < rotary dimensions / 2, from config.json.

    **Raises:** `MarginError` for any rotary scaling other than the default, `CheckpointError` for
    values that make no sense.
    """
    kind = rotary_kind(config)
    if kind != "default":
        raise MarginError(
            f"rotary scaling {kind!r} is not supported by the stock layout",
            where="config.json",
            expected="default rotary positions",
            fix="use `layout=compact`",
        )
    dimensions, base = rotary_positions(config, head_size)
    return base ** -(np.arange(0, dimensions, 2, dtype=np.float64) / max(dimensions, 1))


def one_hot(frequencies: npt.NDArray[np.float64], head_size: int, max_positions: int) -> OneHot:
    """The number of pairs with the widest worst-case gap, and its constant.

    **Arguments:** `frequencies` [pairs], radians per position; offsets run from 1 to
    `max_positions` - 1.

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
    offsets = np.arange(1, max(max_positions, 2), dtype=np.float64)
    lost = np.zeros_like(offsets)  # Σ_{m<k} (1 - cos θ_m Δ)
    best: OneHot | None = None
    for num_pairs, frequency in enumerate(frequencies, 1):
        lost += 1.0 - np.cos(frequency * offsets)
        kappa = int(np.sqrt(SCORE_LIMIT / num_pairs))
        unit = kappa**2 / np.sqrt(head_size)
        worst = int(np.argmin(lost))
        candidate = OneHot(
            kappa=kappa,
            num_pairs=num_pairs,
            gap=round(float(unit * lost[worst]), 3),
            required=round(UNDERFLOW + 2 * ROUNDING * float(unit * num_pairs), 3),
            worst_offset=worst + 1,
            num_offsets=len(offsets),
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
