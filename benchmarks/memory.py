"""Peak memory of a search against the size of its model in memory.

    python benchmarks/memory.py                  # Pythia-1.4b's shape: 12 GB of memory
    python benchmarks/memory.py --shape 160m

There are few passages, and little text: what a search holds beyond the model depends on its width
and depth, not on how much there is to read. Memory is what Linux counts as the process's own
(RssAnon, without pages of files that are mapped).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from checkpoints import SHAPES, write_work

from surgery.checkpoint.source import open_checkpoint


def measure_peak(command: list[str], made: Path) -> tuple[int, float]:
    """(most bytes of its own that a process held, seconds)"""
    begin, peak = time.perf_counter(), 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
        peak = max([peak, *(1024 * int(line.split()[1]) for line in lines)])
        time.sleep(0.05)
    if not made.exists():  # a search that ends short of its goal is one, too
        raise click.ClickException("the search wrote nothing")
    return peak, time.perf_counter() - begin


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="1.4b", show_default=True)
@click.option("--rows", default=8, show_default=True, help="Passages.")
@click.option("--max-evaluations", default=4, show_default=True, help="Edits that are measured.")
def main(shape: str, rows: int, max_evaluations: int) -> None:
    """Search a random model, and print what that took beside the model."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_work(folder, shape, rows, 16, 8)
        peak, seconds = measure_peak([
            *(sys.executable, "-m", "cli.main", "search", str(model)),
            *("--samples", str(folder / "rows.jsonl"), "--heldout", str(folder / "heldout.txt")),
            *("--prefix-length", "16", "--suffix-length", "8", "--measure", "greedy"),
            *("--calibration", str(folder / "calibration.txt")),
            *("--max-extraction", "0.01", "--max-evaluations", str(max_evaluations)),
            *("--output", str(folder / "found")),
        ], folder / "found" / "search.json")  # fmt: skip
        infos = open_checkpoint(model).infos.values()
        weights = sum(2 * one.nbytes for one in infos if one.dtype == "F16")  # not the masks
    click.echo(
        f"{shape}: {peak / 1e9:.2f} GB at most, of which the model in float32 "
        f"{weights / 1e9:.2f} GB: {(peak - weights) / 1e9:+.2f} GB; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
