"""What an edit costs on held-out text, in four measures of KL(base || edited) at each token.

The mean hides what attention is for: copying from the context. Few tokens take that, and on most
tokens of prose an edited model predicts as before. So other measures look at the tokens whose
target stood earlier in the window, at text that is repeated, and at the worst tokens.

M: windows, R: repeated windows, T: tokens of a window.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from evals.data import Tokens

Floats = npt.NDArray[np.floating]
Flags = npt.NDArray[np.bool_]

MEASURES = {
    "kl": "the mean",
    "copied": "the mean over tokens that stood earlier in the window",
    "repeated": "the mean over the second half of windows whose halves are equal",
    "tail": "the 99th percentile",
}
"""Measure → which tokens' KL divergence it is, in nats."""
TAIL = 0.99
COUNTED = ("kl", "copied", "repeated")
"""Those that count for a search. The tail adds nothing to them (docs/beds/lab-pythia.md)."""


def find_copied(windows: Tokens) -> Flags:
    """Whether each token but the first stood earlier in its window: [M, T] → bool [M, T - 1]."""
    order = windows.argsort(axis=1, kind="stable")
    ordered, copied = np.take_along_axis(windows, order, 1), np.zeros(windows.shape, dtype=np.bool_)
    np.put_along_axis(copied, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], 1)
    return copied[:, 1:]


def measure_costs(token_kl: Floats, copied: Flags, repeated_kl: Floats) -> dict[str, float]:
    """`MEASURES`, in nats. Without a token that counts, a measure is 0.

    `token_kl`, `copied`: [M, T - 1]; `repeated_kl`: [R, ·], of these windows repeated, whose second
    half begins at token T // 2.
    """
    again = repeated_kl[:, (token_kl.shape[1] - 1) // 2 :]
    parts = {"kl": token_kl, "copied": token_kl[copied], "repeated": again}
    found = {
        name: float(some.mean(dtype=np.float64)) if some.size else 0.0
        for name, some in parts.items()
    }
    return found | {"tail": float(np.quantile(token_kl, TAIL)) if token_kl.size else 0.0}


def find_worst(costs: Mapping[str, float]) -> tuple[str, float]:
    """The largest of the measures that count, by name and in nats."""
    worst = max((name for name in COUNTED if name in costs), key=costs.__getitem__)
    return worst, costs[worst]
