"""Recipes: lists of steps that a mitigation tries, and which of their results is the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

from evals.table.words import shorten_list
from evals.table.words.view import View
from surgery.card.measurements import name_limit
from surgery.record.measured import State
from surgery.record.report import Report
from surgery.training.ways.names import WAYS

Kind = Literal["cut", "erase", "heal"]
_CALLED: dict[tuple[Kind, ...], str] = {
    ("cut",): "the cut",
    ("cut", "heal"): "the cut, healed",
    ("erase",): "erased",
    ("erase", "heal"): "erased and healed",
    ("erase", "cut"): "erased and cut",
    ("erase", "cut", "heal"): "erased, cut, and healed",
}
_STATES: tuple[State | None, ...] = ("kept", "undecided", None, "missed")


class Recipe(NamedTuple):
    """Steps, and the way to erase, where the first of them erases; None there: as a look chooses.
    A recipe without its last step is a recipe, too."""

    steps: tuple[Kind, ...]
    by: str | None = None

    @property
    def name(self) -> str:
        """Its name in folders and in JSON, such as erase-context-8-cut."""
        first, *others = self.steps
        way = self.by and (self.by.replace(":", "-") if self.by in WAYS else "base")
        return "-".join(filter(None, [first, way, *others]))

    @property
    def what(self) -> str:
        """What its result is called."""
        return _CALLED[self.steps] + (f", by {self.by}" if self.by else "")

    @property
    def before(self) -> Recipe | None:
        """What it begins with."""
        return self._replace(steps=self.steps[:-1]) if len(self.steps) > 1 else None


def list_recipes(ways: Sequence[str | None], *, heal: bool) -> list[Recipe]:
    """Recipes in the order in which to try them. `ways`: to erase, the best first; `heal`: whether
    there is text to heal on."""
    kept = [steps for steps in _CALLED if heal or "heal" not in steps]
    cuts = [Recipe(steps) for steps in kept if "erase" not in steps]
    erased = [[Recipe(steps, way) for steps in kept if "erase" in steps] for way in ways]
    first, *others = erased or [[]]
    return [*cuts[:1], *first, *cuts[1:], *(one for some in others for one in some)]


class Place(NamedTuple):
    """Where a result stands: its largest cost, a share of what the base has, and the share that the
    strongest attack recovers."""

    cost: float | None
    cost_of: str
    attack: float | None
    attack_by: str


def place_results(report: Report) -> list[Place]:
    """Where each result stands."""
    places = []
    for edit in report.edits:
        name, cost = max(_list_costs(report, edit.of), key=lambda pair: pair[1])
        strongest = View(report, edit).strongest
        attack = (None, "") if strongest is None else (strongest.row.value or 0.0, strongest.name)
        places.append(Place(None if cost == math.inf else cost, name, *attack))
    return places


def choose_best(report: Report, recipes: Sequence[Recipe]) -> tuple[int, str]:
    """The place of the best result, and a sentence that says why.

    A result that keeps every limit beats one that does not decide it, and that one beats one that
    misses it. Of those alike, the one that exceeds the limits least wins, and then the cheapest:
    that with the smallest of the largest losses (`_list_costs`).
    """
    ranks = [_STATES.index(edit.state) for edit in report.edits]
    keys = [
        (rank, _measure_excess(report, edit.of), max(dict(_list_costs(report, edit.of)).values()))
        for rank, edit in zip(ranks, report.edits, strict=True)
    ]
    place = min(range(len(keys)), key=keys.__getitem__)
    said = []
    for at, (recipe, edit, rank) in enumerate(zip(recipes, report.edits, ranks, strict=True)):
        name, cost = max(_list_costs(report, edit.of), key=lambda pair: pair[1])
        told = "nothing was lost" if cost <= 0 else f"{cost:.1%} worse in {name}"
        parts = ["not measured" if cost == math.inf else told]
        parts += [_describe_open(report, at)] if rank > ranks[place] else []
        said.append(f"{recipe.what}: {', '.join(parts)}")
    return place, f"kept {recipes[place].what}. {'; '.join(said)}"


def _measure_excess(report: Report, of: str) -> float:
    """By how much a model exceeds its limits, all together."""
    rows = report.list_limits(of)
    return sum(max(0.0, (row.value or 0.0) - row.limit) for row in rows)


def _list_costs(report: Report, of: str) -> Iterator[tuple[str, float]]:
    """What a model lost against the base, relative to it: the loss on held-out text and on new text
    of the passages' form, and each benchmark's main metric. Infinite if nothing was measured."""
    measured, kinds = False, {"heldout": "held-out text", "form": "new text of the passages' form"}
    for figure in report.figures:
        change = figure.change
        if figure.of != of or change is None:
            continue
        if figure.name in kinds and figure.on in ("all", "held back", "never trained on"):
            before = (figure.value or 0.0) - change.difference
            measured = True
            yield f"loss on {kinds[figure.name]}", change.difference / max(before, 1e-9)
        elif figure.name.startswith("task.") and report.names[figure.name].main:
            before, drop = (figure.value or 0.0) - change.difference, figure.details.get("drop")
            if isinstance(drop, float | int):
                measured = True
                relative = figure.details.get("drop_is_relative")
                cost = drop if relative else drop / max(before, 1e-9)
                yield report.names[figure.name].label, cost
    if not measured:
        yield "", math.inf


def _describe_open(report: Report, place: int) -> str:
    """Which limits keep a result from being the better one."""
    edit = report.edits[place]
    names = [name_limit(row) for row in report.list_limits(edit.of) if row.state == edit.state]
    does = "misses" if edit.state == "missed" else "does not decide"
    return f"{does} {shorten_list(names or ['the limits of the search'])}"
