"""The folder that a search leaves: what it found, a picture of it, and the plan to export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from evals.sweep.pictures import draw_front
from surgery.output import atomic_folder, known_by, write_lines
from surgery.record.plan_file import PlanFile

PLAN = "plan.json"
owned = known_by("search.json", ("goal", "front", "selected"), PLAN, "front.png", "front.svg")


def write_search(
    folder: Path, result: dict[str, Any], plan: PlanFile | None, *, overwrite: bool = False
) -> None:
    """search.json, front.png, front.svg, and plan.json where there is a plan: all at once.

    search.json is `result`, with the name of the plan that lies beside it.
    """
    kept = {**result, "plan": None if plan is None else PLAN}
    with atomic_folder(folder, owned, overwrite=overwrite) as partial:
        write_lines(partial / "search.json", [json.dumps(kept, indent=2)])
        draw_front(result, partial)
        if plan is not None:
            write_lines(partial / PLAN, plan.to_text().splitlines())
