"""What attn-surgery offers: the fewest deep blocks (the paper), and its own search."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.rivals.bed import Bed
from benchmarks.settling import settle
from surgery.editing.in_memory import short_circuit


def cut_deep_blocks(model: Any, bed: Bed, limit: float, output: Path) -> bool:
    """Exports `identity` of the fewest last blocks that leave at most `limit` recovered.

    Returns whether there are any.
    """
    number = 0
    recovered = 1.0
    while recovered > limit and number < model.config.num_hidden_layers:
        number += 1
        with short_circuit(model, f"last:{number}"):
            recovered = bed.measure_recovered(model)
    if recovered <= limit:
        run_command("export", bed.model, "--drop-attn", f"last:{number}", "--output", str(output))
    return recovered <= limit


def search(
    limits: Sequence[str], bed: Bed, options: Sequence[str], texts: Sequence[Path], output: Path
) -> None:
    """Searches under `limits`, such as any=0.01, and exports what was found.

    `options`: of the search, one word for each name and value; `texts`: to fit the export on.
    """
    found = output.with_name(f"{output.name}-search")
    asked = [word for one in limits for word in ("--max", one)]
    # the seconds of a run that was stopped are not known, so all of them are spent again
    run_command("search", bed.model, *asked, *options, "--no-cache", "--output", str(found))
    _export(bed.model, found / "plan.json", texts, output)


def read_choice(found: Path) -> str | None:
    """The edit that a search chose, in words; None if it chose none. `found`: its search.json."""
    result = json.loads(found.read_text())
    named = {edit["of"]: f"{edit['spec']} {edit['variant']}" for edit in result["edits"]}
    return named.get(result["selected"])


def heal_also(bed: Bed, found: Path, texts: Sequence[Path], passages: Path, output: Path) -> None:
    """Exports what a search `found`, healed on `texts`, with the `passages` that it chose on."""
    lengths = bed.samples.prefix_length, bed.samples.suffix_length
    words = [word for text in texts for word in ("--text", str(text))]
    words += ["--samples", str(passages)]
    words += ["--prefix-length", str(lengths[0]), "--suffix-length", str(lengths[1])]
    cut = output.with_name(f"{output.name}-cut")
    _export(bed.model, found / "plan.json", texts, cut)
    run_command("heal", str(cut), "--source", bed.model, *words, "--output", str(output))


def _export(model: str, plan: Path, texts: Sequence[Path], output: Path) -> None:
    edits = json.loads(plan.read_text())["edits"]
    fitted = {"mean", "linear"} & {edit["variant"] for edit in edits}
    fits = [word for text in texts if fitted for word in ("--calibration", str(text))]
    run_command("export", model, "--plan", str(plan), *fits, "--output", str(output))


def run_command(*words: str) -> None:
    """Runs attn-surgery on one thread and without a GPU, as rivals run.

    Raises `CalledProcessError` if it fails.
    """
    program = [sys.executable, "-m", "cli.main", *settle(*words), "--overwrite"]
    one = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run(program, check=True, stdout=subprocess.DEVNULL, env=one)
