"""A search on a loaded model: an edit chosen on one half of samples and text, told on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

from evals.files import Journal
from evals.memorization.recovery import Recovery
from evals.models import LoadedModel
from evals.running.processes import Processes
from evals.samples import Samples, Tokens
from evals.search.algorithm import Found, search
from evals.search.front import Point, point_of
from evals.search.goals import Goal
from evals.search.held_back import Half, halves
from evals.search.looking import look
from evals.search.resuming import point_as_json
from evals.search.units import Grain, last_blocks, number_of_sets, possible, units
from evals.sweep.batch import BASE
from evals.sweep.engine import Engine
from evals.sweep.planning import FitsBlocks
from surgery.errors import MeasurementError, UnsupportedError
from surgery.families import Dimensions
from surgery.fitting.fitter import Fitter
from surgery.selection import Part, Selection
from surgery.variants import Fit, variant_of

_AT_ONCE = 16
"""Edits that are measured together, and then on record."""
_DEEP_AT_ONCE = 4
"""Edits of the deepest blocks that share a pass."""


@dataclass(frozen=True)
class Task:
    """What is searched for, and on what.

    - `windows`: int32 [M, T] held-out text.
    - `measure`: what counts as recovering a passage.
    - `variants`: what a block or a head may become. `layout`: what the result must fit into.
    - `seed`: of the halves. `max_evaluations`: see `evals.search.algorithm.search`.
    - `batch_size`, `processes`: as for `evals.sweep.engine.Engine`.
    """

    loaded: LoadedModel
    samples: Samples
    windows: Tokens
    goal: Goal
    measure: Recovery
    grain: Grain
    variants: tuple[str, ...]
    layout: str
    seed: int
    max_evaluations: int
    batch_size: int | None
    processes: Processes

    @cached_property
    def halves(self) -> tuple[Half, Half]:
        """To choose on, and held back. Raises `SamplesError` where there is too little."""
        return halves(self.samples, self.windows, self.seed)

    @cached_property
    def dimensions(self) -> Dimensions:
        return self.loaded.dimensions

    def refusal(self, selection: Selection) -> UnsupportedError | None:
        """Why the model cannot be exported with a selection; None if it can."""
        return self.loaded.editable.refusal(selection, layout=self.layout)

    @cached_property
    def offered(self) -> tuple[tuple[Part, ...], tuple[str, ...]]:
        """The units to choose from, and warnings about those that cannot be.

        Raises `UnsupportedError` where there are none.
        """
        size = self.dimensions
        every = units(size.num_blocks, size.num_heads, self.grain, self.variants)
        kept, refused = possible(every, self.refusal)
        return kept, tuple(
            f"{what} with {name} are left out: {why}" for (what, name), why in refused.items()
        )

    @cached_property
    def pools(self) -> tuple[frozenset[Part], ...]:
        """The units that a layout holds together; layouts that hold less than another left out."""
        layouts = ("stock", "compact") if self.layout == "auto" else (self.layout,)
        held = [
            frozenset(
                unit
                for unit in self.offered[0]
                if self.loaded.editable.refusal((unit,), layout=layout) is None
            )
            for layout in layouts
        ]
        return tuple(pool for pool in dict.fromkeys(held) if not any(pool < o for o in held))

    @property
    def exhaustive(self) -> bool:
        """Whether every set of units can be measured."""
        return number_of_sets(self.offered[0]) <= self.max_evaluations

    @property
    def rows(self) -> int:
        """How much `run` tells `advance` of for one edit."""
        return len(self.halves[0].samples) + len(self.halves[0].windows)

    def engines(self, layout: str, fitter: FitsBlocks | None = None) -> tuple[Engine, Engine]:
        """One for each half."""
        first, second = (
            Engine(
                self.loaded.model,
                half.samples,
                half.windows,
                batch_size=self.batch_size,
                processes=self.processes,
                fitter=fitter,
                layout=layout,
                editable=self.loaded.editable,
            )
            for half in self.halves
        )
        return first, second


@dataclass(frozen=True)
class Twice:
    """A model on the half that edits are chosen on, and on the half that is held back."""

    chosen_on: Point
    held_back: Point


@dataclass(frozen=True)
class Chosen:
    """What a search gives. `deep_blocks`: what it is compared with, see `_deep_blocks`.

    - `selected` is None where nothing meets the goal. Its fitted parts are fitted as an export fits
      them, each block after the edits below it.
    - `points`: every edit that was measured; `refitted`: those whose fits are such. The others have
      the fits of the unedited model, which is where a search that does not measure all sets looks.
    """

    found: Found
    base: Twice
    deep_blocks: Twice | None
    selected: Twice | None
    points: tuple[Point, ...]
    refitted: frozenset[Selection]
    batch_size: int

    @property
    def best(self) -> Selection:
        """What was selected; where nothing was, what leaves least."""
        if self.selected:
            return self.selected.chosen_on.selection
        least = min(self.points, key=lambda point: (point.recovered, point.heldout_kl))
        return least.selection


def run(
    task: Task,
    fitter: Fitter | None,
    *,
    advance: Callable[[int], None],
    looked: Callable[[int], None] = lambda done: None,
    journal: Journal | None = None,
    earlier: Mapping[Selection, Point] | None = None,
) -> Chosen:
    """Searches. `advance` is told of rows done for measured edits, `looked` of those for estimates.

    **Arguments:** `journal`: to keep what is measured; `earlier`: what was.

    Raises `MeasurementError` where the unedited model leaves nothing to search for.
    """
    first, second = task.engines(task.layout, fitter)
    base = _twice(task, (first, second), BASE)
    _check_worthwhile(task, base.chosen_on)
    engine, estimates = first, None
    if not task.exhaustive:
        blocks = range(task.dimensions.num_blocks)
        fits: dict[int, Fit] = {}
        if fitter is not None:
            fits = fitter.fits_alone(blocks, task.variants, processes=task.processes)
        engine = task.engines(task.layout, fitter and UneditedFits(fits))[0]
        estimates = look(
            task.loaded.model,
            task.halves[0],
            task.measure.recovered(first.base.evidence),
            task.offered[0],
            task.pools,
            task.measure,
            fits,
            processes=task.processes,
            advance=looked,
        )

    def evaluate(selections: Sequence[Selection]) -> list[Point]:
        found: list[Point] = []
        for begin in range(0, len(selections), _AT_ONCE):
            some = engine.measure(selections[begin : begin + _AT_ONCE], advance=advance)
            points = [point_of(one, task.measure) for one in some]
            if journal is not None:
                for point in points:
                    journal.append(point_as_json(point))
            found += points
        return found

    with nullcontext() if journal is None else journal.appending():
        found = search(
            evaluate,
            task.offered[0],
            task.goal,
            estimates,
            holds=lambda selection: task.refusal(selection) is None,
            max_evaluations=task.max_evaluations,
            earlier={(): base.chosen_on, **(earlier or {})},
        )
    points = {point.selection: point for point in found.points}
    refitted = {one for one in points if task.exhaustive or _fits_stay(one)}
    selected = None
    for point in found.met:
        if fitter is not None:
            fitter.fits(point.selection, processes=task.processes)
        (again,) = first.measure([point.selection])
        points[point.selection] = point_of(again, task.measure)
        refitted.add(point.selection)
        if task.goal.met(points[point.selection], base.chosen_on):
            selected = _twice(task, (first, second), point.selection)
            break
    return Chosen(
        found,
        base,
        _deep_blocks(task, base.chosen_on),
        selected,
        tuple(points.values()),
        frozenset(refitted),
        first.batch_size,
    )


@dataclass(frozen=True)
class UneditedFits:
    """In place of a fitter: fits of the unedited model, whatever is edited below a block."""

    by_block: Mapping[int, Fit]

    def fits(self, selection: Sequence[Part]) -> dict[int, Fit]:
        blocks = {part.block for part in selection if variant_of(part.variant).FITTED}
        return {block: self.by_block[block] for block in sorted(blocks)}


def _fits_stay(selection: Selection) -> bool:
    """Whether nothing is edited below what is fitted."""
    lowest = selection[0].block
    return not any(variant_of(p.variant).FITTED for p in selection if p.block > lowest)


def _deep_blocks(task: Task, base: Point) -> Twice | None:
    """`identity` on the fewest deepest blocks that meet the goal, else on the deepest quarter.

    In whatever layout holds it: it is there to be compared with. None where none does.
    """
    engines, size, goal = task.engines("auto"), task.dimensions, task.goal
    meeting: list[Point] = []
    try:
        for first in range(1, size.num_blocks + 1, _DEEP_AT_ONCE):
            numbers = range(first, min(first + _DEEP_AT_ONCE, size.num_blocks + 1))
            some = [last_blocks(n, size.num_blocks, size.num_heads) for n in numbers]
            points = [point_of(one, task.measure) for one in engines[0].measure(some)]
            meeting += [point for point in points if goal.met(point, base)]
            if any(goal.beyond(point, base) for point in points):
                break
        quarter = last_blocks(-(-size.num_blocks // 4), size.num_blocks, size.num_heads)
        best = min(meeting, key=goal.order).selection if meeting else quarter
        return _twice(task, engines, best)
    except UnsupportedError:
        return None


def _twice(task: Task, engines: tuple[Engine, Engine], selection: Selection) -> Twice:
    here, there = (point_of(engine.measure([selection])[0], task.measure) for engine in engines)
    return Twice(here, there)


def _check_worthwhile(task: Task, base: Point) -> None:
    if base.recovered == 0 or task.goal.met(base, base):
        raise MeasurementError(
            "nothing to search for: the unedited model meets the goal",
            where=task.samples.source,
            got=f"{base.recovered:.1%} of the passages recovered ({task.measure.name})",
        )
