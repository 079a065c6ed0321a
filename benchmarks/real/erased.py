"""Measures a model that erased passages of the model that learned them, in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.lab.measure import mean_loss
from evals.data import Samples, open_samples
from evals.data.held_back import deal_unlisted
from evals.data.windows import cut_windows
from evals.measure.attacks.attack import split
from evals.measure.attacks.relearn import RATES, SHARE
from evals.measure.attacks.tuning import STEPS, fine_tune
from evals.measure.memorization.extraction import run_pass
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.models import open_model
from evals.run.predictions import Sampling

NAMES = ("greedy", "any", "hints:4", "hints:8")
WINDOW, WINDOWS, ROWS = 128, 48, 4


def measure_erased(folder: Path, source: Path, erased: Path, leave_out: float) -> None:
    """Print what is left of the passages in `folder`, which `learn` made, and the held-out loss.

    First of the `source`, which learned them, then of `erased`, also after relearning.
    """
    for path in (source, erased):
        loaded = open_model(str(path), dtype="float32", device="cpu")
        samples = open_samples(str(folder / "records.jsonl")).tokenize(loaded.tokenizer)
        unlisted = deal_unlisted(samples, leave_out)
        listed = samples.select(samples.trained_on & ~unlisted)
        texts = [(folder / "heldout.txt").read_text(encoding="utf-8")]
        windows = cut_windows(texts, loaded.tokenizer, WINDOW, most=WINDOWS)
        print(
            f"{path.name}: held-out loss {mean_loss(loaded.model, windows, ROWS):.3f}", flush=True
        )
        _print_counts("listed", loaded.model, listed)
        _print_counts("not listed", loaded.model, samples.select(unlisted))
        _print_counts("never trained on", loaded.model, samples.select(~samples.trained_on))
    held, others = split(listed.tokens, SHARE)
    for rate in RATES:
        *_, tuned = fine_tune(
            loaded.model, listed.tokens[held], steps=STEPS[-1:], learning_rate=rate
        )
        _print_counts(f"listed, relearned at {rate:g}", tuned, listed.select(others))


def _print_counts(what: str, model: Any, samples: Samples) -> None:
    seen = Evidence.of(run_pass(model, samples.tokens, samples.prefix_length, sampling=Sampling()))
    counts = (f"{name} {int(make_recovery(name).recovered(seen).sum())}" for name in NAMES)
    print(f"  {what}, of {len(samples)}: {', '.join(counts)}", flush=True)
