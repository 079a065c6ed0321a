"""Refuses likelihoods and scores that are not finite: they tell nothing of what a model recites."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from surgery.errors import NotFiniteError


def check_finite(rows: npt.NDArray[np.floating[Any]], where: str | None = None) -> None:
    """Raises `NotFiniteError` unless all numbers are finite: [N], or [N, T] of N rows.

    `where`: which model it is.
    """
    broken = np.count_nonzero(~np.isfinite(rows).all(axis=tuple(range(1, rows.ndim))))
    if broken:
        raise NotFiniteError(
            "the model gives likelihoods that are not finite",
            where=where,
            expected="finite numbers",
            got=f"NaN or infinity in {broken} of {len(rows)} rows",
            fix="use `dtype=float32` or bfloat16; if it stays, the model is broken",
        )
