"""Where the marks of the small pictures stand. The templates draw them; nothing here is text.

Positions along x are percent of the picture's width, so that a picture takes any width while its
marks keep their size; positions along y are pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, floor, log10
from typing import Any, NamedTuple

from evals.evaluation.page.figures import Interval

_HEIGHT = 320  # of the chart, in pixels
_NARROWEST = 1e-4
"""Relative to the values: on a narrower scale ticks would differ in decimals that nobody reads."""


class Whisker(NamedTuple):
    """A dot with its interval: percent of the width."""

    middle: float
    low: float
    high: float


@dataclass(frozen=True)
class Axis:
    """A linear scale from `low` to `high`, with room of `margin` percent at both ends."""

    low: float
    high: float
    ticks: tuple[float, ...] = ()
    margin: float = 3.0

    def x(self, value: float) -> float:
        """Percent of the width."""
        inside = min(max(value, self.low), self.high)
        share = (inside - self.low) / (self.high - self.low)
        return round(self.margin + (100 - 2 * self.margin) * share, 3)

    def y(self, value: float) -> float:
        """Pixels from the top of the chart."""
        return round(_HEIGHT * (1 - self.x(value) / 100), 2)

    @property
    def digits(self) -> int:
        """Decimals that tell the ticks apart."""
        step = self.ticks[1] - self.ticks[0]
        return next(n for n in range(12) if abs(round(step, n) - step) < 1e-6 * step)

    @property
    def percent(self) -> str:
        """The format of ticks that are shares."""
        return f".{max(0, self.digits - 2)}%"

    def named(self, form: str) -> list[tuple[float, str]]:
        """Percent of the width of every tick, and what stands there: at the ends and at zero."""
        named = {self.low, 0.0, self.high}
        text = {tick: format(tick, form).replace("-", "−") if tick else "0" for tick in named}
        return [(self.x(tick), text.get(tick, "")) for tick in self.ticks]

    def whisker(self, interval: Interval) -> Whisker:
        return Whisker(*(self.x(figure.value) for figure in interval))


class Mark(NamedTuple):
    """A point of the trade-off chart. `anchor`, `dx` and `dy` place its name."""

    kind: str
    name: str
    x: float
    y: float
    low: float | None
    high: float | None
    anchor: str
    dx: int
    dy: int


class Column(NamedTuple):
    """One block: (first head, heads, variant) of each run of edited heads, in heads."""

    block: int
    x: float
    width: float
    runs: tuple[tuple[int, int, str], ...]
    labelled: bool


def nice_axis(values: Iterable[float], *, about: float | None = None, margin: float = 3) -> Axis:
    """A scale that holds all values, ends on round numbers, and has three to six ticks.

    `about`: a value that is to stand in the middle.
    """
    given = list(values)
    low, high = min(given), max(given)
    if about is not None:
        reach = max(high - about, about - low)
        low, high = about - reach, about + reach
    if high - low < _NARROWEST * max(1.0, abs(low), abs(high)):
        low, high = low - 0.01, high + 0.01
    step = _round_step((high - low) / 4)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    ticks = tuple(round(number * step, 10) for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks, margin)


def _round_step(rough: float) -> float:
    power: float = 10.0 ** floor(log10(rough))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough - 1e-12)


def chart(points: Sequence[dict[str, Any]], names: Sequence[str] = ()) -> dict[str, Any]:
    """The report's trade-off points, by rise of loss and exact-match rate, and the ticks of both.

    `names`: of the points; their kinds where there are none. `front`: the stretches between
    neighbors of what a search found.
    """
    names = names or [point["kind"] for point in points]
    across = nice_axis([point["loss_increase"] for point in points], margin=6)
    rates = [(point["exact_match_ci95"] or (0.0, point["exact_match"]))[1] for point in points]
    up = nice_axis([0.0, *rates], margin=6)
    places = [(across.x(p["loss_increase"]), up.y(p["exact_match"])) for p in points]
    main = [place for place, p in zip(places, points, strict=True) if p["kind"] != "front"]
    close = (
        len(main) == 2 and abs(main[0][0] - main[1][0]) < 30 and abs(main[0][1] - main[1][1]) < 22
    )
    marks = []
    for point, name, (x, y) in zip(points, names, places, strict=True):
        ends = point["exact_match_ci95"] or (None, None)
        low, high = (None if end is None else up.y(end) for end in ends)
        above = close and (x, y) == min(main, key=lambda place: place[1])
        dy = -12 if above or (not close and y > _HEIGHT - 40) else (18 if close else 4)
        anchor, dx = ("end", -11) if x > 62 else ("start", 11)
        marks.append(Mark(point["kind"], name, x, y, low, high, anchor, dx, dy))
    front = sorted(place for place, p in zip(places, points, strict=True) if p["kind"] == "front")
    return {
        "height": _HEIGHT,
        "x_ticks": [(across.x(tick), f"{tick:.{across.digits}f}") for tick in across.ticks],
        "y_ticks": [(up.y(tick), format(tick, up.percent)) for tick in up.ticks],
        "marks": sorted(marks, key=lambda mark: ("front", "base", "edited").index(mark.kind)),
        "front": list(pairwise(front)),
    }


def columns(edit: dict[str, Any]) -> list[Column]:
    """Every block of the model with the heads that were edited; heads that are unknown are one."""
    total, heads = edit["num_blocks"], edit["num_heads"] or 1
    runs: dict[int, list[tuple[int, int, str]]] = {}
    for block, variant in edit["attention_free"].items():
        runs[int(block)] = [(0, heads, variant)]
    for part in edit["parts"]:
        chosen = runs.setdefault(part["block"], [])
        if chosen != [(0, heads, part["variant"])]:
            chosen += [(first, n, part["variant"]) for first, n in _runs(part["heads"])]
    width = 100 / total
    every = next(n for n in (1, 2, 4, 5, 8, 10, 16, 20, 50, 100) if total / n <= 16)
    return [
        Column(block, block * width, width, tuple(runs.get(block, ())), block % every == 0)
        for block in range(total)
    ]


def _runs(heads: Sequence[int]) -> list[tuple[int, int]]:
    """Ascending heads → (first, how many) of each stretch without a gap."""
    found: list[tuple[int, int]] = []
    for head in heads:
        if found and sum(found[-1]) == head:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((head, 1))
    return found
