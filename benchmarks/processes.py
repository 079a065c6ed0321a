"""Times whole commands with two processes against one, a thread each, and compares their JSON.

    python benchmarks/processes.py                  # Pythia-160m's shape, random weights
    python benchmarks/processes.py --rows 16 --command extract

Needs two idle cores. Texts and tasks are the lab's. Seconds are wall clock of whole processes,
imports included.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from checkpoints import SHAPES, write_work
from compare_versions import list_leaves

_TWO = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--module")


def commands_on(model: Path, folder: Path, rows: int) -> dict[str, list[object]]:
    texts = folder / "heldout.txt"
    of_rows = ("--samples", folder / "rows.jsonl", "--batch-size", 8, "--json")
    return {
        "extract": ["extract", model, *of_rows, "--metrics", "full"],
        "sweep": ["sweep", model, *of_rows, "--heldout", texts, "--variant", "identity",
                  "--no-last"],
        "evaluate": ["evaluate", folder / "edited", "--baseline", model, *of_rows, "--heldout",
                     texts, "--tasks", "lab_next_line", "--limit", rows, "--no-cache"],
        "search": ["search", model, *of_rows, "--suffix-length", 8, "--heldout", texts,
                   "--calibration", folder / "calibration.txt", "--measure", "greedy",
                   "--max-evaluations", 8, "--max-extraction", 0.01],
    }  # fmt: skip


def run_timed(launch: tuple[str, ...], command: list[object], folder: Path) -> tuple[float, Any]:
    """Wall seconds, and the figures that the command prints."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *launch, "cli.main", *map(str, command)],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    if done.returncode not in (0, 3):
        raise click.ClickException(done.stderr[-2000:])
    return seconds, list(list_leaves(json.loads(done.stdout)))


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="160m", show_default=True)
@click.option("--rows", default=128, show_default=True, help="Passages.")
@click.option("--command", "names", multiple=True, help="Only this one; may be repeated.")
def main(shape: str, rows: int, names: tuple[str, ...]) -> None:
    """Time commands with one process and with two."""
    click.echo(f"{shape}, {rows} passages\n| | one process, s | two, s | ratio | JSON |")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_work(folder, shape, rows, 32, 32)
        export = ("export", str(model), "--drop-attn", "last:2", "--output", str(folder / "edited"))
        subprocess.run([sys.executable, "-m", "cli.main", *export], check=True, capture_output=True)
        for name, command in commands_on(model, folder, rows).items():
            if names and name not in names:
                continue
            writes = name in ("evaluate", "search")
            (one, said), (two, other) = (
                run_timed(launch, [*command, *(("--output", way) if writes else ())], folder)
                for way, launch in (("one", ("-m",)), ("two", _TWO))
            )
            same = "the same" if said == other else "DIFFERS"
            click.echo(f"| `{name}` | {one:.1f} | {two:.1f} | {one / two:.2f} | {same} |")


if __name__ == "__main__":
    main()
