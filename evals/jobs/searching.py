"""Runs a search from its request to its folder, or continues one that a folder holds."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from evals.choose.grid import EditPoint, check_point, point_from_json
from evals.choose.search.opened import OpenedSearch, open_search
from evals.choose.search.report import (
    DEEP,
    SearchResult,
    chart_search,
    describe_question,
    make_plan,
    make_search_result,
)
from evals.choose.search.request import SearchRequest
from evals.choose.search.run import run_search
from evals.jobs.result_folder import ResultFolder
from evals.run.console import say, show_progress
from evals.table.charts.model_map import chart_map
from surgery.errors import SamplesError
from surgery.output import recognize_by, write_text
from surgery.processes import current_processes, leave_launch
from surgery.record.plan_file import PlanFile, read_plan_file
from surgery.selection import Selection
from surgery.untrusted import guard, read_json

_RESULT, _PLAN = "search.json", "plan.json"
_ANEW = "search again with `overwrite=True`"
_PICTURES = [f"{name}.{form}" for name in ("front", "model") for form in ("png", "svg")]
owned = recognize_by(_RESULT, ("question", "front", "selected"), _PLAN, *_PICTURES)

Earlier = dict[Selection, EditPoint]
Answer = tuple[SearchResult, PlanFile]
"""What was found, with `selected` None if nothing meets the goal; and the plan to
export: the selected edit, else the nearest."""


def search(request: SearchRequest, folder: Path, *, overwrite: bool = False) -> Answer | None:
    """Runs the search and writes it into `folder`. Returns None except on the main process.

    Continues the same search if `folder` holds it, or if an interrupted run left progress beside
    it. Raises `SurgeryError` for inputs that it cannot use and for a folder that it cannot write.
    """
    going_on = not overwrite and (folder / _RESULT).is_file()
    output = ResultFolder(request, folder, owned, overwrite or going_on)
    opened = open_search(request)
    processes = current_processes()
    done, earlier = None, Earlier()
    if processes.is_main and going_on:
        done, earlier = _read_search(folder, opened)
    if done is None:
        journal = output.journals.open(partial(describe_question, opened), opened.loaded)
        earlier |= {point.selection: point for point in journal.read(point_from_json)}
    if processes.agree(done is not None):
        leave_launch()
        if done is not None:
            say(f"{folder}: this search is complete")
        return done
    if earlier:
        say(f"{len(earlier)} edits are already measured")
    earlier = processes.agree(earlier)
    for line in opened.foresee():
        say(f"held-back passages: {line}")
    with (
        show_progress(f"estimate {request.model}", None) as looked,
        show_progress(f"search {request.model}, edits measured", None) as advance,
    ):
        outcome = run_search(
            opened, advance=advance, looked=looked, journal=journal, earlier=earlier
        )
    if not leave_launch():
        return None
    result = make_search_result(opened, outcome)
    plan, met = make_plan(opened, outcome.best, result), outcome.selected is not None
    result = result.model_copy(update={"plan": _PLAN if met else None})

    def add(folder: Path) -> None:
        chart_search(result).save(folder, "front")
        if result.map is not None:
            title = f"{result.model.name}: one edit at a time"
            chosen = outcome.selected[0].selection if outcome.selected else ()
            chart_map(result.map, chosen, title).save(folder, "model")
        if met:
            write_text(folder / _PLAN, plan.to_text())

    output.write(_RESULT, result.to_dict(), add)
    return _locate_plan(result, folder), plan


def check_question(
    folder: Path, opened: OpenedSearch, *, but: Collection[str] = ()
) -> dict[str, Any]:
    """What a folder's search found. `but`: keys of the question that may differ.

    Raises `SamplesError` for a search with other options.
    """
    path = folder / _RESULT
    result = read_json(path)
    asked = json.loads(json.dumps(describe_question(opened)))
    found = result.get("question")
    if isinstance(found, dict):
        found = {**found, **{key: asked[key] for key in but}}
        if other := _find_other(found.get("versions"), found.get("version"), asked["versions"]):
            name, then, now = other
            raise SamplesError(
                f"holds a search of another version of {name}",  # its attacks may be weaker
                where=path,
                expected=now,
                got=then,
                fix=_ANEW,
            )
    if found != asked:
        raise SamplesError(
            "holds a search with another model, goal, text, or choice",
            where=path,
            fix="give the same options, choose another `output`, or use `overwrite=True`",
        )
    return result


def _find_other(
    then: Any, earlier: Any, now: Mapping[str, str]
) -> tuple[str, object, str | None] | None:
    """The first package whose versions differ, with both of them. `earlier`: that of attn-surgery,
    which is all that its earlier versions recorded."""
    if not isinstance(then, dict):
        return "attn-surgery", earlier, now.get("attn-surgery")
    found = ((name, then.get(name), now.get(name)) for name in [*now, *then])
    return next((one for one in found if one[1] != one[2]), None)


def _read_search(folder: Path, opened: OpenedSearch) -> tuple[Answer | None, Earlier]:
    """The answer of an earlier search, if it is complete, and its points.

    Raises `SamplesError` for a search with other options, and for files that no search wrote.
    """
    path, found = folder / _RESULT, check_question(folder, opened)
    with guard(SamplesError, "is damaged", path, fix=_ANEW):
        result = SearchResult.model_validate(found)
        edits = [edit for edit in result.edits if edit.of != DEEP]
        points = [check_point(result.point(edit.of)) for edit in edits]
        earlier = {point.selection: point for point in points}
        if result.settings["max_evaluations"] < opened.request.max_evaluations:
            return None, earlier
        plan = make_plan(opened, result.find_edit(result.best).selection, result)
    if result.selected is not None and read_plan_file(folder / _PLAN) != plan:
        raise SamplesError("is not the plan that the search wrote", where=folder / _PLAN, fix=_ANEW)
    return (_locate_plan(result, folder), plan), earlier


def _locate_plan(result: SearchResult, folder: Path) -> SearchResult:
    """Replaces the name of the plan in a result by its path."""
    plan = result.plan and str(folder / result.plan)
    return result.model_copy(update={"plan": plan})
