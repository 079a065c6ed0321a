"""The methods of `__main__.py`: each makes one model, in the same time and on the same half.

Deep blocks, the searches, and `erased` are ours. Every other method is a rival with settings, of
which the search's rule chooses one (`choosing.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from subprocess import CalledProcessError
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from benchmarks.rivals.balanced_subnet import balanced_subnet
from benchmarks.rivals.bed import Bed, Rival, write_samples
from benchmarks.rivals.choosing import Setting, choose
from benchmarks.rivals.erased import choose_cut, erased
from benchmarks.rivals.kfac import kfac
from benchmarks.rivals.rmu import rmu
from benchmarks.rivals.surgery import cut_deep_blocks, heal_also, read_choice, search
from benchmarks.rivals.token_swap import TokenSwap, token_swap
from benchmarks.rivals.training import gradient_difference_kl, npo_kl, simnpo
from benchmarks.rivals.undo import make_teacher, undo
from benchmarks.rivals.vector_editing import vector_editing
from evals.run.models import LoadedModel, open_model
from surgery.editing.in_memory import apply
from surgery.output import write_text
from surgery.selection import parse_selection
from surgery.training.training import scale_rate

RATES = (3e-4, 1e-3, 3e-3)
"""Learning rates, here and below: for narrow models. Wide ones get less, as ours do when they
learn.
"""
WEIGHTS = (0.1, 1.0)


def cross(**values: Sequence[Any]) -> list[Setting]:
    """Every combination."""
    return [dict(zip(values, some, strict=True)) for some in product(*values.values())]


def scale_rates(settings: Sequence[Setting], factor: float) -> list[Setting]:
    """The same settings with `factor` times their learning rate, where they have one."""
    return [
        {name: factor * value if name == "rate" else value for name, value in one.items()}
        for one in settings
    ]


SWAP = "token-swap"
RIVALS: dict[str, tuple[Rival, list[Setting]]] = {
    "gradient-difference-kl": (
        gradient_difference_kl,
        cross(rate=RATES, weight=WEIGHTS, most=(3.0, 6.0)),
    ),
    "npo-kl": (npo_kl, cross(rate=RATES, weight=WEIGHTS, beta=(0.1, 0.5))),
    "simnpo": (simnpo, cross(rate=RATES, weight=WEIGHTS, beta=(2.5, 4.5))),
    "rmu": (rmu, cross(depth=(0.5, 0.75), times=(1.0, 4.0), keep=(3.0, 30.0), rate=(3e-4, 1e-3))),
    "undo": (undo, cross(noise=(0.1, 0.2, 0.4, 0.6), rate=(3e-4, 1e-3))),
    "kfac": (kfac, [{}]),
    "balanced-subnet": (
        balanced_subnet,
        cross(share=(0.02, 0.03, 0.05, 0.08), weight=(0.5, 0.7)),
    ),
    "vector-editing": (
        vector_editing,
        cross(neurons=(20, 40), margin=(0.5, 1.0), wrong=(4, 8, 16)),
    ),
    "erased": (erased, cross(steps=(30, 60, 120), times=(1.0, 0.5), harden=(False, True))),
    SWAP: (token_swap, cross(number=(55, 110, 220, 440), punctuation=(False, True))),
}
"""Rival → its settings. K-FAC goes through its own in one run, the mildest first. Those of `erased`
run to their end, so that few of them may fit into the time: the quicker ones come first. Those of
others come in an order drawn with the seed, so that what fits is no corner of them.
"""
PREPARED = {"undo": make_teacher, "erased": choose_cut}
"""Rival → what makes, once, what all its settings share."""
SEARCHES = {"search-any": ("any=0.01",), "search-relearn": ("any=0.01", "relearn=0.05")}
LIMITS = 0.01, 0.05


@dataclass(frozen=True)
class Made:
    """What a method made: a model, or None if it is not finished, its setting in words, and the
    blocks that it cut. `left`: what fine-tuning brings back of the half that chose; None if that
    is not known yet. `cheapest`: of a rival, the cost of the cheapest setting that keeps the limit
    on `any`, whatever fine-tuning brings back, in nats on that half.
    """

    model: Any
    setting: str
    cut: tuple[int, ...] = ()
    left: float | None = None
    cheapest: float | None = None


TWIN = "twin"
UNCHANGED = ("not edited", TWIN)
"""Rows for comparison, which no limit judges."""
AFTER = {"healed": "search-relearn", "erased-and-cut": "erased"}
"""Method → the one whose result it needs, and whose seconds count as its own, too."""
METHODS = (*UNCHANGED, "deep-blocks", *SEARCHES, "healed", *RIVALS, "erased-and-cut")
OURS = (*SEARCHES, "healed", "erased", "erased-and-cut")
"""Methods that run to their end, which may be later than that of a rival."""


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n", overwrite=True)


@dataclass(frozen=True)
class Workshop:
    """What the methods work with.

    - `base`: the model, and `bed`, what a rival gets of it.
    - `seconds`: of processor time, for each rival.
    - `given`: options of the searches; `fits`: the text to fit their exports on.
    - `helper`: the second model of TokenSwap, which is left out without it.
    - `twin`: the name of a model that never saw the passages, or None.
    - `output`: the folder for what is made.
    - `most`: of a rival's settings, the number to try.
    """

    base: LoadedModel
    bed: Bed
    seconds: float
    given: list[str]
    fits: list[Path]
    helper: Any
    twin: str | None
    output: Path
    most: int = 16

    def list_methods(self) -> dict[str, Callable[[], Made]]:
        """Method → what makes its model."""
        made: dict[str, Callable[[], Made]] = {
            "not edited": lambda: Made(self.base.model, ""),
            TWIN: self.open_twin,
            "deep-blocks": self.cut_deep,
            **{name: partial(self.search_for, name) for name in SEARCHES},
            "healed": self.heal_search,
            **{name: partial(self.tune, name) for name in RIVALS},
            "erased-and-cut": self.cut_erased,
        }
        needed = {SWAP: self.helper, TWIN: self.twin}
        return {name: run for name, run in made.items() if needed.get(name, name) is not None}

    def load(self, name: str, dtype: torch.dtype = torch.float32) -> LoadedModel:
        return open_model(name, dtype=str(dtype).removeprefix("torch."), device="cpu")

    def make(self, name: str) -> Any:
        """A fresh model for a rival, in float32."""
        model = self.load(self.bed.model).model
        return TokenSwap(model, self.helper) if name == SWAP else model

    def tune(self, name: str) -> Made:
        rival, settings = RIVALS[name]
        if name != "erased":
            order = np.random.default_rng(self.bed.seed).permutation(len(settings))
            settings = [settings[place] for place in order]
        settings = scale_rates(settings[: self.most], scale_rate(self.base.model))
        shared = dict[str, Any]()
        weights = self.output / f"{name}.pt"
        weights.unlink(missing_ok=True)  # of a run that was stopped

        def prepare(model: Any, bed: Bed, seconds: float) -> Mapping[str, Any]:
            shared.update(PREPARED[name](model, bed, seconds))
            return shared

        with TemporaryDirectory(dir=self.output) as folder:
            choice = choose(
                name, rival, settings, partial(self.make, name), self.bed,
                seconds=self.seconds, limits=LIMITS, folder=Path(folder),
                prepare=prepare if name in PREPARED else None,
            )  # fmt: skip
            tried, found = f"{choice.tried} of {len(settings)} settings tried", choice.candidate
            if found is None:
                least = f"any recovers {choice.lowest:.1%} or more" if choice.tried else "no look"
                return Made(None, f"not finished: {least}; {tried}")
            model = found.load_into(self.make(name).requires_grad_(False))
        label = found.label
        if name == "erased":
            write_json(self.output / "erased.json", shared)
            torch.save(model.state_dict(), weights)
            label = f"taught by {shared['blocks']} {shared['variant']}, {label}"
        left = found.relearned or 0.0
        return Made(model, f"{label}; {tried}", left=left, cheapest=choice.cheapest)

    def cut_erased(self) -> Made:
        if not (self.output / "erased.pt").exists():
            return Made(None, "not finished: erased is not")
        model = self.make("erased").requires_grad_(False)
        model.load_state_dict(torch.load(self.output / "erased.pt", weights_only=True))
        cut = json.loads((self.output / "erased.json").read_text())
        edited = apply(model, cut["blocks"], cut["variant"])
        size = model.config.num_hidden_layers, model.config.num_attention_heads
        parts = parse_selection(cut["blocks"], cut["variant"], *size)
        blocks = tuple(sorted({part.block for part in parts}))
        return Made(edited, f"cut: {cut['blocks']} {cut['variant']}", blocks)

    def open_twin(self) -> Made:
        assert self.twin is not None
        return Made(self.load(self.twin, self.bed.passes).model, "never saw the passages")

    def heal_search(self) -> Made:
        cut = self.output / AFTER["healed"]
        if not cut.exists():
            return Made(None, f"not finished: {cut.name} is not")
        passages = self.output / "chosen_on.jsonl"
        write_samples(self.bed.samples, passages)
        found = cut.with_name(f"{cut.name}-search")
        try:
            heal_also(self.bed, found, self.fits, passages, self.output / "healed")
        except CalledProcessError:  # it has said why
            return Made(None, "not finished: healing failed")
        edited = self.load(str(self.output / "healed"), self.bed.passes)
        return Made(edited.model, f"what {cut.name} chose", edited.cut)

    def cut_deep(self) -> Made:
        if not cut_deep_blocks(self.base.model, self.bed, LIMITS[0], self.output / "deep"):
            return Made(None, "not finished: all blocks leave more than the limit on any")
        edited = self.load(str(self.output / "deep"), self.bed.passes)
        return Made(edited.model, "the fewest that keep any", edited.cut)

    def search_for(self, name: str) -> Made:
        result = self.output / f"{name}-search" / "search.json"
        try:
            search(SEARCHES[name], self.bed, self.given, self.fits, self.output / name)
        except CalledProcessError:
            if result.exists() and read_choice(result) is None:
                return Made(None, "not finished: no edit that was measured keeps the limits")
            raise
        edited = self.load(str(self.output / name), self.bed.passes)
        return Made(edited.model, str(read_choice(result)), edited.cut)
