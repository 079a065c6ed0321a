"""What attn-surgery offers: the fewest deep blocks (the paper), and its own search."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals.bed import Bed
from surgery.editing.in_memory import short_circuit


def cut_deep_blocks(model: Any, bed: Bed, limit: float, output: Path) -> None:
    """Exports `identity` of the fewest last blocks that leave at most `limit` recovered."""
    number = 0
    recovered = 1.0
    while recovered > limit and number < model.config.num_hidden_layers:
        number += 1
        with short_circuit(model, f"last:{number}"):
            recovered = bed.measure_recovered(model)
    run_command("export", bed.model, "--drop-attn", f"last:{number}", "--output", str(output))


def search(limits: Sequence[str], bed: Bed, options: Sequence[str], output: Path) -> None:
    """Searches under `limits`, such as any=0.01, and exports what was found.

    `options`: of the search, one word for each name and value.
    """
    found = output.with_name(f"{output.name}-search")
    asked = [word for one in limits for word in ("--max", one)]
    run_command("search", bed.model, *asked, *options, "--output", str(found))
    edits = json.loads((found / "plan.json").read_text())["edits"]
    fitted = {"mean", "linear"} & {edit["variant"] for edit in edits}
    pairs = zip(options[::2], options[1::2], strict=True)
    fits = [word for pair in pairs if fitted and pair[0] == "--calibration" for word in pair]
    plan = ("--plan", str(found / "plan.json"))
    run_command("export", bed.model, *plan, *fits, "--output", str(output))


def run_command(*words: str) -> None:
    """Runs attn-surgery. Raises `CalledProcessError` if it fails."""
    program = [sys.executable, "-P", "-m", "cli.main", *words, "--overwrite"]
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL)
