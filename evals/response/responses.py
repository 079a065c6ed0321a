"""Stored responses, and what they say about any set of heads and blocks.

Shape letters: U units, D draws, N rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import numpy.typing as npt

from evals.response.units import Units
from surgery.selection import Selection


@dataclass(frozen=True)
class Estimate:
    """A figure, and its standard error over rows and draws: that of the mean of the rows."""

    value: float
    error: float


@dataclass(frozen=True, eq=False)
class Responses:
    """How a scalar of a text answers to every unit, to first order.

    `values`: float32 [U, D, N]. `scale` makes a figure of the mean square, see
    `evals.response.texts`. Responses add, so the figure of a set is that of their sum.
    """

    units: Units
    values: npt.NDArray[np.float32]
    scale: float

    def rows(self, selection: Selection) -> npt.NDArray[np.float64]:
        """The figure of each row, float64 [N]."""
        total = self.values[self.units.of(selection)].sum(axis=0, dtype=np.float64)
        rows: npt.NDArray[np.float64] = self.scale * np.square(total).mean(axis=0)
        return rows

    def of(self, selection: Selection) -> Estimate:
        """The figure of an edit."""
        rows = self.rows(selection)
        error = rows.std(ddof=1) / sqrt(len(rows)) if len(rows) > 1 else float("nan")
        return Estimate(float(rows.mean()), float(error))
