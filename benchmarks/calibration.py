"""Calibrating every block of a model against its forward passes alone, side by side in one run.

    python benchmarks/calibration.py                    # Pythia-410m's shape, float32
    python benchmarks/calibration.py 1.4b --device cuda

Both sides see the same text, the lab's, as many tokens as that width asks for (`--tokens` for
fewer), and take turns. Weights are random. Seconds are CPU seconds of one thread, or wall clock on
another device.
"""

from __future__ import annotations

import resource
import statistics
import time
from collections.abc import Callable

import click
import torch
from checkpoints import SHAPES, config_of
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from evals.lab import calibration_texts
from surgery.editing.loading import load_tokenizer
from surgery.families.gpt_neox import GPT_NEOX
from surgery.fitting.calibration import Calibration, calibration_from_texts
from surgery.fitting.fitter import Fitter
from surgery.hub.embedded import model_path


def text(shape: str, tokens: int | None) -> Calibration:
    found = calibration_from_texts(calibration_texts(), name="lab calibration text")
    tokenizer = load_tokenizer(model_path("pythia"))
    sizes = GPT_NEOX.dimensions(config_of(shape))
    return found.tokenized(tokenizer, sizes, most_tokens=tokens)


@click.command()
@click.argument("shape", type=click.Choice(list(SHAPES)), default="410m")
@click.option("--device", default="cpu")
@click.option("--dtype", default="float32")
@click.option("--tokens", type=int)
@click.option("--repeats", default=3)
def main(shape: str, device: str, dtype: str, tokens: int | None, repeats: int) -> None:
    """Time both sides on a random model of a Pythia SHAPE."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = GPTNeoXConfig(**config_of(shape) | {"torch_dtype": dtype})
    with torch.device(device):
        model = GPTNeoXForCausalLM(config).to(getattr(torch, dtype)).eval()
    words = text(shape, tokens)
    batches = [torch.from_numpy(batch.astype("int64")) for batch in words.batches()]

    def timed(work: Callable[[], object]) -> float:
        clock = time.process_time if device == "cpu" else synchronized
        begun = clock()
        work()
        return clock() - begun

    @torch.inference_mode()
    def forward() -> None:
        for batch in batches:
            model.base_model(input_ids=batch.to(device), use_cache=False)

    sides = {"forward passes": forward} | {
        f"calibrating for {variant}": lambda variant=variant: Fitter(model, words).fits_alone(
            range(SHAPES[shape][0]), [variant]
        )
        for variant in ("mean", "linear")
    }
    with torch.inference_mode():
        model.base_model(input_ids=batches[0].to(device))  # warm-up
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats):
        for name, work in sides.items():
            taken[name].append(timed(work))
    count = sum(batch.numel() for batch in batches)
    click.echo(f"{shape}, {SHAPES[shape][0]} blocks, {count:,} tokens, {dtype}, {device}:")
    passes = statistics.median(taken["forward passes"])
    for name, seconds in taken.items():
        median = statistics.median(seconds)
        click.echo(f"  {name:24} {median:8.2f} s  {median / passes:5.2f} x")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(f"  peak memory {peak:,.0f} MiB, of which weights {model_bytes(model) >> 20:,} MiB")


def synchronized() -> float:
    torch.cuda.synchronize()
    return time.perf_counter()


def model_bytes(model: torch.nn.Module) -> int:
    return sum(parameter.nbytes for parameter in model.parameters())


if __name__ == "__main__":
    main()
