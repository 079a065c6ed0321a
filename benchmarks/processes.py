"""Two processes against one, a thread each: the time of whole commands, and that both say the same.

    python benchmarks/processes.py                  # Pythia-160m's shape, random weights
    python benchmarks/processes.py --rows 16 --command extract
    python benchmarks/processes.py --command search --recites FOLDER

Needs two idle cores. Weights are random, the passages what the model itself goes on with, texts and
tasks the lab's; a search may be of a trained model instead, in a folder that also holds
records.jsonl, heldout.txt and calibration.txt. Seconds are wall clock of whole processes, the
imports of torch and transformers included.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
from checkpoints import SHAPES, write_checkpoint, write_passages
from rich.console import Console
from rich.table import Table

from evals.lab import calibration_texts, heldout_texts
from surgery.hub.embedded import model_path

_LAUNCH = ("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--module")
_VARYING = {"created", "seconds", "tokens_per_second", "provenance", "output", "plan"}


def commands(
    model: Path, folder: Path, edited: Path, recites: Path | None, documents: int
) -> dict[str, list[object]]:
    texts, rows = folder / "heldout.txt", folder / "rows.jsonl"
    # fmt: off
    search: list[object] = ["search", model, "--samples", rows, "--suffix-length", 8,
              "--corpus", texts, "--calibration", folder / "calibration.txt", "--measure", "greedy",
              "--max-evaluations", 8, "--batch-size", 4]
    if recites is not None:
        search = ["search", recites, "--samples", recites / "records.jsonl",
                  "--corpus", recites / "heldout.txt",
                  "--calibration", recites / "calibration.txt", "--batch-size", 8]
    # fmt: on
    of_rows = ("--samples", rows, "--batch-size", 8)
    return {
        "extract": ["extract", model, *of_rows, "--metrics", "full", "--json"],
        "sweep": ["sweep", model, *of_rows, "--corpus", texts, "--variant", "identity",
                  "--no-last", "--json"],
        "evaluate": ["evaluate", edited, "--baseline", model, *of_rows, "--control", texts,
                     "--tasks", "lab_next_line", "--limit", documents, "--no-cache", "--json"],
        "search": [*search, "--max-extraction", 0.01, "--json"],
    }  # fmt: skip


def timed(launch: tuple[str, ...], command: list[object], folder: Path) -> tuple[float, Any]:
    """Wall seconds, and the JSON without what differs from run to run."""
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *launch, *map(str, command)],
        capture_output=True, text=True, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    if done.returncode not in (0, 3):
        raise click.ClickException(done.stderr[-2000:])
    return seconds, kept(json.loads(done.stdout))


def kept(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: kept(inner) for key, inner in value.items() if key not in _VARYING}
    return [kept(inner) for inner in value] if isinstance(value, list) else value


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="160m", show_default=True)
@click.option("--rows", default=128, show_default=True, help="Passages.")
@click.option("--rounds", default=1, show_default=True)
@click.option("--command", "names", multiple=True, help="Only this one; may be repeated.")
@click.option(
    "--recites",
    metavar="FOLDER",
    type=click.Path(exists=True, file_okay=False, resolve_path=True, path_type=Path),
    help="A model to search.",
)
def main(shape: str, rows: int, rounds: int, names: tuple[str, ...], recites: Path | None) -> None:
    """Time commands with one process and with two."""
    table = Table(title=f"{shape}: {rows} passages, median of {rounds}")
    for column in ("command", "one process, s", "two, s", "ratio", "JSON"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as temporary:
        folder, model, edited = Path(temporary), Path(temporary, "model"), Path(temporary, "edited")
        write_checkpoint(shape, model)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (model / name).write_bytes((model_path("pythia") / name).read_bytes())
        write_passages(model, folder / "rows.jsonl", rows, prefix=32, suffix=32)
        (folder / "heldout.txt").write_text("".join(heldout_texts())[: rows * 256])
        (folder / "calibration.txt").write_text("".join(calibration_texts())[:52_000])
        export = ("export", str(model), "--drop-attn", "last:2", "--output", str(edited))
        subprocess.run([sys.executable, "-m", "cli.main", *export], check=True, capture_output=True)
        for name, command in commands(model, folder, edited, recites, rows).items():
            if names and name not in names:
                continue
            taken: dict[str, list[float]] = {"one": [], "two": []}
            said: list[Any] = []
            for turn in range(rounds):
                for way, launch in (("one", ("-m",)), ("two", _LAUNCH)):
                    seconds, result = timed(
                        (*launch, "cli.main"), [*command, *_output(command, turn, way)], folder
                    )
                    taken[way].append(seconds)
                    said.append(result)
            one, two = (statistics.median(taken[way]) for way in taken)
            same = "the same" if all(each == said[0] for each in said) else "DIFFERS"
            table.add_row(name, f"{one:.1f}", f"{two:.1f}", f"{one / two:.2f}", same)
    Console(width=100).print(table)


def _output(command: list[object], turn: int, way: str) -> tuple[str, ...]:
    return (
        ("--output", f"{command[0]}-{turn}-{way}") if command[0] in ("evaluate", "search") else ()
    )


if __name__ == "__main__":
    main()
