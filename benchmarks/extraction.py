"""The memorization test against the reference procedure, side by side in one run.

The reference is what evaluation scripts do, batch by batch: a forward pass over prefix and suffix
with logits everywhere, for the likelihoods, and `generate` of the suffix's length, for the match.

    python benchmarks/extraction.py                      # Pythia-160m's shape, random weights
    python benchmarks/extraction.py --model lab:pythia --drop-attn 5-7    # a mitigated lab model
    python benchmarks/extraction.py --device cuda --rows 2048

Both sides see the same rows in the same precision, take turns, and must give the same numbers:
exact matches and decoded tokens equal, likelihoods within rounding (in float32; in other
precisions the rows that differ are counted). The reference runs in batches of 32 unless told
otherwise, ours in those that `extract` chooses.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from evals.memorization.extraction import extract
from evals.models import DTYPES, open_model
from evals.running.batching import row_ranges, rows_per_batch
from evals.running.early_exit import first_divergences
from evals.samples import Samples, load_samples
from surgery.editing.in_memory import apply

PREFIX = SUFFIX = 32


@dataclass(frozen=True)
class Reference:
    """What the reference procedure finds, for each row."""

    decoded: np.ndarray  # int64 [N, S]
    nll: np.ndarray  # float64 [N]


def reference(model: Any, samples: Samples, batch_size: int) -> Reference:
    """A forward pass and a generation for every batch."""
    decoded, nll = [], []
    prefix_length = samples.prefix_length
    for rows in row_ranges(len(samples), batch_size):
        tokens = torch.from_numpy(samples.tokens[rows].astype(np.int64)).to(model.device)
        with torch.inference_mode():
            logits = model(tokens).logits[:, prefix_length - 1 : -1].float()
            log_p = logits.log_softmax(-1).gather(-1, tokens[:, prefix_length:, None])
            prefix = tokens[:, :prefix_length]
            said = model.generate(
                prefix,
                attention_mask=torch.ones_like(prefix),
                do_sample=False,
                max_new_tokens=samples.suffix_length,
                pad_token_id=0,
            )
        decoded.append(said[:, prefix_length:].cpu().numpy())
        nll.append(-log_p.squeeze(-1).double().mean(1).cpu().numpy())
    return Reference(np.concatenate(decoded), np.concatenate(nll))


def early_exit(model: Any, samples: Samples, batch_size: int) -> np.ndarray:
    """The exact match alone, rows leaving the batch where they diverge."""
    found = [
        first_divergences(
            model, torch.from_numpy(samples.tokens[rows].astype(np.int64)), samples.prefix_length
        )
        for rows in row_ranges(len(samples), batch_size)
    ]
    return torch.cat(found).numpy() == samples.suffix_length


def pythia_160m(rows: int, dtype: torch.dtype, device: str) -> tuple[Any, Samples]:
    """12 blocks, d 768, vocabulary 50,304, random weights; random rows."""
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        hidden_size=768,
        num_hidden_layers=12,
        num_attention_heads=12,
        intermediate_size=3_072,
        vocab_size=50_304,
        rotary_pct=0.25,
        eos_token_id=None,
    )
    model = GPTNeoXForCausalLM(config).to(device, dtype).eval()
    tokens = np.random.default_rng(0).integers(0, 50_304, (rows, PREFIX + SUFFIX)).astype(np.int32)
    return model, Samples(tokens, PREFIX, tuple(map(str, range(rows))), "random rows")


def trained(arguments: argparse.Namespace) -> tuple[Any, Samples]:
    loaded = open_model(arguments.model, dtype=arguments.dtype, device=arguments.device)
    samples = load_samples(arguments.samples or arguments.model, tokenizer=loaded.tokenizer)
    model = loaded.model
    if arguments.drop_attn:
        model = apply(model, arguments.drop_attn, "identity")
    model.generation_config.eos_token_id = None  # a token like any other
    return model, samples


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    begun = time.perf_counter()
    result = work()
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter() - begun, result


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

    if arguments.model is None:
        model, samples = pythia_160m(arguments.rows, DTYPES[arguments.dtype], arguments.device)
    else:
        model, samples = trained(arguments)
    size = arguments.batch_size or rows_per_batch(model, samples.tokens.shape[1])
    sides: dict[str, Callable[[], Any]] = {
        "reference": lambda: reference(model, samples, arguments.reference_batch_size),
        "exact": lambda: extract(model, samples, batch_size=size),
        "early exit": lambda: early_exit(model, samples, size),
        "full": lambda: extract(model, samples, full=True, batch_size=size),
    }
    few = samples.select(np.arange(len(samples)) < 2)
    reference(model, few, 2)  # warm-up: kernels and caches of the library
    extract(model, few, full=True, batch_size=2)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for name, work in sides.items():
            elapsed, results[name] = timed(work, arguments.device)
            seconds[name].append(elapsed)

    theirs, exact, full = results["reference"], results["exact"], results["full"]
    match = (theirs.decoded == samples.suffixes).all(1)
    differ = {
        "exact": int((exact.exact != match).sum()),
        "early exit": int((results["early exit"] != match).sum()),
        "full": int((full.decoded != theirs.decoded).any(1).sum()),
    }
    gap = float(np.abs(exact.nll - theirs.nll).max())
    print(
        f"{arguments.model or 'random Pythia-160m shape'}"
        f"{f', blocks {arguments.drop_attn} short-circuited' if arguments.drop_attn else ''}: "
        f"{len(samples)} rows of {samples.prefix_length} + {samples.suffix_length} tokens, "
        f"batches of {size} (reference {arguments.reference_batch_size}), "
        f"{arguments.dtype}, {arguments.device}, torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; {match.mean():.1%} exact; medians of "
        f"{arguments.rounds} rounds"
    )
    base = statistics.median(seconds["reference"])
    for name, times in seconds.items():
        rows = f", rows that differ: {differ[name]}" if name in differ else ""
        ratios = sorted(r / t for r, t in zip(seconds["reference"], times, strict=True))
        spread = f"{ratios[0]:.2f} to {ratios[-1]:.2f}"
        print(
            f"  {name:10} {statistics.median(times):8.2f} s   "
            f"{base / statistics.median(times):6.2f} x ({spread}){rows}"
        )
    print(f"  largest difference in suffix NLL: {gap:.1e} nats per token")
    if arguments.dtype == "float32" and (any(differ.values()) or gap > 1e-3):
        raise SystemExit("the two sides disagree")


if __name__ == "__main__":
    main()
