"""What erasing costs and leaves, by result and by way of teaching.

    python -m benchmarks.erasing lab:pythia --drop-attn 0
    python -m benchmarks.erasing lab:pythia --drop-attn 0 --revive --heal-steps 60 --heal-steps 240
    python -m benchmarks.erasing lab:pythia --drop-attn 0 --ways --teacher 0-1 --teacher 4-5

Trains in memory, in float32, on three quarters of the passages, and measures on all:

- what the model costs on held-out text, in nats per token: its loss over the base's, and
  KL(base || model);
- the share of listed passages that `any` and `hints:8` recover, and of the others that `any` does;
- how many of the listed ones `any` recovers after relearning a tenth of them, which do not count:
  at each learning rate that `relearn` tries on the base, after the number of steps that recovers
  most; and, with `--revive`, after that attack, which learns a fifth of them;
- how many of the half that the attacker does not hold `any` recovers after longer trainings on four
  tenths of them, none of which hardening rehearses (`JUDGES`);
- how far the weights went: the L2 distance from the base's, over the base's norm. It leaves out
  those that a compact block no longer has.

First come the five results of `mitigate --erase`, and a hardened erasing. With `--ways`, other ways
to teach follow, and whether that distance ranks them as relearning does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import spearmanr
from torch.nn import functional

from evals.data import Samples, Tokens, open_samples
from evals.data.held_back import deal_unlisted
from evals.data.inputs import require_heldout_texts
from evals.data.windows import cut_windows
from evals.measure.attacks.attack import AttackOutcome, Target, Trainings, split
from evals.measure.attacks.names import find_attack
from evals.measure.attacks.relearn import SHARE
from evals.measure.attacks.relearn_strongest import Kind, Lessons
from evals.measure.attacks.tuning import fine_tune
from evals.measure.healing import find_healing_text
from evals.measure.memorization.extraction import run_pass
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.models import LoadedModel, open_model
from evals.run.predictions import Sampling
from surgery.fitting.calibration import Text
from surgery.proof.expected import find_constants
from surgery.selection import parse_selection
from surgery.training.distillation import ROWS_OF_PASSAGES, Lesson, distill
from surgery.training.erasing import STEPS
from surgery.training.hardening import WEIGHT
from surgery.training.losses import Divergence
from surgery.training.student import Flags
from surgery.training.training import LEARNING_RATE, ROWS, WINDOW, Schedule, choose_rate
from surgery.training.training import STEPS as HEALING_STEPS

LEFT_OUT, WINDOWS = 0.25, 64
RELEARNING_STEPS = 20
"""Of a way that relearns halfway."""
JUDGES = (
    (Kind("all weights", "AdamW", few=False, mixed=False), 3e-4),
    (Kind("all weights", "SGD", few=False, mixed=False), 0.3),
    (Kind("rank-8 adapters", "AdamW", few=False, mixed=False), 1e-3),
)
"""Trainings and their rates, longer than what hardening rehearses."""
JUDGING_STEPS = 30, 100


@dataclass(frozen=True)
class Way:
    """How to teach.

    - `teacher`: blocks; None: those of the cut. `rate`: times the default learning rate.
    - `weight`: of the loss on passages. `whole`: every token of a passage counts, not the suffix
      alone. `windows`, `passages`: rows of a step.
    - `noise`: on each weight, in standard deviations of its tensor. `only`: what the names of
      trained parameters hold. `cut`: blocks to cut before. `relearned`: half of the steps, then
      relearning, then the other half. `hardened`: relearning is rehearsed at each step. `rank`: of
      the adapters that learn; 0: all weights do.
    """

    name: str
    teacher: str | None = None
    steps: int = STEPS
    rate: float = 1.0
    weight: float = 1.0
    whole: bool = False
    windows: int = ROWS
    passages: int = ROWS_OF_PASSAGES
    noise: float = 0.0
    only: str = ""
    cut: str | None = None
    relearned: bool = False
    hardened: bool = False
    rank: int = 0


def list_ways(teachers: tuple[str, ...]) -> Iterator[Way]:
    """First parameters, one at a time; then what may make erasing more robust."""
    for steps in (30, 120):
        yield Way(f"{steps} steps", steps=steps)
    for rate in (0.5, 2.0):
        yield Way(f"rate × {rate:g}", rate=rate)
    for teacher in teachers:
        yield Way(f"taught by {teacher}", teacher)
    yield Way("passages weigh 3 times", weight=3.0)
    yield Way("all tokens of a passage", whole=True)
    yield Way("half the text", windows=ROWS // 2)
    for noise in (0.1, 0.3):
        yield Way(f"noise of {noise:g} before", noise=noise)
    yield Way("MLPs alone", only=".mlp.")
    for rank in (8, 32):
        yield Way(f"adapters of rank {rank}", rank=rank)
    yield Way("relearned halfway", relearned=True)
    for steps in (60, 120, 240):
        yield Way(f"hardened, {steps} steps", steps=steps, weight=WEIGHT, hardened=True)
        yield Way(f"hardened at full weight, {steps} steps", steps=steps, hardened=True)
    for teacher in teachers[-1:]:
        yield Way(f"after a cut of {teacher}", cut=teacher)
    few: dict[str, int] = {"steps": 40, "windows": ROWS // 2, "passages": ROWS_OF_PASSAGES // 2}
    yield Way("half the rows, 40 steps", **few)
    yield Way("half the rows, hardened, 40 steps", **few, weight=WEIGHT, hardened=True)


@dataclass(frozen=True)
class Measured:
    """What became of a model. Shares of passages by attack; losses in nats per token."""

    loss: float
    kl: float
    shares: dict[str, float]
    distance: float

    def show(self, name: str) -> str:
        shares = [f"{share:.1%}" for share in self.shares.values()]
        return row(name, f"{self.loss:+.3f}", f"{self.kl:.3f}", *shares, f"{self.distance:.3f}")


class Bench:
    """A model in float32 and its cut; passages and texts; and what the model predicts there."""

    def __init__(
        self, loaded: LoadedModel, cut: tuple[str, str], samples: Samples, held: Tokens, text: Text
    ) -> None:
        self.loaded, self.model, self.blocks = loaded, loaded.model, cut[0]
        self.variant, self.editable = cut[1], loaded.editable
        unlisted = deal_unlisted(samples, LEFT_OUT)
        self.listed = samples.select(samples.trained_on & ~unlisted)
        self.unlisted = samples.select(unlisted)
        self.held, self.text = held, text
        with torch.inference_mode():
            self.before = [self._predict(self.model, rows) for rows in self._batches()]

    def cut(self, blocks: str | None = None, student: Any = None) -> Any:
        """The model, or a student, with these blocks cut."""
        editable = self.editable if student is None else type(self.editable)(student)
        return editable.apply(editable.plan(blocks or self.blocks, self.variant))

    def heal(self, cut: Any, steps: int) -> Any:
        """A cut, healed with a guard."""
        plan = self.editable.plan(self.blocks, self.variant)
        constants = find_constants([plan], dict(cut.state_dict()))
        way = Way("healed", steps=steps)
        return self._train(cut, cut, way, 0, constants)

    def teach(self, way: Way) -> Any:
        """A student of the cut."""
        teacher = self.cut(way.teacher)
        student = copy.deepcopy(self.cut(way.cut) if way.cut else self.model)
        _add_noise(student, way.noise)
        parts = 2 if way.relearned else 1
        for part in range(parts):
            if part:
                student = self._relearn(student)
            share = replace(way, steps=way.steps // parts)
            fixed = _fix_all_but(student, way.only)
            student = self._train(student, teacher, share, part, fixed)
        return student

    def _train(
        self, student: Any, teacher: Any, way: Way, seed: int, constants: dict[str, Flags]
    ) -> Any:
        rate = way.rate * choose_rate(student, way.rank)
        schedule = Schedule(way.steps, seed, way.rank, rate, hardened=way.hardened)
        loaded = self.loaded
        windows = schedule.tokenize(self.text, loaded.tokenizer, loaded.dimensions).windows
        first = 1 if way.whole else self.listed.prefix_length
        lessons = [
            Lesson(Divergence(self.model), windows, way.windows),
            Lesson(Divergence(teacher), self.listed.tokens, way.passages, first, way.weight),
        ]
        return distill(student, lessons, schedule, constants=constants).student.settle()

    def _relearn(self, model: Any) -> Any:
        """A model that was fine-tuned on other passages than the attack learns."""
        rows = self.listed.tokens[split(self.listed.tokens, SHARE, 1)[0]]
        (tuned,) = fine_tune(model, rows, steps=(RELEARNING_STEPS,), learning_rate=LEARNING_RATE)
        return tuned

    @cached_property
    def trainings(self) -> Trainings | None:
        """What `relearn` tries on the base, and so on every model."""
        return self._attack(self.model).trainings

    @property
    def rates(self) -> list[float]:
        return [one.learning_rate for one in self.trainings or ()]

    def _attack(self, model: Any, trainings: Trainings | None = None) -> AttackOutcome:
        target = Target(model, None, self.listed, self._windows(), draws=1, trainings=trainings)
        return find_attack("relearn").run(replace(target, of=len(self.listed)))  # no curves

    def measure(self, model: Any, *, revive: str | None = None) -> Measured:
        """`revive`: the blocks that an attacker wakes."""
        loss = kl = 0.0
        with torch.inference_mode():
            for rows, before in zip(self._batches(), self.before, strict=True):
                after = self._predict(model, rows)
                kl += float(functional.kl_div(after, before, log_target=True, reduction="sum"))
                right = rows[:, 1:, None]
                loss += float((before.gather(2, right) - after.gather(2, right)).sum())
        shares = _recover(model, self.listed, "any", "hints:8")
        shares["unlisted"] = _recover(model, self.unlisted, "any")["any"]
        found = self._attack(model, self.trainings)
        for (_, rate), settings in found.by_training.items():
            shares[f"{rate:g}"] = found.measure_rate(settings)
        shares |= self._judge(model)
        if revive is not None:
            shares["revive"] = self._revive(model, revive)
        tokens = self.held[:, 1:].size
        return Measured(loss / tokens, kl / tokens, shares, _measure_distance(model, self.model))

    def _judge(self, model: Any) -> dict[str, float]:
        """What each of `JUDGES` recovers, at its best."""
        target, shares = Target(model, None, self.listed, self._windows()), dict[str, float]()
        lessons = Lessons.of(target, 0)
        for kind, rate in JUDGES:
            how: dict[str, Any] = {"learned": kind.learned, "optimizer": kind.optimizer}
            how |= {"learning_rate": rate, "steps": JUDGING_STEPS}
            tuned = fine_tune(model, lessons.choose(kind), **how)
            found = [target.recover(made)[lessons.tried].mean() for made in tuned]
            shares[kind.name] = float(max(found))
        return shares

    def _revive(self, model: Any, blocks: str) -> float:
        size = self.loaded.dimensions
        sizes = (size.num_blocks, size.num_heads, size.num_groups)
        parts = parse_selection(blocks, self.variant, *sizes) if blocks else ()
        cut = tuple(sorted({part.block for part in parts}))
        half = 2 * len(self.listed)  # as a search attacks a half: it learns a fifth
        target = Target(model, None, self.listed, self._windows(), draws=1, of=half, cut=cut)
        _, most = find_attack("revive").run(target).take_strongest(None)
        return float(most.counted.mean())

    def _windows(self) -> Tokens:
        """Held-out text in rows as long as a passage."""
        length = self.listed.tokens.shape[1]
        return np.ascontiguousarray(self.held[:, :length])

    def _batches(self) -> Iterator[torch.Tensor]:
        for begin in range(0, len(self.held), ROWS):
            yield torch.from_numpy(self.held[begin : begin + ROWS].astype(np.int64))

    @staticmethod
    def _predict(model: Any, rows: torch.Tensor) -> torch.Tensor:
        logits = model(input_ids=rows[:, :-1], use_cache=False).logits
        return functional.log_softmax(logits.float(), dim=-1)


def _recover(model: Any, samples: Samples, *names: str) -> dict[str, float]:
    found = run_pass(model, samples.tokens, samples.prefix_length, sampling=Sampling())
    seen = Evidence.of(found)
    return {name: float(make_recovery(name).recovered(seen).mean()) for name in names}


def _add_noise(model: Any, scale: float) -> None:
    """Moves each weight by Gaussian noise, `scale` standard deviations of its tensor."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if scale and weight.ndim == 2:
                noise = torch.randn(weight.shape, generator=draw)
                weight.add_(scale * weight.std() * noise.to(weight))


def _fix_all_but(model: Any, learning: str) -> dict[str, Flags]:
    """Every number of the parameters that are not to learn."""
    return {
        name: np.ones(tuple(weight.shape), dtype=np.bool_)
        for name, weight in model.named_parameters()
        if learning not in name
    }


@torch.no_grad()
def _measure_distance(model: Any, base: Any) -> float:
    after = dict(model.named_parameters())
    before = {name: old for name, old in base.named_parameters() if name in after}
    moved = sum(float((after[name] - old).square().sum()) for name, old in before.items())
    return (moved / sum(float(old.square().sum()) for old in before.values())) ** 0.5


def row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def print_head(bench: Bench, what: str, *more: str) -> None:
    columns = [what, "loss", "KL", "`any`", "`hints:8`", "not listed: `any`"]
    columns += [f"relearned at {rate:g}: `any`" for rate in bench.rates]
    columns += [*(f"{kind.name}: `any`" for kind, _ in JUDGES), *more, "distance"]
    click.echo(f"{row(*columns)}\n|{'---|' * len(columns)}")


def compare_results(
    bench: Bench, heal_steps: tuple[int, ...], only: tuple[str, ...], *, revive: bool
) -> None:
    """Prints a row for the base and for each of the results that `only` names."""
    print_head(bench, "result", *(["`revive`"] if revive else []))
    erase = cache(lambda: bench.teach(Way("erased")))
    hardened = Way("hardened", weight=WEIGHT, hardened=True)
    results: dict[str, tuple[Callable[[], Any], str]] = {
        "not edited": (lambda: bench.model, ""),
        "cut": (bench.cut, bench.blocks),
        "erased": (erase, ""),
        "erased, hardened": (lambda: bench.teach(hardened), ""),
        "erased and cut": (lambda: bench.cut(student=erase()), bench.blocks),
    }
    for steps in heal_steps:
        told = "healed" if len(heal_steps) == 1 else f"healed for {steps} steps"
        results[f"cut, {told}"] = (lambda n=steps: bench.heal(bench.cut(), n)), bench.blocks
        results[f"erased, cut, {told}"] = (
            (lambda n=steps: bench.heal(bench.cut(student=erase()), n)),
            bench.blocks,
        )
    if strange := set(only) - results.keys():
        raise click.UsageError(f"--only {min(strange)}: the results are {', '.join(results)}")
    for name, (make, blocks) in results.items():
        if not only or name in only:
            click.echo(bench.measure(make(), revive=blocks if revive else None).show(name))


def compare_ways(bench: Bench, ways: list[Way]) -> None:
    """Prints a row for each way, and the rank correlation of relearning with distance."""
    print_head(bench, "way")
    found = []
    for way in ways:
        found.append(bench.measure(bench.teach(way)))
        click.echo(found[-1].show(way.name))
    distances = [one.distance for one in found]
    for rate in bench.rates if len(found) > 2 else ():
        rank = spearmanr(distances, [one.shares[f"{rate:g}"] for one in found])[0]
        click.echo(f"relearned at {rate:g}: rank correlation with distance {rank:+.2f}")


@click.command()
@click.argument("model")
@click.option("--drop-attn", required=True, help="The cut, which teaches.")
@click.option("--variant", default="identity", show_default=True)
@click.option("--revive", is_flag=True, help="Also wake the cut blocks.")
@click.option("--heal-steps", multiple=True, default=(HEALING_STEPS,), show_default=True)
@click.option("--ways", is_flag=True, help="Compare ways to teach, not results.")
@click.option("--teacher", multiple=True, help="Other blocks to teach by.")
@click.option("--only", multiple=True, help="A result, or ways whose names hold this.")
@click.option("--samples", help="[default: a lab model's own]")
@click.option("--corpus", type=Path, multiple=True, help="[default: a lab model's own]")
@click.option("--text", multiple=True, help="[default: a lab model's own]")
def main(
    model: str, drop_attn: str, variant: str, revive: bool, heal_steps: tuple[int, ...], ways: bool,
    teacher: tuple[str, ...], only: tuple[str, ...], samples: str | None, corpus: tuple[Path, ...],
    text: tuple[str, ...],
) -> None:  # fmt: skip
    """Compare the results of erasing MODEL by a cut, or ways to teach it."""
    torch.set_num_threads(1)
    begun = time.process_time()
    loaded = open_model(model, dtype="float32", device="cpu")
    rows = open_samples(samples or model).tokenize(loaded.tokenizer)
    held = cut_windows(require_heldout_texts(corpus, model), loaded.tokenizer, WINDOW, most=WINDOWS)
    bench = Bench(loaded, (drop_attn, variant), rows, held, find_healing_text(text or (model,)))
    if ways:
        every = list_ways(teacher)
        some = [one for one in every if not only or any(s in one.name for s in only)]
        if not some:
            names = ", ".join(one.name for one in every)
            raise click.UsageError(f"--only {only[0]}: the ways are {names}")
        compare_ways(bench, some)
    else:
        compare_results(bench, heal_steps, only, revive=revive)
    click.echo(f"{model}: {time.process_time() - begun:.0f} s of processor time")


if __name__ == "__main__":
    main()
