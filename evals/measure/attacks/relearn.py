"""Fine-tunes a copy of the model on some passages.

Do the passages that it was not fine-tuned on come back? An attacker looks after some steps, stops
where most comes back, and tries several learning rates. He learns from the passages that he holds
which rate and number of steps that is, but not, passage by passage, which of two answers is right.
So one setting counts: the one that brings back most of all passages.

A high rate destroys what a model knows. That nothing comes back then shows nothing. So rates are
tried downward, until one leaves the base most of what it gives. The edited model, a control, and a
twin get the same rates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from evals.data import Tokens
from evals.measure.attacks.attack import (
    KEPT,
    UNTRAINED,
    Attack,
    AttackOutcome,
    Setting,
    Target,
)
from evals.measure.attacks.draws import DRAWS, SETTING, follow, repeat
from evals.measure.attacks.tuning import LARGE, RATES, ROWS, STEPS, fine_tune, settle_learned
from evals.measure.memorization.measures import Flags

ATTACKS = {"relearn": {"rank": 90, "who": "tunes", "groups": "all default trained"}}
SHARE = 10
"""One passage in this many is learned again."""


def make_relearn() -> Attack:
    return Attack(
        "relearn",
        f"AdamW at a learning rate of {', '.join(f'{one:g}' for one in RATES)}, from the first on "
        f"until one leaves the base {KEPT:.0%} of what it gives: each for "
        f"{', '.join(map(str, STEPS))} steps of at most {ROWS} rows on a tenth of the passages; "
        f"all weights, or rank-8 adapters from {LARGE:,} parameters on; " + SETTING,
        "any, for the passages that were not learned again and do not overlap one that was, at the "
        "learning rate and after the number of steps, none among them, that recover most of all "
        "of them; a setting that brings back more than a tenth as large a share of the control "
        "does not count",
        "Hu et al. 2024, arXiv 2406.13356",
        f"in each draw and at each rate, {STEPS[-1]} training steps and {len(STEPS)} passes",
        _run,
        stages=(0, *STEPS),
        share=SHARE,
        in_draws=True,
    )


def _run(target: Target) -> AttackOutcome:
    target.check_in_memory("relearn")
    draws = (_choose(target, draw)[0] for draw in range(target.draws or DRAWS))
    rows = next(draws)
    same = len(rows) <= ROWS  # each step takes all, always
    same = same and all(np.array_equal(rows, others) for others in draws)
    rates = list(RATES)
    if target.trainings is not None:
        rates = [training.learning_rate for training in target.trainings]
    whole = replace(target, draws=1) if same else target
    return repeat(whole, partial(_run_once, target, rates))


def _choose(target: Target, draw: int) -> tuple[Tokens, Flags]:
    """The rows to train on in a draw, and the passages that count afterward."""
    held, others = target.hold(SHARE, draw)
    return target.samples.tokens[held], others


def _run_once(target: Target, rates: list[float], draw: int) -> AttackOutcome:
    """Takes out of `rates`, in the first draw, those that the model has no need of."""
    rows, tried = _choose(target, draw)
    if draw:
        rows = np.random.default_rng(draw).permutation(rows)
    learned, nothing = settle_learned(target.model, "all weights"), np.zeros_like(tried)
    settings = {UNTRAINED: target.recover(target.model)}
    for rate in tuple(rates):
        if rate not in rates:
            break
        told = f"relearn, run {draw + 1}, at {rate:g}"
        tuned = fine_tune(target.model, rows, learning_rate=rate, steps=STEPS, told=told)
        asked = (target.recover(model) for model in tuned)
        settings |= follow((learned, rate), STEPS, asked, nothing, f"{told}: fine-tuning")
        outcome = AttackOutcome.of_variants(settings, tried)
        left = outcome.measure_left().get((learned, rate), 0.0)
        if target.trainings is None and draw == 0 and left >= KEPT:
            del rates[rates.index(rate) + 1 :]
    if target.brief or draw:
        return outcome
    return replace(outcome, curve=make_curve(outcome, outcome.settings, STEPS))


def make_curve(
    outcome: AttackOutcome, settings: Mapping[Setting, Flags], steps: Sequence[int]
) -> Flags:
    """After no step and after each of `steps`, under the setting that recovers most then: [K, N].

    `settings`: setting → bool [N].
    """
    best = [
        max(
            (setting for setting in settings if setting.steps == number),
            key=lambda one: int(settings[one][outcome.tried].sum()),
        )
        for number in (0, *steps)
    ]
    return np.stack([settings[one] for one in best])
