"""What an edit costs on held-out text, in nats, in several measures.

Most are of KL(base || edited) at each token. The mean hides what attention is for: copying from the
context. Few tokens take that, and on most tokens of prose an edited model predicts as before. So
other measures look at the tokens whose target stood earlier in the window, at text that is
repeated, at random tokens that are repeated, and at the worst tokens. One looks at accuracy.

M: windows, R: repeated windows, T: tokens of a window.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.data import Tokens

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]

MEASURES = {
    "kl": "KL divergence from the base on held-out text, nats per token",
    "kl.copied": "the same, on tokens that stood earlier in their window",
    "kl.repeated": "the same, on text that is repeated",
    "kl.tail": "the same, at the 99th percentile",
    "induction_fall": "fall of what random tokens gain when they are repeated, nats per token",
    "accuracy_fall": "fall of the share of next tokens predicted right: log of before / after",
}
"""Figure → what it is. Each is a cost, in nats."""
TAIL = 0.99
COUNTED = ("kl", "kl.copied", "kl.repeated", "induction_fall", "accuracy_fall")
"""Those that count for a search. The tail adds nothing to them (docs/beds/lab-pythia.md)."""


def find_copied(windows: Tokens) -> Flags:
    """Whether each token but the first stood earlier in its window: [M, T] → bool [M, T - 1]."""
    order = windows.argsort(axis=1, kind="stable")
    ordered, copied = np.take_along_axis(windows, order, 1), np.zeros(windows.shape, dtype=np.bool_)
    np.put_along_axis(copied, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return copied[:, 1:]


@dataclass(frozen=True)
class Skills:
    """What a model can do, in two numbers that an edit may lower.

    - `right`: how many tokens of held-out text it predicts right.
    - `induction`: by how much its loss on random tokens falls when they are repeated, in nats per
      token.
    """

    right: int
    induction: float

    @classmethod
    def of(cls, right: Flags, random_nll: Floats) -> Skills:
        """`right`: [M, T - 1], of held-out text; `random_nll`: [R, ·], the loss at each token but
        the first of windows whose halves are the same random tokens."""
        half = random_nll.shape[1] // 2 + 1  # the first token that the first half tells
        first, again = random_nll[:, : half - 1], random_nll[:, half:]
        gain = first.mean(dtype=np.float64) - again.mean(dtype=np.float64) if again.size else 0.0
        return cls(int(right.sum()), float(gain))


def measure_costs(
    token_kl: Floats, copied: Flags, repeated_kl: Floats, skills: Skills, of_base: Skills
) -> dict[str, float]:
    """`MEASURES`, in nats. Without a token that counts, a measure is 0.

    `token_kl`, `copied`: [M, T - 1]; `repeated_kl`: [R, ·], of these windows repeated, whose second
    half begins at token T // 2.
    """
    again = repeated_kl[:, (token_kl.shape[1] - 1) // 2 :]
    parts = {"kl": token_kl, "kl.copied": token_kl[copied], "kl.repeated": again}
    found = {
        name: float(some.mean(dtype=np.float64)) if some.size else 0.0
        for name, some in parts.items()
    }
    return found | {
        "kl.tail": float(np.quantile(token_kl, TAIL)) if token_kl.size else 0.0,
        "induction_fall": of_base.induction - skills.induction,
        "accuracy_fall": math.log((of_base.right + 1) / (skills.right + 1)),
    }


def find_worst(costs: Mapping[str, float]) -> tuple[str, float]:
    """The largest of the measures that count, by name and in nats."""
    worst = max((name for name in COUNTED if name in costs), key=costs.__getitem__)
    return worst, costs[worst]
