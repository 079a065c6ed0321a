"""Peak memory of a search against the size of its model in memory.

    python benchmarks/memory.py                  # Pythia-1.4b's shape: 12 GB of memory
    python benchmarks/memory.py --shape 160m

Weights are random, and the passages what the model itself goes on with. There are few of them, and
little text: what a search holds beyond the model depends on its width and depth, and not on how
much there is to read. Memory is what Linux counts as the process's own (RssAnon; pages of files
that are mapped are not in it).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from checkpoints import SHAPES, tensors_of, write_checkpoint, write_passages

from evals.lab import calibration_texts, heldout_texts
from surgery.hub.embedded import model_path

_PREFIX, _SUFFIX = 16, 8


def peak_of(command: list[str], made: Path) -> tuple[int, float]:
    """(most bytes of its own that a process held, seconds)"""
    begin, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = [line for line in status.read_text().splitlines() if line.startswith("RssAnon")]
            peak = max([peak, *(1024 * int(line.split()[1]) for line in lines)])
            time.sleep(0.05)
        if not made.exists():  # a search that ends short of its goal is one too
            errors.seek(0)
            raise click.ClickException(errors.read().decode()[-2000:])
    return peak, time.perf_counter() - begin


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="1.4b", show_default=True)
@click.option("--rows", default=8, show_default=True, help="Passages.")
@click.option("--max-evaluations", default=4, show_default=True, help="Edits that are measured.")
def main(shape: str, rows: int, max_evaluations: int) -> None:
    """Search a random model, and print what that took beside the model."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, model = Path(temporary), Path(temporary, "model")
        write_checkpoint(shape, model)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (model / name).write_bytes((model_path("pythia") / name).read_bytes())
        write_passages(model, folder / "rows.jsonl", rows, prefix=_PREFIX, suffix=_SUFFIX)
        (folder / "heldout.txt").write_text("".join(heldout_texts())[:4_000])
        (folder / "calibration.txt").write_text("".join(calibration_texts())[:17_000])
        peak, seconds = peak_of([
            *(sys.executable, "-m", "cli.main", "search", str(model)),
            *("--samples", str(folder / "rows.jsonl"), "--corpus", str(folder / "heldout.txt")),
            *("--prefix-length", str(_PREFIX), "--suffix-length", str(_SUFFIX)),
            *("--calibration", str(folder / "calibration.txt"), "--measure", "greedy"),
            *("--max-extraction", "0.01", "--max-evaluations", str(max_evaluations)),
            *("--output", str(folder / "found")),
        ], folder / "found" / "search.json")  # fmt: skip
    weights = 4 * sum(info.nbytes // 2 for info in tensors_of(shape) if info.dtype == "F16")
    click.echo(
        f"{shape}: {peak / 1e9:.2f} GB at most, of which the model in float32 "
        f"{weights / 1e9:.2f} GB: {(peak - weights) / 1e9:+.2f} GB; {seconds:.0f} s"
    )


if __name__ == "__main__":
    main()
