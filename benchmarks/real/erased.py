"""Measures a model that erased passages of the model that learned them, in float32."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lab.measure import mean_loss
from evals.data import Samples, open_samples
from evals.data.held_back import deal_unlisted
from evals.data.windows import cut_windows
from evals.measure.attacks.attack import Target
from evals.measure.attacks.names import find_attack
from evals.measure.memorization.extraction import run_pass
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.models import open_model
from evals.run.predictions import Sampling

NAMES = ("greedy", "any", "hints:4", "hints:8")
WINDOW, WINDOWS, ROWS = 128, 48, 4


def measure_erased(folder: Path, source: Path, erased: Path, leave_out: float) -> None:
    """Print what is left of the passages in `folder`, which `learn` made, and the held-out loss.

    First of the `source`, which learned them, then of `erased`, also after relearning: at each
    learning rate that `relearn` tries on the source, after each number of its steps.
    """
    trainings = None
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
        length = listed.tokens.shape[1]
        text = np.ascontiguousarray(windows[:, :length])
        target = Target(loaded.model, None, listed, text, draws=1, of=len(listed))
        outcome = find_attack("relearn").run(replace(target, trainings=trainings))
        trainings = outcome.trainings
        for setting, flags in outcome.settings.items():
            count, n = int(flags[outcome.tried].sum()), int(outcome.tried.sum())
            told = f"{setting.steps} steps at {setting.learning_rate:g}"
            print(f"  listed, relearned by {told}, of {n}: any {count}", flush=True)


def _print_counts(what: str, model: Any, samples: Samples) -> None:
    seen = Evidence.of(run_pass(model, samples.tokens, samples.prefix_length, sampling=Sampling()))
    counts = (f"{name} {int(make_recovery(name).recovered(seen).sum())}" for name in NAMES)
    print(f"  {what}, of {len(samples)}: {', '.join(counts)}", flush=True)
