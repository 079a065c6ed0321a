"""A sweep over single blocks against the reference procedure, side by side in one run.

The reference is what the paper's scripts do, block by block and batch by batch: short-circuit the
block, a forward pass over prefix and suffix with logits everywhere, and `generate` of the suffix.

    python benchmarks/sweep.py                  # Pythia-160m's width; 6, 12 and 24 blocks
    python benchmarks/sweep.py --quick          # a sixth of the width, in seconds
    python benchmarks/sweep.py --device cuda --rows 1024 --batch-size 256 --blocks 12

Both sides see the same rows in batches of the same size, take turns, and must find the same exact
matches under every edit, and the same likelihoods within rounding. Weights are random; the rows are
what the unedited model says itself, half of them altered at one place, so that every edit begins
with passages that are recited. The edit is `zero`, on both sides put in force by the same code.

The floor of the whole measurement is what has to be computed: every block once for the base model,
the blocks from the edited one on for each edit, and the vocabulary projection at every suffix
position for each of these models. It is put together from the times of one of each.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from checkpoints import SHAPES, config_of
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from evals.edits.engine import Engine, Measured
from evals.models import DTYPES
from evals.running.batching import row_ranges
from evals.running.forward import head_of, hidden_states
from evals.running.predictions import measure_predictions
from evals.samples import Samples
from surgery.editing.in_memory import short_circuit
from surgery.selection import Selection, parse_selection

PREFIX = SUFFIX = 32
VARIANT = "zero"
ATTENTION = 0.3  # its share is small, so that an edit leaves some passages and not others


def reference(
    model: Any, samples: Samples, edits: list[Selection], batch_size: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every edit: exact match (bool [N]) and suffix NLL (float64 [N])."""
    found = []
    for edit in edits:
        exact, nll = [], []
        with short_circuit(model, edit):
            for rows in row_ranges(len(samples), batch_size):
                tokens = torch.from_numpy(samples.tokens[rows].astype(np.int64)).to(model.device)
                with torch.inference_mode():
                    logits = model(tokens).logits[:, PREFIX - 1 : -1].float()
                    log_p = logits.log_softmax(-1).gather(-1, tokens[:, PREFIX:, None])
                    said = generate(model, tokens[:, :PREFIX])
                exact.append((said == tokens[:, PREFIX:]).all(1).cpu().numpy())
                nll.append(-log_p.squeeze(-1).double().mean(1).cpu().numpy())
        found.append((np.concatenate(exact), np.concatenate(nll)))
    return found


def generate(model: Any, prefix: torch.Tensor) -> torch.Tensor:
    said: torch.Tensor = model.generate(
        prefix,
        attention_mask=torch.ones_like(prefix),
        do_sample=False,
        max_new_tokens=SUFFIX,
        pad_token_id=0,
    )
    return said[:, PREFIX:]


def blocks_once(model: Any, samples: Samples, batch_size: int) -> torch.Tensor:
    """Every row through every block once; the last hidden states."""
    hidden = [
        hidden_states(model, torch.from_numpy(samples.tokens[rows, :-1].astype(np.int64)))[0]
        for rows in row_ranges(len(samples), batch_size)
    ]
    return torch.cat(hidden)


def head_once(model: Any, samples: Samples, hidden: torch.Tensor) -> None:
    """Every suffix position through the vocabulary projection once."""
    suffix = torch.from_numpy(samples.suffixes.astype(np.int64))
    measure_predictions(hidden[:, PREFIX - 1 :], head_of(model), suffix)


def random_model(num_blocks: int, quick: bool, dtype: torch.dtype, device: str) -> Any:
    """Pythia-160m's shape with that many blocks. Weights are drawn large: it then says much."""
    torch.manual_seed(0)
    config = {**config_of("160m"), "num_hidden_layers": num_blocks, "eos_token_id": None}
    config |= {"torch_dtype": "float32", "initializer_range": 0.05}
    if quick:
        config |= {"hidden_size": 128, "intermediate_size": 512, "num_attention_heads": 2}
        config |= {"vocab_size": SHAPES["160m"][3] // 6, "initializer_range": 0.12}
    model = GPTNeoXForCausalLM(GPTNeoXConfig(**config))
    for layer in model.gpt_neox.layers:
        layer.attention.dense.weight.data *= ATTENTION
    return model.to(device, dtype).eval()


def recited(model: Any, rows: int, batch_size: int) -> Samples:
    """Random prefixes and what the model says after them; every second row is altered once."""
    rng = np.random.default_rng(0)
    vocabulary = model.config.vocab_size
    prefixes = rng.integers(0, vocabulary, (rows, PREFIX))
    with torch.inference_mode():
        said = [
            generate(model, torch.from_numpy(prefixes[some]).to(model.device)).cpu().numpy()
            for some in row_ranges(rows, batch_size)
        ]
    tokens = np.concatenate([prefixes, np.concatenate(said)], axis=1).astype(np.int32)
    places = PREFIX + rng.integers(0, SUFFIX, rows // 2)
    tokens[np.arange(rows // 2) * 2, places] = rng.integers(0, vocabulary, rows // 2)
    return Samples(tokens, PREFIX, tuple(map(str, range(rows))), "the model's own words")


def clock(device: str) -> float:
    """Seconds: of one thread its own, which other processes do not disturb; else of the wall."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def timed(work: Callable[[], Any], device: str) -> tuple[float, Any]:
    begun = clock(device)
    result = work()
    return clock(device) - begun, result


def check(
    theirs: list[tuple[np.ndarray, np.ndarray]], whole: list[Measured], quick: list[Measured]
) -> tuple[int, float]:
    """Rows whose exact match differs, and the largest difference in NLL."""
    differ, gap = 0, 0.0
    for (exact, nll), one, other in zip(theirs, whole, quick, strict=True):
        differ += int((exact != one.exact).sum() + (exact != other.exact).sum())
        gap = max(gap, float(np.abs(nll - one.nll).max()))
    return differ, gap


def compare(num_blocks: int, arguments: argparse.Namespace) -> None:
    model = random_model(num_blocks, arguments.quick, DTYPES[arguments.dtype], arguments.device)
    size, heads = arguments.batch_size, model.config.num_attention_heads
    samples = recited(model, arguments.rows, size)
    edits = [parse_selection(str(b), VARIANT, num_blocks, heads) for b in range(num_blocks)]
    sides: dict[str, Callable[[], Any]] = {
        "reference": lambda: reference(model, samples, edits, size),
        "sweep": lambda: Engine(model, samples, batch_size=size).measure(edits),
        "exact only": lambda: Engine(model, samples, exact_only=True, batch_size=size).measure(
            edits
        ),
    }
    Engine(model, samples, batch_size=size).measure(edits[-1:])  # warm-up
    hidden = blocks_once(model, samples, size)
    sides |= {
        "blocks once": lambda: blocks_once(model, samples, size),
        "head once": lambda: head_once(model, samples, hidden),
    }
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(arguments.rounds):
        for name, work in sides.items():
            elapsed, results[name] = timed(work, arguments.device)
            seconds[name].append(elapsed)
    theirs = results["reference"]
    differ, gap = check(theirs, results["sweep"], results["exact only"])
    left = [exact.mean() for exact, _ in theirs]
    print(
        f"{num_blocks} blocks of d {model.config.hidden_size}: {len(samples)} rows, batches of "
        f"{size}, {arguments.dtype}, {arguments.device}, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; an edit leaves {min(left):.0%} to {max(left):.0%} exact"
    )
    base = seconds["reference"]
    for name, times in list(seconds.items())[:3]:
        ratios = sorted(r / t for r, t in zip(base, times, strict=True))
        print(
            f"  {name:10} {statistics.median(times):8.2f} s   {statistics.median(ratios):6.2f} x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
    blocks, head = (seconds[name] for name in ("blocks once", "head once"))
    floors = [
        (1 + (num_blocks + 1) / 2) * b + (num_blocks + 1) * h
        for b, h in zip(blocks, head, strict=True)
    ]
    above = [t / floor for t, floor in zip(seconds["sweep"], floors, strict=True)]
    print(
        f"  floor of the whole measurement {statistics.median(floors):.2f} s: "
        f"the sweep takes {statistics.median(above):.2f} times that"
    )
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
