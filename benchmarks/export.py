"""How fast, and with how much memory, an export runs against the obvious ways to do it.

    python benchmarks/export.py                    # the 1.4B and the 2.8B shape: 20 GB of disk
    python benchmarks/export.py --shape 160m       # a small one

Four whole processes take turns, imports included:

- export: `attn-surgery export DIR --drop-attn LAST_FOUR`, the manifest's sums included
- copy:   `cp -r` of the folder, then `sha256sum` of the copy
- sums:   `sha256sum` of the weights alone, which no export with sums can undercut
- save:   load through transformers, edit in memory, `save_pretrained`

Quote the ratios: absolute seconds depend on the machine and its disk.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

_SAVE = """
import sys, torch
from transformers import AutoModelForCausalLM
source, target, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float16)
for layer in model.gpt_neox.layers[first:]:
    attention = layer.attention
    size = attention.head_size
    with torch.no_grad():
        weight = attention.query_key_value.weight.view(-1, 3 * size, model.config.hidden_size)
        weight[:, :2 * size] = 0
        attention.query_key_value.bias.view(-1, 3 * size)[:, :2 * size] = 0
model.save_pretrained(target)
"""


def run_measured(command: list[str]) -> tuple[float, float]:
    """Runs a whole process → (wall seconds, peak resident megabytes)."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    errors = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise click.ClickException(f"{command[0]} failed: {errors.decode()[-2000:]}")
    return time.perf_counter() - start, usage.ru_maxrss * 1024 / 1e6


def benchmark(
    shape: str, rounds: int, only: tuple[str, ...], folder: Path, console: Console
) -> None:
    source, target = folder / shape, folder / "out"
    # In its own process: what this one holds would count as the peak of all that it starts.
    write = [sys.executable, str(Path(__file__).with_name("checkpoints.py")), shape, str(source)]
    subprocess.run(write, check=True)
    size = (source / "model.safetensors").stat().st_size
    blocks = json.loads((source / "config.json").read_text())["num_hidden_layers"]
    commands = {
        "export": [
            *(sys.executable, "-m", "cli.main", "export", str(source)),
            *("--drop-attn", f"{blocks - 4}-{blocks - 1}", "--output", str(target)),
        ],
        "copy": ["sh", "-c", 'cp -r "$0" "$1" && sha256sum "$1"/*', str(source), str(target)],
        "sums": ["sha256sum", *map(str, sorted(source.glob("*.safetensors")))],
        "save": [sys.executable, "-c", _SAVE, str(source), str(target), str(blocks - 4)],
    }
    commands = {name: command for name, command in commands.items() if name in (only or commands)}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    memory: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):  # the first, uncounted, fills the page cache
        for name, command in commands.items():
            shutil.rmtree(target, ignore_errors=True)
            wall, peak = run_measured(command)
            if turn:
                seconds[name].append(wall)
                memory[name].append(peak)
    shutil.rmtree(target, ignore_errors=True)
    shutil.rmtree(source)
    table = Table(title=f"{shape}: {size / 1e9:.2f} GB, float16, median of {rounds}")
    for column in ("", "seconds", "range", "peak MB", "time / first", "memory / first"):
        table.add_column(column, justify="right")
    first = next(iter(commands))
    base = statistics.median(seconds[first]), statistics.median(memory[first])
    for name in commands:
        wall, peak = statistics.median(seconds[name]), statistics.median(memory[name])
        table.add_row(
            name,
            f"{wall:.2f}",
            f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}",
            f"{peak:.0f}",
            f"{wall / base[0]:.2f}",
            f"{peak / base[1]:.2f}",
        )
    console.print(table)


@click.command()
@click.option("--shape", "shapes", multiple=True, help="[default: 1.4b and 2.8b]")
@click.option("--rounds", default=3, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(["export", "copy", "sums", "save"]))
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to work.  [default: temporary]"
)
def main(shapes: tuple[str, ...], rounds: int, only: tuple[str, ...], folder: Path | None) -> None:
    """Time exports against copying and against save_pretrained."""
    console = Console(width=100)
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        for shape in shapes or ("1.4b", "2.8b"):
            benchmark(shape, rounds, only, Path(temporary), console)


if __name__ == "__main__":
    main()
