"""The folder of an audit: audit.json, and a picture of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.attacks.picture import draw_audit
from surgery.output import atomic_folder, known_by, write_lines

owned = known_by("audit.json", ("attacks", "limits"), "audit.png", "audit.svg")


def write_audit(folder: Path, result: Mapping[str, Any], *, overwrite: bool = False) -> None:
    """All at once."""
    with atomic_folder(folder, owned, overwrite=overwrite) as partial:
        write_lines(partial / "audit.json", [json.dumps(result, indent=2)])
        draw_audit(result, partial)
