"""Recipes: lists of steps that a mitigation tries, and which of their results is the best."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from evals.table.words import shorten_list
from surgery.card.measurements import name_limit
from surgery.record.measured import State
from surgery.record.report import Report

Kind = Literal["cut", "erase", "heal"]
Recipe = tuple[Kind, ...]
RECIPES: dict[Recipe, str] = {
    ("cut",): "the cut",
    ("cut", "heal"): "the cut, healed",
    ("erase",): "erased",
    ("erase", "cut"): "erased and cut",
    ("erase", "cut", "heal"): "erased, cut, and healed",
}
"""What a mitigation tries, in this order, and what it is called. A recipe without its last step is
a recipe, too."""
_STATES: tuple[State | None, ...] = ("kept", "undecided", None, "missed")


def list_recipes(*, erase: bool, heal: bool) -> list[Recipe]:
    """The recipes that take no other steps than these, and a cut."""
    kinds = {"cut", *(["erase"] if erase else []), *(["heal"] if heal else [])}
    return [recipe for recipe in RECIPES if kinds.issuperset(recipe)]


def name_recipe(recipe: Recipe) -> str:
    """Its name in folders and in JSON, such as erase-cut."""
    return "-".join(recipe)


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
        said.append(f"{RECIPES[recipe]}: {', '.join(parts)}")
    return place, f"kept {RECIPES[recipes[place]]}. {'; '.join(said)}"


def _measure_excess(report: Report, of: str) -> float:
    """By how much a model exceeds its limits, all together."""
    rows = report.list_limits(of)
    return sum(max(0.0, (row.value or 0.0) - row.limit) for row in rows)


def _list_costs(report: Report, of: str) -> Iterator[tuple[str, float]]:
    """What a model lost against the base, relative to it: the loss on held-out text, and each
    benchmark's main metric. Infinite if nothing was measured."""
    measured = False
    for figure in report.figures:
        change = figure.change
        if figure.of != of or change is None:
            continue
        if figure.name == "heldout" and figure.on in ("all", "held back"):
            before = (figure.value or 0.0) - change.difference
            measured = True
            yield "loss on held-out text", change.difference / max(before, 1e-9)
        elif figure.name.startswith("task.") and report.names[figure.name].main:
            before, drop = (figure.value or 0.0) - change.difference, figure.details.get("drop")
            if isinstance(drop, float | int):
                measured = True
                yield report.names[figure.name].label, drop / max(before, 1e-9)
    if not measured:
        yield "", math.inf


def _describe_open(report: Report, place: int) -> str:
    """Which limits keep a result from being the better one."""
    edit = report.edits[place]
    names = [name_limit(row) for row in report.list_limits(edit.of) if row.state == edit.state]
    does = "misses" if edit.state == "missed" else "does not decide"
    return f"{does} {shorten_list(names or ['the limits of the search'])}"
