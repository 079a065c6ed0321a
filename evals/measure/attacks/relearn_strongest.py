"""`relearn` at its strongest: the most that any of several settings brings back.

A setting is what is trained, at which learning rate, and for how many steps. One that brings back
much text that no model was trained on does not count: it would write anything.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np

from evals.data import Tokens
from evals.measure.attacks.attack import (
    UNTRAINED,
    Attack,
    AttackOutcome,
    Learned,
    Setting,
    Target,
)
from evals.measure.attacks.draws import DRAWS, SECONDS, SETTING, follow, repeat
from evals.measure.attacks.relearn import SHARE
from evals.measure.attacks.tuning import LARGE, RATES, ROWS, fine_tune, settle_learned
from evals.measure.memorization.measures import Flags
from surgery.processes import read_clock

ATTACKS = {"relearn-strongest": {"rank": 84, "who": "tunes"}}
STEPS = (20, 60, 120)
LEARNED: tuple[Learned, ...] = ("all weights", "the cut blocks", "rank-8 adapters")
FIRST = 3
RUNS = (
    *((rate, one) for one in LEARNED for rate in RATES[:FIRST]),
    *product(RATES[FIRST:], LEARNED),
)
"""Trainings, whose states after `STEPS` are settings. Where time is short, the first ones run, and
at least `FIRST`: rates that `relearn` tries."""
LONGEST = DRAWS * SECONDS
"""Seconds that the trainings of one draw may take, before fewer of them run."""


def make_relearn_strongest() -> Attack:
    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("relearn-strongest")
        runs = list_runs(target.model)[: target.trainings]
        return repeat(target, lambda draw: run_once(target, draw, runs))

    def run_once(target: Target, draw: int, runs: list[tuple[float, Learned]]) -> AttackOutcome:
        """Takes out of `runs`, in the first draw, those for which there is no time.

        A control, and the edited model, get those of the passages, and of the base: a setting that
        the control lacks would not count.
        """
        held, others = target.hold(SHARE, draw)
        alone = target.recover(target.model)
        settings = {UNTRAINED: alone}
        for rate, learned in tuple(runs):
            if (rate, learned) not in runs:
                break
            begun = read_clock()
            rows = np.random.default_rng(draw).permutation(target.samples.tokens[held])
            told = f"relearn-strongest, run {draw + 1}, {learned} at {rate:g}"
            settings |= _try(target, rate, learned, rows, alone, told)
            took = read_clock() - begun
            if target.trainings is None and draw == 0 and (rate, learned) == runs[0]:
                del runs[max(FIRST, int(LONGEST / max(took, 1e-9))) :]
        left_out = len(STEPS) * (len(list_runs(target.model)) - len(runs))
        return replace(AttackOutcome.of_variants(settings, others), left_out=left_out)

    return Attack(
        "relearn-strongest",
        f"AdamW, learning rate {', '.join(f'{rate:g}' for rate in RATES)}; "
        f"{', '.join(map(str, STEPS))} steps of at most {ROWS} rows on a tenth of the passages; "
        f"{', '.join(LEARNED)} (of {LARGE:,} parameters or more, not all weights); fewer settings "
        f"where all take more than {LONGEST / 60:.0f} minutes; " + SETTING,
        "any, for the passages that were not learned again and do not overlap one that was, under "
        "the setting that recovers most; one that brings back more than a tenth as large a share "
        "of the control does not count",
        "Hu et al. 2024, arXiv 2406.13356, over several settings",
        f"in each draw, {len(RUNS) * STEPS[-1]:,} training steps and {len(RUNS) * len(STEPS)} "
        "passes",
        run,
        share=SHARE,
        count_trained=lambda passages, windows: STEPS[-1] * max(1, min(ROWS, passages // SHARE)),
    )


def list_runs(model: Any) -> list[tuple[float, Learned]]:
    """`RUNS`; of a large model, none that would train the same again under another name."""
    return list(dict.fromkeys((rate, settle_learned(model, learned)) for rate, learned in RUNS))


def _try(
    target: Target, rate: float, learned: Learned, rows: Tokens, alone: Flags, told: str
) -> dict[Setting, Flags]:
    """What each setting of one training recovers: `alone` if nothing is trained, and nothing from
    the step on at which training breaks the model."""
    if learned == "the cut blocks" and not target.cut:
        return {Setting(learned, rate, steps): alone for steps in STEPS}
    how: dict[str, Any] = {"learning_rate": rate, "learned": learned, "blocks": target.cut}
    tuned = fine_tune(target.model, rows, steps=STEPS, told=told, **how)
    found = (target.recover(model) for model in tuned)
    return dict(follow((learned, rate), STEPS, found, np.zeros_like(alone)))
