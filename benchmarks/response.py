"""Estimating every head in every variant against measuring each, side by side in one run.

    python benchmarks/response.py               # Pythia-160m's shape, and growth at small width
    python benchmarks/response.py --quick       # growth alone, in seconds

Both sides see the same rows: half windows of held-out text, half passages. Measuring goes on
shared prefixes, as in `attn-surgery sweep --heads`. Only a sample is measured, one head of every
block, its variants in turn; its time less the base model's is multiplied to all heads and variants,
and that is the one figure that is extrapolated. Weights, rows and fits are random; finding fits is
left out on both sides. Seconds are CPU seconds of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from checkpoints import config_of
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from evals.edits.batch import BASE
from evals.edits.engine import Engine
from evals.response import Looking, respond_heldout, respond_margins
from evals.running.processes import Processes
from evals.samples import Samples
from evals.search.estimates import DRAWS
from evals.search.units import units
from surgery.fitting.moments import Moments, fit
from surgery.selection import Part
from surgery.variants import VARIANTS, Fit

PREFIX, LENGTH = 32, 64
GROWTH = (6, 12, 24)
SMALL = {
    "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 4, "vocab_size": 8_384,
}  # fmt: skip


class Fits:
    """In place of a fitter: random fits of every block, found before any clock runs."""

    def __init__(self, model: Any) -> None:
        self.known = {b: random_fit(model, b) for b in range(model.config.num_hidden_layers)}

    def fits(self, selection: Sequence[Part]) -> dict[int, Fit]:
        return {part.block: self.known[part.block] for part in selection}


def random_fit(model: Any, seed: int) -> Fit:
    d = model.config.hidden_size
    rng = torch.Generator().manual_seed(seed)
    sums = Moments(d, torch.device("cpu")), Moments(d, torch.device("cpu"))
    for moments in sums:
        moments.add(*(torch.randn(2 * d, d, generator=rng) for _ in range(2)))
    return fit(*sums, model.config.num_attention_heads)


def random_model(num_blocks: int, small: bool) -> Any:
    torch.manual_seed(0)
    config = {**config_of("160m"), "num_hidden_layers": num_blocks, "torch_dtype": "float32"}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**config | (SMALL if small else {}))).eval()


def timed(work: Callable[[], Any]) -> float:
    begun = time.process_time()
    work()
    return time.process_time() - begun


def compare(num_blocks: int, rows: int, *, small: bool) -> tuple[float, float]:
    """Seconds to estimate, and to measure, every head in every variant."""
    model = random_model(num_blocks, small)
    heads, fitter = model.config.num_attention_heads, Fits(model)
    tokens = np.random.default_rng(0).integers(2, model.config.vocab_size, (rows, LENGTH))
    windows, recited = np.split(tokens.astype(np.int32), 2)
    samples = Samples(recited, PREFIX, tuple(map(str, range(len(recited)))), "random rows")
    variants = tuple(VARIANTS)
    some = [
        (Part(block, (block % heads,), variants[block % len(variants)]),)
        for block in range(num_blocks)
    ]

    def estimate() -> None:
        parts = units(num_blocks, heads, "heads", variants)
        looking = Looking(model, parts, fitter.known, Processes(), lambda done: None)
        respond_heldout(looking, windows, DRAWS)
        respond_margins(looking, samples)

    def measure(edits: Sequence[Any]) -> None:
        Engine(model, samples, windows, fitter=fitter, batch_size=rows).measure(edits)

    timed(lambda: measure([BASE]))  # warm-up
    estimating, base = timed(estimate), timed(lambda: measure([BASE]))
    measuring = timed(lambda: measure(some))
    every = num_blocks * heads * len(variants)
    whole = base + (measuring - base) / num_blocks * every
    print(
        f"{num_blocks} blocks of d {model.config.hidden_size}, {heads} heads, {rows} rows of "
        f"{LENGTH} tokens: every head in every variant, {every} edits: estimated in "
        f"{estimating:.2f} s; measured in {whole:.1f} s (from {num_blocks} edits in "
        f"{measuring:.2f} s, {base:.2f} s of them the base): {whole / estimating:.0f} x",
        flush=True,
    )
    return estimating, whole


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--quick", action="store_true", help="only the small width")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.quick:
        compare(12, arguments.rows, small=False)
    found = [compare(blocks, 2 * arguments.rows, small=True) for blocks in GROWTH]
    print(f"  growth from {GROWTH[0]} to {' to '.join(map(str, GROWTH[1:]))} blocks, small width:")
    for side, seconds in zip(("estimating", "measuring"), zip(*found, strict=True), strict=True):
        steps = [f"{later / seconds[0]:.1f}" for later in seconds[1:]]
        print(f"  {side:10} x {', x '.join(steps)}")


if __name__ == "__main__":
    main()
