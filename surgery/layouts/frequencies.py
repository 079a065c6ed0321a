"""How fast rotary pairs turn, as the library computes it for every kind of scaled positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import MarginError
from surgery.families.rotary import Positions, Rotary

Scaled = tuple[npt.NDArray[np.float64], float]


def frequencies(positions: Positions, rotary: Rotary) -> tuple[npt.NDArray[np.float64], float]:
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
        if kind == "linear":
            return theta / float(positions.parameters["factor"]), 1.0
        return (_yarn if kind == "yarn" else _llama3)(theta, positions)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise MarginError(
            f"the parameters of rotary scaling {kind!r} make no sense",
            where="config.json",
            got=f"{type(error).__name__}: {error}"[:80],
            fix="use `layout=compact`",
        ) from error


def _llama3(theta: npt.NDArray[np.float64], positions: Positions) -> Scaled:
    """Long waves slow down by the factor, short ones stay, and those between are interpolated."""
    given = positions.parameters
    factor, low, high = (
        float(given[key]) for key in ("factor", "low_freq_factor", "high_freq_factor")
    )
    turns = _original(given) * theta / (2 * math.pi)
    smooth = ((turns - low) / (high - low)).clip(0, 1)
    return (1 - smooth) * theta / factor + smooth * theta, 1.0


def _yarn(theta: npt.NDArray[np.float64], positions: Positions) -> Scaled:
    """As llama3, between two pairs; queries and keys grow by the attention factor."""
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
