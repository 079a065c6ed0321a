"""The folder that a search leaves: what it found, a picture of it, and the plan to export."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evals.search.front import Point
from evals.search.report import plan_of
from evals.search.resuming import point_from_json
from evals.search.run import Task
from evals.sweep.edits import edit_record
from evals.sweep.pictures import draw_front
from surgery.errors import SamplesError
from surgery.output import atomic_folder, known_by, write_lines, write_text
from surgery.record.plan_file import PlanFile, read_plan_file
from surgery.selection import Selection
from surgery.untrusted import guard, read_json

PLAN = "plan.json"
_ANEW = "search anew with `overwrite=True`"
owned = known_by("search.json", ("goal", "front", "selected"), PLAN, "front.png", "front.svg")


def write_search(
    folder: Path,
    result: dict[str, Any],
    plan: PlanFile | None,
    *,
    overwrite: bool = False,
    config: str | None = None,
) -> None:
    """search.json, front.png, front.svg, and plan.json where there is a plan: all at once.

    search.json is `result`, with the name of the plan that lies beside it.
    """
    kept = {**result, "plan": None if plan is None else PLAN}
    with atomic_folder(folder, owned, overwrite=overwrite, config=config) as partial:
        write_lines(partial / "search.json", [json.dumps(kept, indent=2)])
        draw_front(result, partial)
        if plan is not None:
            write_text(partial / PLAN, plan.to_text())


def finished(
    folder: Path, question: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[Selection, Point]]:
    """What `write_search` wrote there, and what was measured.

    Raises `SamplesError` for the search of another question, and for what it did not write.
    """
    path = folder / "search.json"
    result = read_json(path)
    if result.get("question") != json.loads(json.dumps(question)):
        raise SamplesError(
            "holds the search of another model, goal, text or choice",
            where=path,
            fix="give the same options, choose another `output`, or use `overwrite=True`",
        )
    with guard(SamplesError, "is damaged", path, fix=_ANEW):
        points = [point_from_json(stored) for stored in result["measured"]]
    return result, {point.selection: point for point in points}


def finished_plan(
    folder: Path, task: Task, result: dict[str, Any], points: Iterable[Selection]
) -> PlanFile | None:
    """The plan that lies beside `result`, where that is all that `task` asks for.

    Raises `SamplesError` where it is not the plan of what was selected.
    """
    heads = task.dimensions.num_heads
    with guard(SamplesError, "is damaged", folder / "search.json", fix=_ANEW):
        selected = result["selected"]
        if selected is None or result["max_evaluations"] < task.max_evaluations:
            return None
        best = next(one for one in points if edit_record(one, heads).items() <= selected.items())
        plan = plan_of(task, best, result)
    if read_plan_file(folder / PLAN) != plan:
        raise SamplesError("is not the plan that the search wrote", where=folder / PLAN, fix=_ANEW)
    return plan
