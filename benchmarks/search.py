"""Peak memory of a search at the shape of a large model, a few rows, all variants.

    python benchmarks/search.py                # Pythia-1.4b's shape: 3 GB of disk
    python benchmarks/search.py --shape 160m

Weights and passages are random, so no edit that is found means anything; the passes are those of a
real search. What it needs beyond the model is resident memory less the weights as they are loaded,
in float32.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import torch
from checkpoints import SHAPES, tensors_of, write_checkpoint

from evals.lab import calibration_texts, heldout_texts
from surgery.hub.embedded import model_path


def said_by(model: Path, rows: int) -> list[list[int]]:
    """What the model says after random prefixes: it recites these."""
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    prefixes = torch.randint(10, 8_000, (rows, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        said: list[list[int]] = loaded.generate(
            prefixes, max_new_tokens=32, min_new_tokens=32, do_sample=False, pad_token_id=0
        ).tolist()
    return said


@click.command()
@click.option("--shape", type=click.Choice(list(SHAPES)), default="1.4b", show_default=True)
@click.option("--rows", default=8, show_default=True, help="Passages.")
@click.option("--evaluations", default=4, show_default=True, help="Edits that are measured.")
def main(shape: str, rows: int, evaluations: int) -> None:
    """Measure the peak memory of `attn-surgery search`."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, model = Path(temporary), Path(temporary, "model")
        write_checkpoint(shape, model)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (model / name).write_bytes((model_path("pythia") / name).read_bytes())
        lines = [json.dumps({"tokens": row}) + "\n" for row in said_by(model, rows)]
        (folder / "rows.jsonl").write_text("".join(lines))
        (folder / "heldout.txt").write_text("".join(heldout_texts())[:4_000])
        (folder / "text.txt").write_text("".join(calibration_texts()))
        command = [
            sys.executable, "-m", "cli.main", "search", model, "--samples", folder / "rows.jsonl",
            "--corpus", folder / "heldout.txt", "--calibration", folder / "text.txt",
            "--max-loss-increase", 1, "--max-evaluations", evaluations,
            "--output", folder / "found",
        ]  # fmt: skip
        begin = time.perf_counter()
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - begin
    floats = [info for info in tensors_of(shape) if info.dtype == "F16"]
    weights = 2 * sum(info.nbytes for info in floats)  # float16 in the file, float32 in memory
    peak = usage.ru_maxrss * 1024
    click.echo(
        f"{shape}: exit code {process.returncode}, {seconds:.0f} s, peak {peak / 1e9:.2f} GB, "
        f"{(peak - weights) / 1e9:.2f} GB beyond the weights ({weights / 1e9:.2f} GB)"
    )


if __name__ == "__main__":
    main()
