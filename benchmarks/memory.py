"""Peak memory: of a search against the size of its model, and of trainings against their plan.

    python benchmarks/memory.py search                  # Pythia-1.4b's shape: 12 GB of memory
    python benchmarks/memory.py search --shape 160m
    python benchmarks/memory.py training                # widths of 256, 512, and 1,024

There are few passages, and little text: what a search holds beyond the model depends on its width
and depth, not on how much there is to read. Memory is what Linux counts as the process's own
(RssAnon, without pages of files that are mapped).

A training is planned for some room (`surgery.training.planning`), and then takes three steps in a
process of its own. What is measured is the most that Linux counts (VmHWM) beyond what there was
before. The allocator gives all that is freed back at once, or what it keeps would count as well.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from checkpoints import SHAPES, write_work
from transformers import LlamaConfig, LlamaForCausalLM

from evals.measure.attacks.tuning import fine_tune, plan_fine_tuning
from surgery.checkpoint.source import open_checkpoint
from surgery.training.distillation import Lesson, distill, plan_training
from surgery.training.losses import Divergence
from surgery.training.planning import Fit
from surgery.training.training import Schedule

WAYS = {
    "all weights": 0,
    "all weights, fewer rows": 0,
    "adapters": 8,
    "adapters, fewer rows": 8,
    "adapters, checkpointing": 8,
    "attack": 0,
}
"""What is trained, and how → the rank of adapters."""
VOCABULARY = 4_096


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


def make_model(width: int) -> Any:
    """A random Llama of two blocks, in float32."""
    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=width,
        intermediate_size=4 * width,
        max_position_embeddings=512,
        num_attention_heads=8,
        num_hidden_layers=2,
        vocab_size=VOCABULARY,
    )
    return LlamaForCausalLM(config).eval()


def prepare_training(model: Any, way: str) -> tuple[Fit, Callable[[], object]]:
    """How it is planned, and what does it."""
    draw, few = (
        np.random.default_rng(0),
        way.endswith("checkpointing"),
    )  # and longer, or it is little
    shapes = ((8, 512), (4, 512)) if few else ((32, 64), (24, 48))
    text, passages = (draw.integers(0, VOCABULARY, shape).astype(np.int32) for shape in shapes)
    if way == "attack":

        def attack() -> None:
            for _ in fine_tune(model, passages, learning_rate=1e-4, steps=(2, 3)):
                pass

        return plan_fine_tuning(model, passages, room=1 << 60)[1], attack
    loss = Divergence(model)
    lessons = [Lesson(loss, text, 4 if few else 16), Lesson(loss, passages, len(passages), 24)]
    schedule = Schedule(3, rank=WAYS[way])
    plan = partial(plan_training, model, lessons, schedule, owns_base=True)
    found = plan(room=1 << 60)
    while (way.endswith("rows") and found.rows > 8) or (few and not found.checkpointing):
        found = plan(room=found.needed - 1)

    def train() -> None:
        distill(model, lessons, schedule, owns_base=True, room=found.needed).student.settle()

    return found, train


def read_status(key: str) -> int:
    """A line of what Linux says of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(key))


@click.group()
def main() -> None:
    """Measure memory."""


@main.command()
@click.argument("width", type=int)
@click.argument("way", type=click.Choice(list(WAYS)))
def one(width: int, way: str) -> None:
    """Measure one training in this process. Prints JSON."""
    prepare_training(make_model(64), way)[1]()  # imports, and starts threads
    model = make_model(width)
    found, train = prepare_training(model, way)
    gc.collect()
    before = read_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the most so far is what there is now
    train()
    plan = {"rank": found.rank, "rows": found.rows, "checkpointing": found.checkpointing}
    measured = read_status("VmHWM") - before
    click.echo(json.dumps({**plan, "planned": found.needed, "measured": measured}))


@main.command()
@click.option("--width", "widths", type=int, multiple=True, default=(256, 512, 1024))
def training(widths: tuple[int, ...]) -> None:
    """Compare what trainings need with what was planned."""
    click.echo(
        "width  trained                   rows  checkpointing  planned MB  measured MB  ratio"
    )
    for width in widths:
        for way in WAYS:
            done = subprocess.run(
                [sys.executable, __file__, "one", str(width), way],
                env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TOP_PAD_": "0"},
                stdout=subprocess.PIPE,
                check=True,
            )
            found = json.loads(done.stdout)
            planned, measured = (found[key] / 1e6 for key in ("planned", "measured"))
            click.echo(
                f"{width:5,}  {way:24}  {found['rows']:4}  {found['checkpointing']!s:13}  "
                f"{planned:10,.0f}  {measured:11,.0f}  {measured / planned:5.3f}"
            )


@main.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="1.4b", show_default=True)
@click.option("--rows", default=8, show_default=True, help="Passages.")
@click.option("--max-evaluations", default=4, show_default=True, help="Edits that are measured.")
def search(shape: str, rows: int, max_evaluations: int) -> None:
    """Search a random model, and print what that took beside the model."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        model = write_work(folder, shape, rows, 16, 8)
        peak, seconds = measure_peak([
            *(sys.executable, "-m", "cli.main", "search", str(model)),
            *("--samples", str(folder / "rows.jsonl"), "--heldout", str(folder / "heldout.txt")),
            *("--prefix-length", "16", "--suffix-length", "8", "--measure", "greedy"),
            *("--calibration", str(folder / "calibration.txt")),
            *("--max-extraction", "0.01", "--config", f"{{max-evaluations: {max_evaluations}}}"),
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
