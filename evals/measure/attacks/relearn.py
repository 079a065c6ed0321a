"""Fine-tunes a copy of the model: on some passages, on others like them, or on unrelated text.

Do the passages that it was not fine-tuned on come back? An attacker looks after some steps, stops
where most comes back, and tries several learning rates. He learns from the passages that he holds
which rate and number of steps that is, but not, passage by passage, which of two answers is right.
So one setting counts: the one that brings back most of all passages.

A high rate destroys what a model knows. That nothing comes back then shows nothing. So rates are
tried downward, until one leaves the base most of what it gives. The edited model, a control, and a
twin get the same rates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from evals.data import Tokens
from evals.data.repeats import find_overlaps
from evals.measure.attacks.attack import (
    KEPT,
    TEXT,
    UNTRAINED,
    Attack,
    AttackOutcome,
    Need,
    Setting,
    Target,
)
from evals.measure.attacks.draws import DRAWS, SETTING, follow, repeat
from evals.measure.attacks.tuning import LARGE, RATES, ROWS, STEPS, fine_tune, settle_learned
from evals.measure.memorization.measures import Flags, Pass, is_near
from evals.measure.memorization.recovery import Evidence, make_recovery

ATTACKS = {
    "relearn-benign": {"rank": 80, "who": "tunes", "groups": "all trained"},
    "relearn-alike": {"rank": 82, "who": "tunes"},
    "relearn": {"rank": 90, "who": "tunes", "groups": "all default trained"},
}
SHARE = 10
"""One passage in this many is learned again."""
ALIKE: Need = (
    "two or more passages that the samples mark as never trained on",
    lambda plan: int((~plan.samples.trained_on).sum()) > 1,
)
Choose = Callable[[Target, int], tuple[Tokens, Flags]]
"""The rows to train on in a draw, and the passages that count afterward."""


def make_relearn() -> Attack:
    def choose(target: Target, draw: int) -> tuple[Tokens, Flags]:
        held, others = target.hold(SHARE, draw)
        return target.samples.tokens[held], others

    return _make_attack(
        "relearn",
        "a tenth of the passages",
        "any, for the passages that were not learned again and do not overlap one that was",
        "Hu et al. 2024, arXiv 2406.13356",
        choose,
        lambda passages, windows: passages // SHARE,
        share=SHARE,
    )


def make_relearn_alike() -> Attack:
    def choose(target: Target, draw: int) -> tuple[Tokens, Flags]:
        assert target.alike is not None
        return target.alike, ~find_overlaps(target.samples.tokens, target.alike)

    return _make_attack(
        "relearn-alike",
        "half of the passages that were never trained on (the other half is the control)",
        "any, for the passages that overlap none of that text",
        "arXiv 2602.03379 and 2603.20957, on text of the same form",
        choose,
        lambda passages, windows: passages // 2,  # about: how many are alike is not known here
        needs=(ALIKE,),
    )


def make_relearn_benign() -> Attack:
    return _make_attack(
        "relearn-benign",
        "text that has nothing to do with the passages",
        "any, for the passages that overlap none of that text",
        "Hu et al. 2024, arXiv 2406.13356",
        # A control that is this text was trained on, too.
        lambda target, draw: (
            target.unrelated,
            ~find_overlaps(target.samples.tokens, target.unrelated),
        ),
        lambda passages, windows: windows,
        needs=(TEXT,),
    )


def _make_attack(
    name: str,
    text: str,
    counted: str,
    source: str,
    choose: Choose,
    count_rows: Callable[[int, int], int],
    **more: Any,
) -> Attack:
    """`count_rows`: passages, windows of other text → how many rows `choose` gives."""
    return Attack(
        name,
        f"AdamW at a learning rate of {', '.join(f'{one:g}' for one in RATES)}, from the first on "
        f"until one leaves the base {KEPT:.0%} of what it gives: each for "
        f"{', '.join(map(str, STEPS))} steps of at most {ROWS} rows on {text}; all weights, or "
        f"rank-8 adapters from {LARGE:,} parameters on; " + SETTING,
        f"{counted}, at the learning rate and after the number of steps, none among them, that "
        "recover most of all of them; a setting that brings back more than a tenth as large a "
        "share of the control does not count",
        source,
        f"in each draw and at each rate, {STEPS[-1]} training steps and {len(STEPS)} passes, with "
        "decoding in the first draw",
        lambda target: _run(target, name, choose),
        stages=(0, *STEPS),
        count_trained=lambda passages, windows: (
            STEPS[-1] * max(1, min(ROWS, count_rows(passages, windows)))
        ),
        **more,
    )


def _run(target: Target, name: str, choose: Choose) -> AttackOutcome:
    target.check_in_memory(name)
    draws = (choose(target, draw)[0] for draw in range(target.draws or DRAWS))
    rows = next(draws)
    same = len(rows) <= ROWS  # each step takes all, always
    same = same and all(np.array_equal(rows, others) for others in draws)
    rates = list(RATES)
    if target.trainings is not None:
        rates = [training.learning_rate for training in target.trainings]
    whole = replace(target, draws=1) if same else target
    return repeat(whole, partial(_run_once, target, name, choose, rates))


def _run_once(
    target: Target, name: str, choose: Choose, rates: list[float], draw: int
) -> AttackOutcome:
    """Takes out of `rates`, in the first draw, those that the model has no need of."""
    rows, tried = choose(target, draw)
    if draw:
        rows = np.random.default_rng(draw).permutation(rows)
    full, learned = not target.brief and draw == 0, settle_learned(target.model, "all weights")
    measure, nothing = make_recovery("any"), np.zeros_like(tried)
    settings, similar = dict[Setting, Flags](), dict[Setting, Flags]()

    def keep(setting: Setting, seen: Pass | None) -> None:
        settings[setting] = nothing if seen is None else measure.recovered(Evidence.of(seen))
        similar[setting] = is_near(seen) if full and seen is not None else nothing

    keep(UNTRAINED, target.ask(target.model, full=full))
    for rate in tuple(rates):
        if rate not in rates:
            break
        told = f"{name}, run {draw + 1}, at {rate:g}"
        tuned = fine_tune(target.model, rows, learning_rate=rate, steps=STEPS, told=told)
        asked: Iterator[Pass | None] = (target.ask(model, full=full) for model in tuned)
        for made in follow((learned, rate), STEPS, asked, None, f"{told}: fine-tuning"):
            keep(*made)
        outcome = AttackOutcome.of_variants(settings, tried)
        left = outcome.measure_left().get((learned, rate), 0.0)
        if target.trainings is None and draw == 0 and left >= KEPT:
            del rates[rates.index(rate) + 1 :]
    if not full:
        return outcome
    curves = {"any": outcome.settings, "near": similar}
    return replace(outcome, curve=make_curve(outcome, curves, STEPS))


def make_curve(
    outcome: AttackOutcome, curves: Mapping[str, Mapping[Setting, Flags]], steps: Sequence[int]
) -> dict[str, Flags]:
    """After no step and after each of `steps`, under the setting that recovers most then: [K, N].

    `curves`: measure → setting → bool [N].
    """
    best = [
        max(
            (setting for setting in outcome.settings if setting.steps == number),
            key=lambda one: int(outcome.settings[one][outcome.tried].sum()),
        )
        for number in (0, *steps)
    ]
    return {name: np.stack([flags[one] for one in best]) for name, flags in curves.items()}
