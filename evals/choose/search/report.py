"""The result of a search: its JSON, the plan to export, and a picture of the front."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from evals.choose.grid import (
    EditPoint,
    GridEdit,
    GridResult,
    describe_edit,
    describe_grid,
    describe_windows,
    pareto_front,
    rename,
    take_point,
)
from evals.choose.search.opened import OpenedSearch
from evals.choose.search.request import SearchRequest
from evals.choose.search.run import SearchOutcome
from evals.choose.search.trials import HALVES, Twice
from evals.data import hash_row
from evals.measure.differences import halve_scores, hash_documents
from evals.measure.naming import HEALED
from evals.run.lm_eval.scores import choose_metric
from evals.table.charts.chart import Chart
from evals.table.charts.front import FrontPanel, draw_front
from evals.table.charts.panels import Point, Series
from evals.table.limits import Asked, ask, ask_tasks, decide, find_void, settle
from surgery.errors import MeasurementError
from surgery.record.manifest import ChosenOn, EditedModel, Record, Sha256, Word
from surgery.record.measured import BASE, Limit, Measured, On, State, find
from surgery.record.plan_file import PlanFile, list_edits
from surgery.selection import Selection

DEEP = "deep-blocks"


class Units(Record):
    """How many units there were to choose from, and for how many there are figures."""

    offered: int
    estimated: int
    measured: int


class SearchResult(GridResult):
    """What `search` prints and writes.

    - `measure`: what counts as recovered; limits asked for, and other choices are in `settings`.
      `key`: names all that the answer depends on.
    - `selected`: the chosen edit, None if none keeps the limits; `nearest`: the one that comes
      closest then. `deep_blocks`: the edit to compare with, if the layout can hold it;
      `deep_meets_goal`, `deep_offered`: whether it keeps the limits, and could have been chosen.
      `front`: the edits that no other beats in both recovery and cost.
    - `finalists`: the edits that were healed before one was chosen, best first, for as many steps
      as `settings` says; their figures are `healed.` and a name. Empty where nothing was healed.
    - `state`: whether the choice keeps every limit on the half it was not made on.
    - `passed_over`: how many edits beat the choice by what was measured, and why they are not it.
    """

    measure: Word
    settings: dict[Word, Any]
    key: Sha256
    n: int
    n_held_back: int
    chosen_on_ids: list[str]
    held_back_ids: list[str]
    evaluations: int
    exhaustive: bool
    units: Units
    selected: Word | None
    nearest: Word | None
    deep_blocks: Word | None
    deep_meets_goal: bool = False
    deep_offered: bool = False
    front: list[Word]
    finalists: list[Word] = Field(default_factory=list)
    state: State | None
    passed_over: dict[Word, int] = Field(default_factory=dict)
    plan: str | None = None

    @property
    def best(self) -> str:
        """The selected edit, else the nearest."""
        return self.selected or str(self.nearest)

    @property
    def limit(self) -> float:
        """The highest share that `measure` may recover."""
        return float(self.settings["limit"])

    def point(self, of: str, on: On = HALVES[0]) -> EditPoint:
        """An edit, or the base, as it was measured on a half."""
        edit = None if of == BASE else self.find_edit(of)
        return take_point(self, edit, on, self.measure)

    def healed_point(self, of: str, on: On = HALVES[0]) -> EditPoint:
        """A finalist as it was once healed."""
        rows = [row for row in self.figures if (row.of, row.on) == (of, on)]
        plain = {row.name.removeprefix(HEALED): row for row in rows if row.name.startswith(HEALED)}
        made = (row.model_copy(update={"name": name}) for name, row in plain.items())
        return EditPoint(self.find_edit(of).selection, tuple(made), self.measure)


def make_search_result(opened: OpenedSearch, outcome: SearchOutcome) -> SearchResult:
    """The JSON of `search --json`, without the path of the plan. Figures are of members."""
    loaded, (here, back) = opened.loaded, opened.halves
    names = {selection: f"edit-{at}" for at, selection in enumerate(outcome.points, 1)}
    figures = _list_figures(outcome, names)
    selected = names.get(outcome.selected[0].selection) if outcome.selected else None
    deep = outcome.deep_blocks
    limits = [
        limit
        for of in filter(None, (selected, deep and DEEP, names[outcome.best]))
        for on in HALVES
        for limit in _decide(opened, outcome, figures, of, on)
    ]
    front = pareto_front(outcome.points.values())
    return SearchResult(
        **describe_grid(loaded, opened.samples, figures, opened.batch_size),
        command="search",
        limits=list({limit.key: limit for limit in limits}.values()),
        edits=list(_list_edits(opened, outcome, names)),
        heldout={
            name: describe_windows(half.windows)
            for name, half in (("chosen_on", here), ("held_back", back))
        },
        calibration=_record_fits(opened, outcome),
        warnings=list(opened.warnings),
        measure=opened.measure.name,
        settings=_describe_aim(opened),
        key=opened.key,
        n=len(here.samples),
        n_held_back=len(back.samples),
        chosen_on_ids=list(here.samples.ids),
        held_back_ids=list(back.samples.ids),
        evaluations=outcome.found.evaluations,
        exhaustive=opened.exhaustive,
        units=Units(
            offered=len(opened.offered),
            estimated=len(opened.offered) if outcome.found.estimates else 0,
            measured=len(frozenset[int]().union(*outcome.found.measured)),
        ),
        selected=selected,
        nearest=None if selected else names[outcome.best],
        deep_blocks=deep and DEEP,
        deep_meets_goal=deep is not None and opened.keeps(deep[0]),
        deep_offered=deep is not None and opened.find_units(deep[0].selection) is not None,
        front=[names[point.selection] for point in front],
        finalists=[names.get(selection, DEEP) for selection in outcome.healed],
        state=_judge_held_back(opened, outcome, figures, selected) if selected else None,
        passed_over=_count_better(opened, outcome) if selected else {},
    )


def _list_edits(
    opened: OpenedSearch, outcome: SearchOutcome, names: Mapping[Selection, str]
) -> Iterator[GridEdit]:
    points = [(names[selection], point) for selection, point in outcome.points.items()]
    if outcome.deep_blocks is not None:
        points.append((DEEP, outcome.deep_blocks[0]))
    for of, point in points:
        yield describe_edit(
            of,
            point.selection,
            opened.loaded.dimensions.num_heads,
            refitted=point.refitted,
            tried=[row.name for row in point.tried],
        )


def _list_figures(outcome: SearchOutcome, names: Mapping[Selection, str]) -> list[Measured]:
    """The base, the choice, and the edit to compare with on both halves, and all others on the one
    that was searched."""
    twice: list[tuple[str, Twice]] = [(BASE, outcome.base)]
    if outcome.selected is not None:
        twice.append((names[outcome.selected[0].selection], outcome.selected))
    if outcome.deep_blocks is not None:
        twice.append((DEEP, outcome.deep_blocks))
    points = [(of, point) for of, both in twice for point in both]
    points += [(names[selection], point) for selection, point in outcome.points.items()]
    rows: dict[Any, Measured] = {}
    for of, point in points:
        for row in _list_rows(outcome, of, point):
            rows.setdefault(row.key, row)
    for selection, both in outcome.healed.items():
        for row in (row for point in both for row in point.figures):
            told = {"of": names.get(selection, DEEP), "name": f"{HEALED}{row.name}"}
            row = row.model_copy(update=told)
            rows.setdefault(row.key, row)
    return list(rows.values())


def _list_rows(outcome: SearchOutcome, of: str, point: EditPoint) -> Iterator[Measured]:
    """The figures of a point, with why an attack shows too little for a limit to be kept."""
    for row in rename((*point.figures, *point.tried), of):
        attack = row.name.removeprefix(HEALED).removeprefix("recovered.")
        doubt = outcome.doubts.get(attack)
        known = row.details if doubt is None else {**row.details, "doubt": doubt}
        yield row.model_copy(update={"details": known})


def _decide(
    opened: OpenedSearch,
    outcome: SearchOutcome,
    figures: Sequence[Measured],
    of: str,
    on: On,
) -> list[Limit]:
    """Each limit whose attack was tried, on the passages that it counts.

    With healing, what the cut gives before it is healed says nothing about a limit.
    """
    healed, rows = opened.healing is not None, [figure for figure in figures if figure.on == on]
    before, after = (find(rows, "heldout", model) for model in (BASE, of))
    if before is None or after is None:
        return []
    rise = find(rows, f"{HEALED}heldout_rise", of)
    loss = (after.value if rise is None else (before.value or 0) + (rise.value or 0)) or 0.0
    text = (before.value or 0.0, loss)
    void = find_void(opened.loaded.dimensions.vocabulary, text)
    limits = opened.request.limits
    asked = [*ask(limits), *ask_tasks(opened.request.benchmarks.max_drop, opened.tasks)]
    if healed:
        asked = [Asked(f"{HEALED}{a.name}", a.what, a.subject, a.limit) for a in asked]
        rows = [*rows, *_list_bases(rows)]
    return decide(rows, asked, of, unclear=void)


def _list_bases(rows: Sequence[Measured]) -> Iterator[Measured]:
    """What the base gives, under the names of figures of a healed edit: nothing healed it."""
    there = {(row.name, row.of) for row in rows}
    for row in rows:
        if row.of == BASE and (f"{HEALED}{row.name}", BASE) not in there:
            yield row.model_copy(update={"name": f"{HEALED}{row.name}"})


def _judge_held_back(
    opened: OpenedSearch, outcome: SearchOutcome, figures: Sequence[Measured], of: str
) -> State | None:
    """Whether the choice keeps every limit on the held-back passages, and what it may cost.

    With healing, the limits are those of the healed edit, whatever the cut leaves.
    """
    assert outcome.selected is not None
    if opened.healing is None and not opened.keeps(outcome.selected[1]):
        return "missed"
    return settle(limit.state for limit in _decide(opened, outcome, figures, of, "held back"))


def _count_better(opened: OpenedSearch, outcome: SearchOutcome) -> dict[str, int]:
    """How many measured edits beat the choice and exceed no limit that was measured, and why they
    are not the choice: `doubtful`, as they may miss the goal on other passages; `untried`, as an
    attack would bring back too much, by the edits that were attacked."""
    assert outcome.selected is not None
    found, goal, chosen = outcome.found, opened.request.goal, outcome.selected[0]
    why = {"doubtful": 0, "untried": 0}
    for units in found.measured:
        point = outcome.points[found.measured[units].selection]
        if goal.order(point) < goal.order(chosen) and opened.keeps(point):
            doubtful, untried = found.is_doubtful(units), bool(set(opened.late) - point.late)
            why["doubtful"] += doubtful
            why["untried"] += untried and not doubtful
    return why


def _record_fits(opened: OpenedSearch, outcome: SearchOutcome) -> dict[str, Any] | None:
    """The text that the chosen edit was fitted on, and how well; None if it needs none."""
    if opened.fitter is None or outcome.selected is None:
        return None
    fits = opened.fitter.fit(outcome.selected[0].selection)
    return opened.fitter.calibration.record(fits).model_dump(mode="json") if fits else None


def _describe_aim(opened: OpenedSearch) -> dict[str, Any]:
    asked = opened.request.choice.model_dump(
        mode="json", include={"grain", "layout", "seed", "max_evaluations", "judge_steps"}
    )
    chosen = {
        "limit": opened.request.goal.limit,
        "measure": opened.measure.name,
        "max": opened.attack_limits,
        "max_drop": opened.drop_limits,
    }
    return {**asked, **chosen, "variants": list(opened.variants)}


def make_plan(opened: OpenedSearch, selection: Selection, result: SearchResult) -> PlanFile:
    """Makes the file for `export --plan`. `result`: the search that has `selection`."""
    found, (here, _) = opened.loaded.found, opened.halves
    known = result.to_dict()
    kept = ("measure", "settings", "selected", "state", "calibration", "model", "provenance")
    return PlanFile(
        edits=list_edits(selection, opened.loaded.dimensions.num_heads),
        layout=opened.request.choice.layout,
        model=EditedModel.of(found.identified, found.checkpoint.config),
        chosen=ChosenOn(
            seed=opened.request.choice.seed,
            share=opened.request.choice.choose,
            passages=here.samples.sha256,
            windows=hash_row(here.windows),
            documents={
                task: hash_documents(halve_scores(scores[choose_metric(scores)], 0))
                for task, scores in opened.base_scores.items()
            },
            met=result.selected is not None,
        ),
        provenance={
            "command": "search",
            **{key: known[key] for key in kept},
            "figures": [row for row in known["figures"] if row["of"] in (BASE, result.best)],
        },
    )


def explain_miss(result: SearchResult, request: SearchRequest, folder: Path) -> MeasurementError:
    """The error if nothing meets the goal. `folder` holds the results."""

    def read(of: str) -> float:
        return result.point(of).recovered

    less = [of for of in result.front if read(of) < read(BASE)] or result.front
    best = less[-1]
    word = (
        f"max={result.measure}" if request.extraction.max_extraction is None else "max_extraction"
    )
    limits = {word: result.limit}
    left = f"{read(best):.1%} recovered"
    asked = {word: result.settings[word] for word in ("max", "max_drop")}
    if any(asked.values()):
        best = result.best
        for word, some in asked.items():
            limits |= {f"{word}={subject}": most for subject, most in some.items()}
        tried = [one for one in result.list_limits(best) if one.on == HALVES[0]]
        left = ", ".join(f"{one.subject} {one.value or 0:.1%}" for one in tried)
        left = left or f"{read(best):.1%} recovered before it is healed"
    grain = "" if request.choice.grain == "mixed" else "`grain=mixed`, "
    return MeasurementError(
        f"none of the {result.evaluations} edits measured meets it",
        where=", ".join(f"`{option}={limit:g}`" for option, limit in limits.items()),
        got=f"at best {result.find_edit(best).label}: {left} at {result.rise(best):+.3f} nats "
        "per token",
        fix=f"search.json in {folder} lists the best edits; relax the limit, or allow more "
        f"variants, {grain}or more `max_evaluations`",
    )


def chart_search(result: SearchResult) -> Chart:
    """The Pareto front of a search.

    Beside it are the chosen edit, if there is one, and that of the deepest blocks: filled as
    measured on the half that was searched, hollow on the half that was held back.
    """
    measure = result.measure

    def place(of: str, on: On) -> Point:
        point = result.point(of, on)
        return Point(point.cost, 100 * point.recovered)

    here, back = HALVES
    found: dict[str, list[Point]] = {}
    for each in result.front:
        found.setdefault(result.find_edit(each).variant, []).append(place(each, here))
    base = Point(0.0, 100 * result.point(BASE).recovered)
    front = [Series("unedited", [base], "base")]
    front += [Series(f"Pareto front, {name}", points, name) for name, points in found.items()]
    series = []
    for name, of in (("deep blocks", result.deep_blocks), ("chosen", result.selected)):
        if of is not None:
            spec = result.find_edit(of).spec
            spec = spec if len(spec) <= 24 else spec[:23] + "…"
            hollow = [place(of, back)]
            series.append(Series(f"{name}, on the other half", hollow, name, hollow=True))
            series.append(Series(f"{name}: {spec}", [place(of, here)], name))
    what = "recited word for word" if measure == "greedy" else f"recovered ({measure})"
    panel = FrontPanel(
        "cost on held-out text, nats per token",
        f"{what}, %",
        series,
        front=front,
        limit=("y", 100 * result.limit),
    )
    names, grain = ", ".join(result.settings["variants"]), result.settings["grain"]
    where = "blocks and heads" if grain == "mixed" else grain
    title = f"{result.model.name}, search over {where} ({names}), n = {result.n}"
    return draw_front(title, [[panel]])
