"""The folder that a sweep leaves: what was measured, as JSON, as a table, and as pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.sweep.pictures import PICTURES, draw_pictures
from evals.sweep.report import as_csv
from surgery.output import atomic_folder, known_by, write_lines, write_text

_PICTURES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
owned = known_by("sweep.json", ("base", "edits"), "sweep.csv", "estimates.csv", *_PICTURES)


def write_sweep(
    folder: Path, result: Mapping[str, Any], *, overwrite: bool = False, config: str | None = None
) -> None:
    """sweep.json, sweep.csv, pictures of them, and config.yaml: all at once."""
    with atomic_folder(folder, owned, overwrite=overwrite, config=config) as partial:
        write_lines(partial / "sweep.json", [json.dumps(result, indent=2)])
        rows = [result["base"], *result["edits"]]
        write_text(partial / "sweep.csv", as_csv(rows))
        if "estimates" in result:
            write_text(partial / "estimates.csv", as_csv(result["estimates"]))
        draw_pictures(result, partial)
