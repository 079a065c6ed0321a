"""A search on a loaded model: an edit chosen on one half of samples and text, told on the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from evals.models import LoadedModel
from evals.running.processes import Processes
from evals.samples import Samples, Tokens
from evals.search.algorithm import Found, search
from evals.search.front import Point, point_of
from evals.search.goals import Goal
from evals.search.held_back import Half, halves
from evals.search.units import Grain, last_quarter, possible, refuser, units
from evals.sweep.batch import BASE
from evals.sweep.engine import Engine
from surgery.errors import MeasurementError, UnsupportedError
from surgery.families import Dimensions
from surgery.fitting.fitter import Fitter
from surgery.selection import Part, Selection


@dataclass(frozen=True)
class Task:
    """What is searched for, and on what.

    - `windows`: int32 [M, T] held-out text.
    - `variants`: what a block or a head may become. `layout`: what the result must fit into.
    - `seed`: of the halves. `max_evaluations`: see `evals.search.algorithm.search`.
    - `batch_size`, `processes`: as for `evals.sweep.engine.Engine`.
    """

    loaded: LoadedModel
    samples: Samples
    windows: Tokens
    goal: Goal
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

    @cached_property
    def refusal(self) -> Callable[[Selection], UnsupportedError | None]:
        return refuser(self.loaded.found, self.layout)

    @cached_property
    def offered(self) -> tuple[tuple[Part, ...], tuple[str, ...]]:
        """The units to choose from, and warnings about those that cannot be.

        Raises `UnsupportedError` where there are none.
        """
        size = self.dimensions
        every = units(size.num_blocks, size.num_heads, self.grain, self.variants)
        kept, refused = possible(every, self.refusal)
        what = "single heads" if self.grain == "heads" else "blocks"
        return kept, tuple(
            f"{what} with {name} are left out: {why}" for name, why in refused.items()
        )

    @property
    def rows(self) -> int:
        """How much `run` tells `advance` of for one edit."""
        return len(self.halves[0].samples) + len(self.halves[0].windows)

    def engines(self, layout: str, fitter: Fitter | None = None) -> tuple[Engine, Engine]:
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
                stored_dtype=self.loaded.stored_dtype,
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
    """What a search gives. `recipe`: the paper's, None where the model cannot be edited so.

    `selected` is None where nothing meets the goal.
    """

    found: Found
    base: Twice
    recipe: Twice | None
    selected: Twice | None
    batch_size: int


def run(task: Task, fitter: Fitter | None, *, advance: Callable[[int], None]) -> Chosen:
    """Searches. `advance` is told of rows done.

    Raises `MeasurementError` where the unedited model leaves nothing to search for.
    """
    first, second = task.engines(task.layout, fitter)
    base = _twice((first, second), BASE)
    _check_worthwhile(task.goal, base.chosen_on, task.samples)

    def evaluate(selections: Sequence[Selection]) -> list[Point]:
        return [point_of(one) for one in first.measure(selections, advance=advance)]

    found = search(
        evaluate,
        task.offered[0],
        task.goal,
        holds=lambda selection: task.refusal(selection) is None,
        max_evaluations=task.max_evaluations,
    )
    best = found.best
    selected = None if best is None else _twice((first, second), best.selection)
    return Chosen(found, base, _recipe(task), selected, first.batch_size)


def _recipe(task: Task) -> Twice | None:
    """In whatever layout holds it: it is there to be compared with."""
    selection = last_quarter(task.dimensions.num_blocks, task.dimensions.num_heads)
    try:
        return _twice(task.engines("auto"), selection)
    except UnsupportedError:
        return None


def _twice(engines: tuple[Engine, Engine], selection: Selection) -> Twice:
    here, there = (point_of(engine.measure([selection])[0]) for engine in engines)
    return Twice(here, there)


def _check_worthwhile(goal: Goal, base: Point, samples: Samples) -> None:
    if base.exact_match == 0 or goal.met(base, base):
        raise MeasurementError(
            "nothing to search for: the unedited model meets the goal",
            where=samples.source,
            got=f"{base.exact_match:.1%} of the passages recited",
        )
