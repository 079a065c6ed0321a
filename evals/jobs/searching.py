"""Runs a search from its request to its folder, or takes the answer that the folder holds."""

from __future__ import annotations

import json
from pathlib import Path

from evals.choose.search.opened import OpenedSearch, open_search
from evals.choose.search.report import SearchResult, chart_search, make_plan, make_search_result
from evals.choose.search.request import SearchRequest
from evals.choose.search.run import run_search
from evals.run.console import say, show_progress
from surgery.errors import SamplesError
from surgery.output import check_output, create_folder, recognize_by, write_lines, write_text
from surgery.processes import by_one
from surgery.record.plan_file import PlanFile, read_plan_file
from surgery.untrusted import read_json, reraise_as

_RESULT, _PLAN = "search.json", "plan.json"
_ANEW = "search again with `overwrite=True`"
_PICTURES = [f"{name}.{form}" for name in ("front",) for form in ("png", "svg")]
owned = recognize_by(_RESULT, ("figures", "front", "selected"), _PLAN, *_PICTURES)

Answer = tuple[SearchResult, PlanFile]
"""What was found, with `selected` None if nothing meets the goal; and the plan to
export: the selected edit, else the nearest."""


def search(request: SearchRequest, folder: Path, *, overwrite: bool = False) -> Answer:
    """Runs the search and writes it into `folder`.

    Returns the answer that `folder` holds if it is to this very question. Raises `SurgeryError` for
    inputs that it cannot use and for a folder that it cannot write.
    """
    there = _check_folder(folder, overwrite)
    opened = open_search(request)
    if there:
        answer = _read_answer(folder, opened, opened.key)
        say(f"{folder}: this search is complete")
        return answer
    for line in opened.foresee():
        say(f"held-back passages: {line}")
    with (
        show_progress(f"estimate {request.model}", None) as looked,
        show_progress(f"search {request.model}, edits measured", None) as advance,
    ):
        outcome = run_search(opened, advance=advance, looked=looked)
    result = make_search_result(opened, outcome)
    plan, met = make_plan(opened, outcome.best, result), outcome.selected is not None
    result = result.model_copy(update={"plan": _PLAN if met else None})
    config = request.to_config()
    with create_folder(folder, owned, overwrite=overwrite, config=config) as partial:
        write_lines(partial / _RESULT, [json.dumps(result.to_dict(), indent=2)])
        chart_search(result).save(partial, "front")
        if met:
            write_text(partial / _PLAN, plan.to_text())
    return _locate_plan(result, folder), plan


@by_one
def _check_folder(folder: Path, overwrite: bool) -> bool:
    """Whether a folder holds an answer that is to stay, if it is to this question."""
    there = not overwrite and (folder / _RESULT).is_file()
    check_output(folder, owned, overwrite=overwrite or there)
    return there


@by_one
def _read_answer(folder: Path, opened: OpenedSearch, key: str) -> Answer:
    """The answer that a folder holds. Raises `OutputError` for one to another question than `key`,
    and `SamplesError` for files that no search wrote."""
    path = folder / _RESULT
    if read_json(path).get("key") != key:
        check_output(folder, owned)  # raises
    with reraise_as(SamplesError, "is damaged", path, fix=_ANEW):
        result = SearchResult.model_validate(read_json(path))
        plan = make_plan(opened, result.find_edit(result.best).selection, result)
    if result.selected is not None and read_plan_file(folder / _PLAN) != plan:
        raise SamplesError("is not the plan that the search wrote", where=folder / _PLAN, fix=_ANEW)
    return _locate_plan(result, folder), plan


def _locate_plan(result: SearchResult, folder: Path) -> SearchResult:
    """Replaces the name of the plan in a result by its path."""
    plan = result.plan and str(folder / result.plan)
    return result.model_copy(update={"plan": plan})
