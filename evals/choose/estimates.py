"""Estimates what sets of units would do, to first order, corrected by measurements.

A unit's responses are a row of numbers: how it moves likelihoods on held-out text, and how it moves
the margin of every suffix token of the passages. Rows add up, so estimating a set takes
microseconds. An index names a unit.

Shape letters: U units, E likelihoods on held-out text, N passages, S suffix tokens, M changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch.special import ndtr

from evals.data import measure_lengths
from evals.data.held_back import Half
from evals.measure.first_order import Probe, expand_loss, expand_margins
from evals.measure.memorization.recovery import Recovery
from surgery.in_memory import Editable
from surgery.selection import EditedHeads
from surgery.variants import Fit

Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Indices = frozenset[int]
Changes = npt.NDArray[np.int64]
"""[M, 2]: the unit that leaves a set and the one that joins it; -1 is none."""

DRAWS = 4
"""How often tokens are drawn for each window. With few draws, a search fits sets to their noise."""
MOST_PASSAGES = 256
"""At most so many passages; each takes a backward pass for every suffix token."""
NONE = np.array([[-1, -1]])
_DRIFT = 1.4  # by how many ρ² margins fall; measured on a model of 24 blocks
_UNSURE = 0.05  # uncertainty of every margin, in nats
_OWN = 0.15  # share of the cost to count unit by unit, so that noise cannot cancel it
_FACTORS = np.linspace(-2, 2, 33)  # logarithms of the drifts to try
_RIDGE = 0.1  # how much an estimate counts, against 1 for a measurement
_PART = 64  # sets at a time


class Expected(NamedTuple):
    """What M sets should do: KL(base || edited) on held-out text, and the share recovered."""

    kl: Floats
    rate: Floats


@dataclass(frozen=True, eq=False)
class Estimates:
    """Responses of units, and estimates of sets of them.

    - `held`: which layouts can hold a unit, bool [U, L]. One layout holds all units of a set.
    - `cost`: float32 [U + 1, E]; the mean square of the sum of a set's rows is its KL, nats per
      token. `moved`: float32 [U + 1, N, S], changes of margins, in nats. The last row of both is
      zeros.
    - `margins`: of the unedited model [N, S], for the passages that it gives away, or some of them,
      infinite after the end of a shorter suffix; `lengths`: the tokens of each suffix, [N], None:
      S. Rates refer to `passages`, which are fewer if not all of them are looked at. `others`: all
      passages at hand, and so how many others there may be.
    - `corrections`: [U + 1, 2], logarithms of the factors by which a unit's cost, and the fall of
      margins that it brings, exceed what its rows say.
    """

    units: tuple[EditedHeads, ...]
    held: Flags
    cost: Floats
    moved: Floats
    margins: Floats
    passages: int
    others: int
    measure: Recovery
    lengths: npt.NDArray[np.int64] | None = None
    corrections: Floats | float = 0.0

    def predict(self, chosen: Iterable[int], changes: Changes = NONE) -> Expected:
        """Predicts what a set does after each of `changes`."""
        rows = self.cost, self.moved, self._own
        sums = [values[sorted(chosen)].sum(axis=0) for values in rows]
        found = []
        for part in np.split(changes, range(_PART, len(changes), _PART)):
            less, more = part.T
            cost, moved, own = (
                total - values[less] + values[more]
                for total, values in zip(sums, rows, strict=True)
            )
            factors = np.exp(own[:, 2:] / np.maximum(own[:, :2], 1e-30))
            kl = (1 - _OWN) * np.square(cost).mean(axis=-1) + _OWN * own[:, 0]
            found.append((kl * factors[:, 0], self._rate(moved, factors[:, 1])))
        return Expected(*map(np.concatenate, zip(*found, strict=True)))

    def predict_one(self, parts: Iterable[EditedHeads]) -> dict[str, float]:
        """What is expected of units together; `margin`: the mean square of its moves, nats²."""
        some = [self.units.index(part) for part in parts]
        (kl,), (rate,) = self.predict(some)
        margin = np.square(self.moved[some].sum(axis=0)).mean()
        return {"kl": float(kl), "margin": float(margin), "recited": float(rate)}

    def correct(self, costs: Mapping[Indices, float], rates: Mapping[Indices, float]) -> Estimates:
        """Returns estimates whose corrections best explain the measured KL and rates of sets.

        Two ridge regressions find them, one for costs and one for drifts: of the logarithm of the
        factor between measured and estimated, on the share of each unit in a set and a constant.
        Without sets to explain, corrections stay.
        """
        plain = replace(self, corrections=0.0)
        corrections = np.zeros((len(self.units) + 1, 2)) + self.corrections
        for kind, (find, measured) in enumerate(((plain._dearer, costs), (plain._drift, rates))):
            if not measured:
                continue
            factors = [find(sorted(chosen), told) for chosen, told in measured.items()]
            shares = np.zeros((len(measured), len(self.units) + 1))
            for row, some in zip(shares, map(sorted, measured), strict=True):
                row[some] = self._own[some, kind] / self._own[some, kind].sum()
            shares[:, -1] = 1
            inner = shares @ shares.T + _RIDGE * np.eye(len(measured))
            fitted = shares.T @ np.linalg.solve(inner, factors)
            corrections[:-1, kind] = fitted[:-1] + fitted[-1]
        return replace(self, corrections=corrections)

    def _dearer(self, some: list[int], kl: float) -> float:
        """The logarithm of the factor by which a set costs more than estimated."""
        (expected,), _ = self.predict(some)
        return float(np.log((kl + 1e-6) / (expected + 1e-6)))

    def _drift(self, some: list[int], rate: float) -> float:
        """The logarithm of the factor by which a set moves margins more than estimated."""
        rates = self._rate(self.moved[some].sum(axis=0)[None], np.exp(_FACTORS))
        error = np.square(np.sqrt(rates) - rate**0.5) + 1e-3 * np.square(_FACTORS)
        return float(_FACTORS[np.argmin(error)])

    def _rate(self, moved: Floats, factors: Floats) -> Floats:
        """[M, N, S] summed changes of margins -> the share of passages that stays recovered [M].

        ρ², the mean square change within a passage, says more about other passages than the changes
        themselves, to which a search can fit a set. The model of a margin: it moves by ρ at random,
        falls by a multiple of ρ², and is uncertain by ρ², as second-order terms are.
        """
        changes = torch.from_numpy(moved)  # several times as fast as numpy and scipy
        square = changes.square().mean(dim=-1, keepdim=True)
        if self.lengths is not None:  # after the end of a shorter suffix, changes are 0
            share = torch.from_numpy(changes.shape[-1] / self.lengths).to(square)
            square = square * share[:, None]
        spread = torch.sqrt(_UNSURE**2 + square + square**2)
        drift = torch.from_numpy(_DRIFT * factors).to(square)[:, None, None]
        right = ndtr((torch.from_numpy(self.margins) - drift * square) / spread)
        by_token = right.movedim(-1, 0).contiguous().movedim(0, -1)  # as a measure goes through it
        rate: Floats = self.measure.chance(by_token.numpy(), self.lengths).sum(axis=-1)
        rate /= self.passages
        return rate

    @cached_property
    def _own(self) -> Floats:
        """[U + 1, 4]: the KL and the mean square of the moves of each unit alone, plain and times
        its corrections."""
        both = [np.square(v).reshape(len(v), -1).mean(1) for v in (self.cost, self.moved)]
        own = np.stack(both, axis=1).astype(np.float64)
        return np.hstack([own, own * self.corrections])

    @cached_property
    def heads(self) -> Flags:
        """[U, all heads]: which heads a unit edits."""
        every = sorted({(unit.block, head) for unit in self.units for head in unit.heads})
        edits = [
            [block == u.block and head in u.heads for block, head in every] for u in self.units
        ]
        return np.array(edits)

    @cached_property
    def blocks(self) -> Indices:
        """The units that are whole blocks."""
        heads = {(unit.block, head) for unit in self.units for head in unit.heads}
        sizes = Counter(block for block, _ in heads)
        return Indices(
            index for index, unit in enumerate(self.units) if len(unit.heads) == sizes[unit.block]
        )


def estimate_units(
    editable: Editable,
    half: Half,
    recovered: Flags,
    units: Sequence[EditedHeads],
    measure: Recovery,
    fits: Mapping[int, Fit],
    *,
    advance: Callable[[int], None] = lambda done: None,
) -> Estimates:
    """Estimates `units` from passes over held-out windows and over passages.

    `recovered`: the passages that the unedited model gives away, bool [N]; `fits`: of that model,
    by block.
    """
    looking = Probe(editable.model, units, fits, advance)
    passages = half.samples.spread(recovered, MOST_PASSAGES)
    cost = expand_loss(looking, half.windows, DRAWS)
    moved, margins = expand_margins(looking, passages)

    def padded(rows: Floats) -> Floats:
        return np.concatenate([rows, np.zeros_like(rows[:1])])

    return Estimates(
        units=tuple(units),
        held=np.array(
            [
                [
                    editable.find_refusal((unit,), layout=name) is None
                    for name in ("stock", "compact")
                ]
                for unit in units
            ]
        ),
        cost=padded(cost.reshape(len(cost), -1)),
        moved=padded(moved.transpose(0, 2, 1)),
        margins=margins,
        passages=round(len(recovered) * len(passages) / int(recovered.sum())),
        others=len(recovered),
        lengths=measure_lengths(passages.suffixes) if passages.secrets else None,
        measure=measure,
    )
