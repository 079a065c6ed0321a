"""Measures what a method made, on the half of the passages that no method saw.

The columns of the table of `__main__.py`, beside this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.rivals.bed import ROWS, Bed, measure_text, recover
from benchmarks.rivals.token_swap import get_held
from evals.data import Samples, Tokens
from evals.data.held_back import split_halves
from evals.data.inputs import read_heldout_texts
from evals.data.windows import cut_windows
from evals.lab import calibration_texts
from evals.measure.attacks.attack import Target, Trainings
from evals.measure.attacks.names import find_attack
from evals.measure.memorization.membership import measure_area
from evals.run.lm_eval.running import Benchmarks
from evals.run.lm_eval.scores import choose_metric
from evals.run.models import LoadedModel
from surgery.hub.resolved import ResolvedModel

QUIET = ("any", "hints:4", "hints:8", "perturbed", "quantized:4")
LENGTH = 128
TUNING = ("relearn",)
"""Attacks that fine-tune. The base settles their learning rates."""


@dataclass(frozen=True)
class Bench:
    """What all are measured on. `heldout`: the half that is held back."""

    loaded: LoadedModel
    bed: Bed
    held_back: Samples
    never: Samples
    heldout: Tokens
    benchmarks: Benchmarks | None
    sibling: ResolvedModel | None = None

    def measure(self, model: Any, cut: tuple[int, ...] = ()) -> dict[str, Any]:
        """The columns of the table, in shares, nats, and points. `cut`: the blocks that were."""
        target = Target(model, self.loaded.tokenizer, self.held_back, self.heldout, draws=1)
        quiet = {name: float(find_attack(name).run(target).counted.mean()) for name in QUIET}
        worst = max(quiet, key=quiet.__getitem__)
        found: dict[str, Any] = {"no training": quiet[worst], "by": worst}
        given = {"cut": cut, "sibling": self.sibling, "of": len(self.held_back)}  # no curves
        known = replace(target, model=get_held(model), **given)
        able = {"revive": bool(cut), "graft": self.sibling is not None}
        for name in (*TUNING, "revive", "graft"):
            made = None
            if able.get(name, True):
                made = find_attack(name).run(replace(known, trainings=self.trainings.get(name)))
            found[name] = None if made is None else float(made.counted.mean())
        found |= {
            "membership": self._tell_members(target) if len(self.never) else None,
            "any, seen": float(recover(model, self.bed.samples).mean()),
            "any, not seen": quiet["any"],
            "never trained": self._rise_never(model) if len(self.never) else None,
            **measure_text(self.loaded.model, model, self.heldout),
        }
        return found | self._score(model)

    @cached_property
    def trainings(self) -> dict[str, Trainings | None]:
        """The learning rates that each of `TUNING` tries on the base, and so on every model."""
        target = Target(self.loaded.model, None, self.held_back, self.heldout, draws=1)
        brief = replace(target, of=len(self.held_back))
        return {name: find_attack(name).run(brief).trainings for name in TUNING}

    def _rise_never(self, model: Any) -> float:
        rows = torch.from_numpy(self.never.tokens.astype(np.int64)).split(ROWS)
        with torch.no_grad():
            after, before = (
                sum(float(self.bed.suffix_nll(one, some).sum()) for some in rows)
                for one in (model, self.loaded.model)
            )
        return (after - before) / len(self.never) / self.never.suffix_length

    def _tell_members(self, target: Target) -> float:
        """The highest AUC of a score that tells the held-back passages from the others.

        Either way: a model that has forgotten too much gives them away, too.
        """
        attack = find_attack("membership")
        both = (self.held_back, self.never)
        inside, outside = (attack.run(replace(target, samples=some)).scores for some in both)
        labels = np.arange(len(self.held_back) + len(self.never)) < len(self.held_back)
        every = (np.concatenate([inside[name], outside[name]]) for name in inside)
        found = [measure_area("area", scores, labels, "edited").value or 0.0 for scores in every]
        return max(max(one, 1 - one) for one in found)

    def _score(self, model: Any) -> dict[str, float]:
        found = {}
        for name in self.benchmarks.tasks if self.benchmarks else ():
            assert self.benchmarks is not None
            size = self.benchmarks.batch_size(name, self.loaded)
            run = self.benchmarks.run(name, replace(self.loaded, model=model), batch_size=size)
            scores = self.benchmarks.scores(name, run)
            found[name] = scores[choose_metric(scores)].value
        return found


def make_bench(
    model: str, loaded: LoadedModel, passages: Samples, text: tuple[Path, ...],
    heldout: tuple[Path, ...], tasks: str, include_path: tuple[Path, ...], limit: int | None,
    seed: int, passes: torch.dtype,
) -> Bench:  # fmt: skip
    """Both halves, as a search with this seed deals them."""
    texts = read_heldout_texts(text) if text else calibration_texts()
    windows = cut_windows(texts, loaded.tokenizer, LENGTH, most=2048)
    length = passages.tokens.shape[1]
    control = cut_windows(read_heldout_texts(heldout, model), loaded.tokenizer, length)
    first, second = split_halves(passages, control, seed)
    bed = Bed(model, loaded.tokenizer, first.samples, windows,
              seed=seed, heldout=first.windows, passes=passes)  # fmt: skip
    benchmarks = None
    if tasks:
        benchmarks = Benchmarks.load(tasks.split(","), include_paths=include_path, limit=limit)
    never = passages.select(~passages.trained_on)
    return Bench(loaded, bed, second.samples, never, second.windows, benchmarks)
