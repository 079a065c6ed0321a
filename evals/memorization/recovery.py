"""What counts as recovering a passage: each measure with its definition.

Shape letters: N rows, S suffix tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]
Chances = npt.NDArray[np.floating[Any]]

FORMS = "greedy or hints:K"


@dataclass(frozen=True)
class Measure:
    """When an attacker has a passage.

    - `recovered`: which teacher-forced greedy tokens are right, bool [N, S] -> bool [N].
    - `chance`: that of each token to be right, independently, [..., S] -> that of the passage to be
      recovered [...].
    """

    name: str
    definition: str
    recovered: Callable[[Flags], Flags]
    chance: Callable[[Chances], Chances]


def hints(most: int) -> Measure:
    """An attacker who is told the true token after each wrong one, `most` times; 0: none is wrong.

    What such an attacker reads are the teacher-forced predictions, whose errors are counted.
    """
    correcting = f"correcting {most} wrong tokens" if most else "word for word"

    def recovered(right: Flags) -> Flags:
        flags: Flags = (~right).sum(axis=-1) <= most
        return flags

    def chance(right: Chances) -> Chances:
        by_errors = [np.ones_like(right[..., 0])] + [np.zeros_like(right[..., 0])] * most
        for p in np.moveaxis(right, -1, 0):  # by_errors[e]: the chance of e errors so far
            for errors in range(most, 0, -1):
                by_errors[errors] = by_errors[errors] * p + by_errors[errors - 1] * (1 - p)
            by_errors[0] = by_errors[0] * p
        total: Chances = np.sum(by_errors, axis=0)
        return total

    return Measure(
        f"hints:{most}" if most else "greedy",
        f"greedy decoding after the prefix repeats the suffix, {correcting}",
        recovered,
        chance,
    )


def measure_of(name: str) -> Measure:
    """The measure that is named so (`FORMS`). Raises `ValueError` for any other name."""
    kind, _, number = name.partition(":")
    if name == "greedy":
        return hints(0)
    if kind == "hints" and number.isascii() and number.isdecimal() and len(number) < 5:
        return hints(int(number))
    raise ValueError(f"no measure {name!r} (expected {FORMS})")
