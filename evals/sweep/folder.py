"""The folder that a sweep leaves: what was measured, as JSON, as a table, and as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.bounds.pictures import draw_divergence
from evals.sweep.estimates_picture import draw_estimates
from evals.sweep.paper_pictures import PAPER, draw_paper
from evals.sweep.pictures import draw_sweep
from evals.sweep.report import as_csv
from surgery.output import atomic_folder, known_by, write_lines, write_text

_PICTURES = [
    f"{name}.{form}"
    for name in ("sweep", *PAPER, "bounds", "propagation", "estimates")
    for form in ("png", "svg")
]
owned = known_by("sweep.json", ("base", "edits"), "sweep.csv", "estimates.csv", *_PICTURES)


def write_sweep(
    folder: Path, result: Mapping[str, Any], *, overwrite: bool = False, config: str | None = None
) -> None:
    """sweep.json, sweep.csv, pictures of them, and config.yaml: all at once."""
    with atomic_folder(folder, owned, overwrite=overwrite, config=config) as partial:
        write_lines(partial / "sweep.json", [json.dumps(result, indent=2)])
        rows = [result["base"], *result["edits"]]
        write_text(partial / "sweep.csv", as_csv(rows))
        draw_sweep(result, partial)
        draw_paper(result, partial)
        if "estimates" in result:
            write_text(partial / "estimates.csv", as_csv(result["estimates"]))
            draw_estimates(result, partial)
        if "bounds" in result:
            draw_divergence(result["bounds"], partial, model=result["model"])
