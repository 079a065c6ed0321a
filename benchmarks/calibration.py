"""Times the calibration of every block of a model against its forward passes over the same text.

    python benchmarks/calibration.py                    # Pythia-410m's shape, float32
    python benchmarks/calibration.py 1.4b --device cuda

Weights are random. The text is the lab's, as many tokens as that width asks for (`--tokens` for
fewer). Seconds are CPU seconds of one thread, or wall clock on another device.
"""

from __future__ import annotations

import resource

import click
import torch
from checkpoints import SHAPES, config_of
from timing import make_model, print_ratios, take_turns

from evals.lab import calibration_texts
from surgery.editing.loading import load_tokenizer
from surgery.families.gpt_neox import GPT_NEOX
from surgery.fitting.calibration import calibration_from_texts
from surgery.fitting.fitter import Fitter
from surgery.hub.embedded import model_path


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)), default="410m")
@click.option("--device", default="cpu")
@click.option("--dtype", default="float32")
@click.option("--tokens", type=int)
@click.option("--rounds", default=3)
def main(shape: str, device: str, dtype: str, tokens: int | None, rounds: int) -> None:
    """Time both sides on a random model of a Pythia SHAPE."""
    torch.set_num_threads(1)
    model = make_model(shape, getattr(torch, dtype), device)
    text = calibration_from_texts(calibration_texts(), name="lab calibration text").tokenized(
        load_tokenizer(model_path("pythia")),
        GPT_NEOX.dimensions(config_of(shape)),
        most_tokens=tokens,
    )
    batches = [torch.from_numpy(batch.astype("int64")) for batch in text.batches()]

    @torch.inference_mode()
    def run_forward() -> None:
        for batch in batches:
            model.base_model(input_ids=batch.to(device), use_cache=False)

    blocks = range(SHAPES[shape][0])
    sides = {
        "forward passes": run_forward,
        "calibration for mean": lambda: Fitter(model, text).fits_alone(blocks, ["mean"]),
        "calibration for linear": lambda: Fitter(model, text).fits_alone(blocks, ["linear"]),
    }
    run_forward()  # warm-up
    seconds, _ = take_turns(sides, rounds, device)
    count = sum(batch.numel() for batch in batches)
    print(f"{shape}, {len(blocks)} blocks, {count:,} tokens, {dtype}, {device}:")
    print_ratios(seconds)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    weights = sum(parameter.nbytes for parameter in model.parameters()) >> 20
    print(f"  peak memory {peak:,} MiB, of which weights {weights:,} MiB")


if __name__ == "__main__":
    main()
