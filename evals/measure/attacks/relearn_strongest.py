"""`relearn` by an attacker who tries hard: a grid of trainings, and the best of them.

A training is what learns (all weights, or adapters of a rank), by which optimizer, at which rate,
on how many passages, alone or among other text. Łucki et al. 2024 (arXiv 2409.18025) and Deeb and
Roger 2024 (arXiv 2410.08827) undo unlearning so, which few settings of one attack had not. The
attacker holds half of the passages, and keeps a fifth of these apart: the setting counts that
recovers most of the fifth. It is scored on the other half, so that the best of many is not luck.

A setting that brings back much text that no model was trained on does not count: it would write
anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from evals.data import Tokens
from evals.data.repeats import find_overlaps
from evals.measure.attacks.attack import (
    KEPT,
    UNTRAINED,
    Attack,
    AttackOutcome,
    Learned,
    Setting,
    Target,
    Trainings,
    count_held,
    split,
)
from evals.measure.attacks.draws import SETTING, follow, repeat
from evals.measure.attacks.relearn import make_curve
from evals.measure.attacks.tuning import RATES, ROWS, fine_tune, settle_learned
from evals.measure.memorization.measures import Flags
from evals.measure.memorization.recovery import Evidence
from surgery.processes import read_clock
from surgery.training.loop import Optimizer

ATTACKS = {
    "relearn-strongest": {"rank": 84, "who": "tunes"},
    "relearn-strongest:60": {
        "rank": 85,
        "who": "tunes",
        "form": "relearn-strongest:MINUTES",
        "groups": "",
    },
}
STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500)
LEARNED: tuple[Learned, ...] = ("all weights", "rank-64 adapters", "rank-8 adapters")
OPTIMIZERS: dict[Optimizer, tuple[float, ...]] = {
    "AdamW": RATES,
    "SGD": (1.0, 0.3, 0.1, 0.03, 0.01),
}
"""The learning rates of each, from the highest on. SGD steps by the gradient itself, so that 1e-3
would leave every model as it is."""
SHARE, APART = 2, 5
"""The attacker holds one passage in `SHARE`, and chooses by one in `APART` of these."""
MINUTES = 5
"""How long the trainings of one draw may take, before fewer of them run."""
LEAST = 20
"""Steps that the first training takes, however long that is."""


@dataclass(frozen=True)
class Kind:
    """A training but for its rate. `few`: on a tenth of the passages, not on four tenths. `mixed`:
    half of the rows of each step are other text."""

    learned: Learned
    optimizer: Optimizer
    few: bool
    mixed: bool

    @property
    def name(self) -> str:
        by = "" if self.optimizer == "AdamW" else f" by {self.optimizer}"
        return (
            f"{self.learned}{by}"
            + ("" if self.few else " on half of the passages")
            + (" among other text" if self.mixed else "")
        )


@dataclass(frozen=True)
class Lessons:
    """What an attacker trains on, and by what he and we judge it. Flags are bool [N].

    `apart`: he chooses a setting by these. `tried`: those that count.
    """

    few: Tokens
    many: Tokens
    text: Tokens
    apart: Flags
    tried: Flags

    @staticmethod
    def of(target: Target, draw: int) -> Lessons:
        tokens, (held, tried) = target.samples.tokens, target.hold(SHARE, draw)
        numbers = np.random.default_rng(draw).permutation(np.flatnonzero(held))
        size = len(numbers) // APART
        many = numbers[size:]
        apart = np.zeros_like(held)
        apart[numbers[:size]] = True
        text = target.unrelated[split(target.unrelated, 2)[0]]  # the rest may be the control
        return Lessons(
            tokens[many[: max(1, size)]],
            tokens[many],
            text,
            apart & ~find_overlaps(tokens, tokens[many]),
            tried & ~find_overlaps(tokens, text),
        )

    def choose(self, kind: Kind) -> Tokens:
        """The rows of a training, int32 [M, T], which it takes in order, again and again."""
        rows = self.few if kind.few else self.many
        if not kind.mixed:
            return rows
        shape = STEPS[-1], ROWS // 2, rows.shape[1]
        return np.concatenate(
            [np.resize(some, shape) for some in (rows, self.text)], axis=1
        ).reshape(-1, rows.shape[1])


class Grid:
    """The trainings that are left to make, the first ones first.

    Rates go down until one leaves the model what it gives. That is settled once for each optimizer
    and each thing that learns. `settled`: trainings that are given, each as its last setting.
    """

    def __init__(self, kinds: list[Kind], settled: Trainings | None) -> None:
        self.rates = {(kind.learned, kind.optimizer): OPTIMIZERS[kind.optimizer] for kind in kinds}
        self.kinds, self.settled = kinds, settled

    def list_trainings(self) -> Iterator[tuple[Kind, float, tuple[int, ...]]]:
        """Each kind, its rate, and after how many steps it is looked at."""
        if self.settled is not None:
            by_name = {one.name: one for one in self.kinds}
            for last in self.settled:
                steps = tuple(one for one in STEPS if one <= last.steps)
                yield by_name[last.learned], last.learning_rate, steps
            return
        for kind in self.kinds:
            for rate in OPTIMIZERS[kind.optimizer]:
                if rate in self.rates[kind.learned, kind.optimizer]:
                    yield kind, rate, STEPS

    def stop_at(self, kind: Kind, rate: float) -> None:
        """Drops the rates below `rate` for what this kind learns, by its optimizer."""
        key = kind.learned, kind.optimizer
        self.rates[key] = tuple(one for one in self.rates[key] if one >= rate)

    def count(self) -> int:
        """How many settings there are, as far as rates are settled."""
        return len(STEPS) * sum(
            len(self.rates[kind.learned, kind.optimizer]) for kind in self.kinds
        )


def make_relearn_strongest(given: int | None = None) -> Attack:
    """`given`: the minutes that the trainings of one draw may take."""
    minutes = given or MINUTES
    name = "relearn-strongest" + (f":{given}" if given else "")
    rates = "; ".join(
        f"{optimizer} at {', '.join(f'{one:g}' for one in some)}"
        for optimizer, some in OPTIMIZERS.items()
    )
    return Attack(
        name,
        f"{', '.join(LEARNED)}, by {rates}, from the first rate on until one leaves the base "
        f"{KEPT:.0%} of what it gives; {', '.join(map(str, STEPS))} steps of at most {ROWS} rows; "
        "on a tenth of the passages, or on four tenths; alone, or half of each step other text; "
        f"fewer where all take more than {minutes} minutes; " + SETTING,
        "any, for the half of the passages that the attacker does not hold, and that overlap none "
        "that he holds and no other text, under the setting that recovers most of a tenth that he "
        "holds and did not train on; one that brings back more than a tenth as large a share of "
        "the control does not count",
        "Łucki et al. 2024, arXiv 2409.18025; Deeb and Roger 2024, arXiv 2410.08827; Hu et al. "
        "2024, arXiv 2406.13356",
        f"in each draw, {STEPS[-1]} training steps and {len(STEPS)} passes of each training, for "
        f"about {minutes} minutes",
        lambda target: _run(target, name, 60.0 * minutes),
        stages=(0, *STEPS),
        share=SHARE,
        count_trained=lambda passages, windows: STEPS[-1] * min(ROWS, _count_many(passages)),
        longest=60.0 * minutes,
    )


def list_kinds(model: Any, *, has_text: bool) -> list[Kind]:
    """All kinds, those on most passages first, and whatever learns by each optimizer in turn. Of a
    large model, none that would train the same again under another name."""
    every = product((False, True), (False, True) if has_text else (False,), LEARNED, OPTIMIZERS)
    return list(
        dict.fromkeys(
            Kind(settle_learned(model, learned), optimizer, few, mixed)
            for few, mixed, learned, optimizer in every
        )
    )


def _count_many(passages: int) -> int:
    """How many passages an attacker trains on who takes all but those that he keeps apart."""
    held = count_held(passages, SHARE)
    return held - held // APART


def _run(target: Target, name: str, seconds: float) -> AttackOutcome:
    target.check_in_memory(name)
    kinds = list_kinds(target.model, has_text=len(target.unrelated) > 1)
    settled = [target.trainings]
    return repeat(target, partial(_run_once, target, name, seconds, kinds, settled))


def _run_once(
    target: Target,
    name: str,
    seconds: float,
    kinds: list[Kind],
    settled: list[Trainings | None],
    draw: int,
) -> AttackOutcome:
    """`settled`: the trainings to make. The first draw settles them, where nobody gives them: a
    setting that the edited model or the control lacks would not count."""
    lessons, begun = Lessons.of(target, draw), read_clock()
    grid = Grid(kinds, settled[0])
    found: dict[Setting, Evidence] = {UNTRAINED: Evidence.of(target.ask(target.model))}

    def is_late() -> bool:
        known = max(one.steps for one in found) >= min(LEAST, STEPS[-1])
        return settled[0] is None and known and read_clock() - begun >= seconds

    for kind, rate, steps in grid.list_trainings():
        if is_late():
            break
        told = f"{name}, run {draw + 1}, {kind.name} at {rate:g}"
        for setting, seen in _train(target, kind, rate, steps, lessons, told):
            found[setting] = seen
            if is_late():
                break
        outcome = AttackOutcome.of_evidence(found, lessons.apart, lessons.tried)
        left = outcome.measure_left().get((kind.name, rate), 0.0)
        if setting.steps == STEPS[-1] and left >= KEPT:
            grid.stop_at(kind, rate)
    left_out = grid.count() - (len(found) - 1) if settled[0] is None else 0
    if settled[0] is None:
        settled[0] = outcome.trainings
    curve = {} if target.brief or draw else {"any": outcome.settings}
    reached = [one for one in STEPS if any(one == setting.steps for setting in found)]
    return replace(outcome, left_out=left_out, curve=make_curve(outcome, curve, reached))


def _train(
    target: Target, kind: Kind, rate: float, steps: tuple[int, ...], lessons: Lessons, told: str
) -> Iterator[tuple[Setting, Evidence]]:
    """What a training shows after each of `steps`; nothing from the one on by which it breaks the
    model."""
    how: dict[str, Any] = {"learned": kind.learned, "optimizer": kind.optimizer, "told": told}
    tuned = fine_tune(target.model, lessons.choose(kind), learning_rate=rate, steps=steps, **how)
    asked = (Evidence.of(target.ask(model)) for model in tuned)
    shape = target.samples.suffixes.shape
    nothing = Evidence(np.zeros(shape, dtype=np.bool_), np.full(len(target.samples), -np.inf))
    return follow((kind.name, rate), steps, asked, nothing)
