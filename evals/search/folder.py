"""The folder that a search leaves: what it found, a picture of it, and the plan to export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evals.sweep.pictures import draw_front
from surgery.checkpoint.foreign import guard
from surgery.checkpoint.source import read_json
from surgery.errors import SamplesError
from surgery.output import atomic_folder, known_by, write_lines, write_text
from surgery.record.plan_file import PlanFile, read_plan_file

PLAN = "plan.json"
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


def read_search(folder: Path, max_evaluations: int) -> tuple[dict[str, Any], PlanFile] | None:
    """What `write_search` wrote, if it has a plan that was found with as many evaluations.

    Raises `SamplesError` for what it did not write.
    """
    result = read_json(folder / "search.json")
    with guard(SamplesError, "is damaged", folder, fix="search anew with `overwrite=True`"):
        if result["max_evaluations"] < max_evaluations or result["plan"] is None:
            return None
    plan = read_plan_file(folder / PLAN)
    if plan.chosen is None:  # as plans were before they recorded it
        return None
    return {**result, "plan": str(folder / PLAN)}, plan
