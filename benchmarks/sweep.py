"""Times a sweep over single blocks against the reference procedure, side by side in one run.

The reference is what the paper's scripts do, block by block and batch by batch: short-circuit the
block, a forward pass over prefix and suffix with all logits, and `generate` of the suffix.

    python benchmarks/sweep.py                  # Pythia-160m's width; 6, 12 and 24 blocks
    python benchmarks/sweep.py --quick          # a sixth of the width, in seconds
    python benchmarks/sweep.py --device cuda --rows 1024 --batch-size 256 --blocks 12

Both sides see the same rows in batches of the same size, and must find the same exact matches under
every edit, and the same likelihoods within rounding. Weights are random; the rows are what the
unedited model says itself, half of them altered at one place. The edit is `zero`.

The *floor* is what has to be computed: every block once for the base model, the blocks from the
edited one on for each edit, and the vocabulary projection at every suffix position for each of
these models. It is put together from the times of one of each.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import numpy as np
import torch
from checkpoints import VOCABULARY
from extraction import run_reference
from timing import decode, make_model, print_ratios, take_turns

from evals.data import Samples
from evals.measure.edits.engine import Engine
from evals.run.batching import row_ranges
from evals.run.forward import head_of, hidden_states
from evals.run.models import DTYPES
from evals.run.predictions import measure_predictions
from surgery.editing.in_memory import short_circuit
from surgery.selection import Selection, parse_selection

PREFIX = SUFFIX = 32
QUICK = {
    "hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2,
    "vocab_size": VOCABULARY // 6, "initializer_range": 0.12,
}  # fmt: skip
ATTENTION = 0.3  # its share is small, so that an edit leaves some passages and not others


def reference_edit(model: Any, edit: Selection, samples: Samples, size: int) -> Any:
    with short_circuit(model, edit):
        decoded, nll = run_reference(model, samples, size)
    return (decoded == samples.suffixes).all(1), nll


def run_blocks(model: Any, samples: Samples, batch_size: int) -> torch.Tensor:
    """Every row through every block once; the last hidden states."""
    hidden = [
        hidden_states(model, torch.from_numpy(samples.tokens[rows, :-1].astype(np.int64)))[0]
        for rows in row_ranges(len(samples), batch_size)
    ]
    return torch.cat(hidden)


def run_head(model: Any, samples: Samples, hidden: torch.Tensor) -> None:
    """Every suffix position through the vocabulary projection once."""
    suffix = torch.from_numpy(samples.suffixes.astype(np.int64))
    measure_predictions(hidden[:, PREFIX - 1 :], head_of(model), suffix)


def make_samples(model: Any, rows: int, batch_size: int) -> Samples:
    """Random prefixes and what the model says after them; every second row is altered once."""
    rng = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    prefixes = rng.integers(0, vocabulary, (rows, PREFIX))
    with torch.inference_mode():
        said = [
            decode(model, torch.from_numpy(prefixes[some]).to(model.device), SUFFIX).cpu().numpy()
            for some in row_ranges(rows, batch_size)
        ]
    tokens = np.concatenate([prefixes, np.concatenate(said)], axis=1).astype(np.int32)
    places = PREFIX + rng.integers(0, SUFFIX, rows // 2)
    tokens[np.arange(rows // 2) * 2, places] = rng.integers(0, vocabulary, rows // 2)
    return Samples(tokens, PREFIX, tuple(map(str, range(rows))), "the model's own words")


def compare(num_blocks: int, arguments: argparse.Namespace) -> None:
    size = arguments.batch_size
    changes = {"num_hidden_layers": num_blocks, "eos_token_id": None, "initializer_range": 0.05}
    changes |= QUICK if arguments.quick else {}
    model = make_model("160m", DTYPES[arguments.dtype], arguments.device, **changes)
    for layer in model.gpt_neox.layers:
        layer.attention.dense.weight.data *= ATTENTION
    samples = make_samples(model, arguments.rows, size)
    heads = model.config.num_attention_heads
    edits = [parse_selection(str(b), "zero", num_blocks, heads) for b in range(num_blocks)]
    Engine(model, samples, batch_size=size).measure(edits[-1:])  # warm-up
    hidden = run_blocks(model, samples, size)
    sides = {
        "reference": lambda: [reference_edit(model, edit, samples, size) for edit in edits],
        "sweep": lambda: Engine(model, samples, batch_size=size).measure(edits),
        "blocks once": lambda: run_blocks(model, samples, size),
        "head once": lambda: run_head(model, samples, hidden),
    }
    seconds, results = take_turns(sides, arguments.rounds, arguments.device)
    differ, gap = 0, 0.0
    for (exact, nll), one in zip(results["reference"], results["sweep"], strict=True):
        differ += int((exact != one.exact).sum())
        gap = max(gap, float(np.abs(nll - one.nll).max()))
    print(
        f"{num_blocks} blocks of d {model.config.hidden_size}: {len(samples)} rows, batches of "
        f"{size}, {arguments.dtype}, {arguments.device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}"
    )
    print_ratios(dict(list(seconds.items())[:2]))
    blocks, head = (statistics.median(seconds[name]) for name in ("blocks once", "head once"))
    floor = (1 + (num_blocks + 1) / 2) * blocks + (num_blocks + 1) * head
    print(f"  sweep / floor {statistics.median(seconds['sweep']) / floor:.2f}")
    print(f"  rows that differ: {differ}; largest difference in suffix NLL: {gap:.1e}", flush=True)
    if arguments.dtype == "float32" and (differ or gap > 1e-3):
        raise SystemExit("the two sides disagree")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 12, 24])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--quick", action="store_true", help="a small width and vocabulary")
    arguments = parser.parse_args()
    for num_blocks in arguments.blocks:
        compare(num_blocks, arguments)


if __name__ == "__main__":
    main()
