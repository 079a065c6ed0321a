"""What sets of units would do, to first order, corrected by what was measured.

A unit's responses are a row of numbers: how it moves likelihoods on held-out text, and how it moves
the margin of every suffix token of the passages. Rows add, so any set is estimated in microseconds.

Shape letters: U units, E likelihoods on held-out text, N passages, S suffix tokens.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.special import ndtr

from evals.memorization.recovery import Recovery
from evals.running.processes import Processes, map_in_order
from evals.search.front import Point
from evals.search.units import Units
from surgery.selection import Part

Floats = npt.NDArray[np.floating[Any]]
Changes = npt.NDArray[np.int64]
"""[M, 2]: of a set, the unit that goes and the one that comes; -1 is none."""

_DRIFT = 1.4  # by how many ρ² margins fall; measured on a model of 24 blocks
_SURE = 0.05  # nats of margin that no estimate is surer of
_OWN = 0.15  # share of the cost that is counted unit by unit, so that noise cannot cancel cost
_FACTORS = np.linspace(-2, 2, 33)  # logarithms; of drifts that are tried
_DOUBT = 0.1  # of what was measured, against 1 of what was estimated
_LEAST = 1e-6
_PART = 64  # sets at a time


class Expected(NamedTuple):
    """Of edits: KL(base || edited) on held-out text, and the share of passages recovered."""

    heldout_kl: Floats
    recovered: Floats


@dataclass(frozen=True, eq=False)
class Estimates:
    """Responses of units, and what they say about sets of them.

    - `units`: those that were looked at. `pools`: which of them one layout holds together.
    - `cost`: float32 [U + 1, E]; the mean square of the sum of a set's rows is its KL, nats per
      token. `moved`: float32 [U + 1, N, S], changes of margins, in nats; they add as well. The last
      row of both is that of no unit, zeros.
    - `margins`: those of the unedited model [N, S]. Only the passages that it gives away are looked
      at; `passages` is the number that rates refer to.
    - `corrections`: [U + 1, 2], logarithms: by which factor a unit's cost, and the fall of margins
      that it brings, exceed what its rows say.
    - `processes`: which share what sets are tried; each asks for the same ones.
    """

    units: tuple[Part, ...]
    pools: tuple[frozenset[Part], ...]
    cost: Floats
    moved: Floats
    margins: Floats
    passages: int
    measure: Recovery
    corrections: Floats | float = 0.0
    processes: Processes = field(default_factory=Processes)

    def expected(self, chosen: Iterable[Part]) -> Expected:
        return self.changed(self.indices(chosen), np.array([[-1, -1]]))

    def figures(self, chosen: Iterable[Part]) -> dict[str, float]:
        """What is expected of a set of units; `margin`: the mean square of its moves, nats²."""
        some = self.indices(chosen)
        (kl,), (rate,) = self.changed(some, np.array([[-1, -1]]))
        moved = np.square(self.moved[some].sum(axis=0)).mean()
        return {"kl": float(kl), "margin": float(moved), "recited": float(rate)}

    def indices(self, chosen: Iterable[Part]) -> list[int]:
        return sorted(self._index[unit] for unit in chosen)

    def changed(self, chosen: Iterable[int], changes: Changes) -> Expected:
        """What a set is expected to do after each of `changes`."""
        sums = [values[sorted(chosen)].sum(axis=0) for values in self._rows]

        def some(part: Changes) -> tuple[Floats, Floats]:
            less, more = part.T
            pairs = zip(sums, self._rows, strict=True)
            cost, moved, own = (total - rows[less] + rows[more] for total, rows in pairs)
            factors = np.exp(own[:, 2:] / np.maximum(own[:, :2], 1e-30))
            kl = (1 - _OWN) * np.square(cost).mean(axis=-1) + _OWN * own[:, 0]
            return kl * factors[:, 0], self._rate(moved, factors[:, 1])

        parts = np.split(changes, range(_PART, len(changes), _PART))
        # one part is no work to share, and a report asks for it where the others have ended
        sharing = self.processes if len(parts) > 1 else Processes()
        found = map_in_order(parts, some, processes=sharing)
        kl, rates = (np.concatenate(some) for some in zip(*found, strict=True))
        return Expected(kl, rates)

    def corrected(self, measured: Collection[tuple[Units, Point]]) -> Estimates:
        """With the corrections that explain best what measured sets cost and left recovered.

        A ridge regression, of logarithms, on the share that each unit has in a set.
        """
        sets = [self.indices(chosen) for chosen, _ in measured]
        *_, own = self._rows
        factors = np.array([self._factors(s, p) for s, (_, p) in zip(sets, measured, strict=True)])
        corrections = np.zeros((len(self.units) + 1, 2))
        for kind, values in enumerate(factors.T):
            shares = np.ones((len(sets), len(self.units) + 1))  # the last: what all have in common
            shares[:, :-1] = 0
            for row, some in zip(shares, sets, strict=True):
                row[some] = own[some, kind] / own[some, kind].sum()
            fitted = shares.T @ np.linalg.solve(
                shares @ shares.T + _DOUBT * np.eye(len(sets)), values
            )
            corrections[:-1, kind] = fitted[:-1] + fitted[-1]
        return replace(self, corrections=corrections)

    def _factors(self, some: list[int], point: Point) -> tuple[float, float]:
        """Logarithms: by which a set costs more, and moves more, than its rows say."""
        cost, moved, own = (values[some].sum(axis=0) for values in self._rows)
        kl = (1 - _OWN) * np.square(cost).mean() + _OWN * own[0]
        rates = self._rate(moved[None], np.exp(_FACTORS))
        before = own[3] / own[1]  # what leaves the rate as it is says nothing
        error = np.square(np.sqrt(rates) - point.recovered**0.5)
        error += 1e-3 * np.square(_FACTORS - before)
        best = float(_FACTORS[int(np.argmin(error))])
        return float(np.log((point.heldout_kl + _LEAST) / (kl + _LEAST))), best

    def _rate(self, moved: Floats, factors: Floats) -> Floats:
        """[M, N, S] summed changes of margins -> the share of passages that stays recovered [M].

        ρ², the mean square change within a passage, says more about other passages than the changes
        themselves, which a set can be fitted to. A margin is taken to move by ρ at random, to fall
        by a multiple of ρ², and to be uncertain by as much as ρ², as terms of second order do.
        """
        changes = torch.from_numpy(moved)  # several times as fast as numpy and scipy
        square = changes.square().mean(dim=-1, keepdim=True)
        spread = torch.sqrt(_SURE**2 + square + square**2)
        drift = torch.from_numpy(_DRIFT * factors).to(square)[:, None, None]
        right = ndtr((torch.from_numpy(self.margins) - drift * square) / spread)
        by_token = right.movedim(-1, 0).contiguous().movedim(0, -1)  # as a measure goes through it
        rate: Floats = self.measure.chance(by_token.numpy()).sum(axis=-1) / self.passages
        return rate

    @cached_property
    def _index(self) -> dict[Part, int]:
        return {unit: index for index, unit in enumerate(self.units)}

    @cached_property
    def _rows(self) -> tuple[Floats, Floats, Floats]:
        """What adds up: cost, moved, and [U + 1, 4] the KL and the mean square of the moves of each
        unit alone, plain and times its corrections."""
        rows = self.cost, self.moved
        own = np.stack([np.square(some).reshape(len(some), -1).mean(1) for some in rows], axis=1)
        own = own.astype(np.float64)
        return self.cost, self.moved, np.hstack([own, own * self.corrections])

    @cached_property
    def heads(self) -> npt.NDArray[np.bool_]:
        """[U, all heads], which of them a unit edits."""
        every = sorted({(unit.block, head) for unit in self.units for head in unit.heads})
        edits = [
            [block == u.block and head in u.heads for block, head in every] for u in self.units
        ]
        return np.array(edits)
