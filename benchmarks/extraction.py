"""Times the memorization test against the reference procedure, side by side in one run.

The reference is what evaluation scripts do, batch by batch: a forward pass over prefix and suffix
with all logits, for the likelihoods, and `generate` of the suffix's length, for the match.

    python benchmarks/extraction.py                      # Pythia-160m's shape, random weights
    python benchmarks/extraction.py --model lab:pythia --drop-attn 5-7    # a mitigated lab model
    python benchmarks/extraction.py --device cuda --rows 2048

Both sides see the same rows in the same precision, and must give the same numbers: exact matches
and decoded tokens equal, likelihoods within rounding (in float32; in other precisions the rows that
differ are counted). Ours runs in the batches that `extract` chooses.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from timing import decode, make_model, print_ratios, take_turns

from evals.data import Samples, load_samples
from evals.measure.memorization.extraction import extract
from evals.run.batching import row_ranges, rows_per_batch
from evals.run.models import DTYPES, open_model
from surgery.in_memory import apply


def run_reference(model: Any, samples: Samples, batch_size: int) -> tuple[np.ndarray, np.ndarray]:
    """A forward pass and a generation for every batch → decoded int64 [N, S], NLL float64 [N]."""
    decoded, nll = [], []
    length = samples.prefix_length
    for rows in row_ranges(len(samples), batch_size):
        tokens = torch.from_numpy(samples.tokens[rows].astype(np.int64)).to(model.device)
        with torch.inference_mode():
            logits = model(tokens).logits[:, length - 1 : -1].float()
            log_p = logits.log_softmax(-1).gather(-1, tokens[:, length:, None])
            said = decode(model, tokens[:, :length], samples.suffix_length)
        decoded.append(said.cpu().numpy())
        nll.append(-log_p.squeeze(-1).double().mean(1).cpu().numpy())
    return np.concatenate(decoded), np.concatenate(nll)


def load_sides(arguments: argparse.Namespace) -> tuple[Any, Samples]:
    """A random model of Pythia-160m's shape and random rows, or what the options name."""
    if arguments.model is None:
        model = make_model("160m", DTYPES[arguments.dtype], arguments.device, eos_token_id=None)
        tokens = np.random.default_rng(0).integers(0, 50_304, (arguments.rows, 64))
        names = tuple(map(str, range(arguments.rows)))
        return model, Samples(tokens.astype(np.int32), 32, names, "random rows")
    loaded = open_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    samples = load_samples(arguments.samples or arguments.model, tokenizer=loaded.tokenizer)
    model = loaded.model
    if arguments.drop_attn:
        model = apply(model, arguments.drop_attn, "identity")
    model.generation_config.eos_token_id = None  # a token like any other
    return model, samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="lab:pythia, a folder or a Hub id; default: random 160m")
    parser.add_argument("--samples", help="as for extract; default: a lab model's own")
    parser.add_argument("--drop-attn", help="blocks to short-circuit first, e.g. 5-7")
    parser.add_argument("--rows", type=int, default=128, help="random rows")
    parser.add_argument("--batch-size", type=int, help="default: as extract chooses it")
    parser.add_argument("--reference-batch-size", type=int, default=32, help="default: 32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    arguments = parser.parse_args()

    model, samples = load_sides(arguments)
    size = arguments.batch_size or rows_per_batch(model, samples.tokens.shape[1])
    few = samples.select(np.arange(len(samples)) < 2)
    run_reference(model, few, 2)  # warm-up: kernels and caches of the library
    extract(model, few, full=True, batch_size=2)
    sides = {
        "reference": lambda: run_reference(model, samples, arguments.reference_batch_size),
        "exact": lambda: extract(model, samples, batch_size=size),
        "full": lambda: extract(model, samples, full=True, batch_size=size),
    }
    seconds, results = take_turns(sides, arguments.rounds, arguments.device)
    decoded, nll = results["reference"]
    match = (decoded == samples.suffixes).all(1)
    differ = {
        "exact": int((results["exact"].exact != match).sum()),
        "full": int((results["full"].decoded != decoded).any(1).sum()),
    }
    gap = float(np.abs(results["exact"].nll - nll).max())
    print(
        f"{arguments.model or 'random Pythia-160m shape'}: {len(samples)} rows of "
        f"{samples.prefix_length} + {samples.suffix_length} tokens, batches of {size} (reference "
        f"{arguments.reference_batch_size}), {arguments.dtype}, {arguments.device}, torch "
        f"{torch.__version__}, {torch.get_num_threads()} threads; {match.mean():.1%} exact"
    )
    print_ratios(seconds)
    print(f"  rows that differ: {differ}; largest difference in suffix NLL: {gap:.1e} nats")
    if arguments.dtype == "float32" and (any(differ.values()) or gap > 1e-3):
        raise SystemExit("the two sides disagree")


if __name__ == "__main__":
    main()
