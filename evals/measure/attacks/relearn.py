"""Fine-tunes a copy of the model: on some passages, on others like them, or on unrelated text.

Do the passages that it was not fine-tuned on come back? An attacker tries two learning rates, as
either may bring back more: of a cut, and of a model that was erased (docs/threat-model.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from evals.data import Tokens
from evals.data.repeats import find_overlaps
from evals.measure.attacks.attack import NEEDS, Attack, AttackOutcome, Target, can_split
from evals.measure.attacks.draws import DRAWS, SETTING, repeat
from evals.measure.attacks.tuning import LARGE, LEARNING_RATE, ROWS, STEPS, fine_tune
from evals.measure.memorization.measures import Flags, is_near
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.console import say
from evals.run.finite import NotFiniteError

SHARE = 10
"""One passage in this many is learned again."""
RATES = (LEARNING_RATE, 1e-3)


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
        can=lambda samples: can_split(samples, SHARE),
        needs=NEEDS,
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
        can=lambda samples: int((~samples.trained_on).sum()) > 1,
        needs="two or more passages that the samples mark as never trained on",
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
        reads_text=True,
    )


def _make_attack(
    name: str,
    text: str,
    counted: str,
    source: str,
    choose: Callable[[Target, int], tuple[Tokens, Flags]],
    **more: Any,
) -> Attack:
    """`choose`: the rows to train on in a draw, and the passages that count afterward."""
    measure = make_recovery("any")

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory(name)
        draws = (choose(target, draw)[0] for draw in range(target.draws or DRAWS))
        rows = next(draws)
        same = len(rows) <= ROWS  # each step takes all, always
        same = same and all(np.array_equal(rows, others) for others in draws)
        return repeat(replace(target, draws=1) if same else target, partial(run_once, target))

    def run_once(target: Target, draw: int) -> AttackOutcome:
        rows, tried = choose(target, draw)
        if draw:
            rows = np.random.default_rng(draw).permutation(rows)
        brief = target.brief or draw > 0
        tokens, prefix_length = target.samples.tokens, target.samples.prefix_length
        steps = STEPS[-1:] if brief else STEPS
        recovered, similar = np.zeros((2, len(steps), len(tokens)), dtype=np.bool_)
        for rate in RATES:
            tuned = fine_tune(target.model, rows, steps=steps, learning_rate=rate)
            for stage, one in enumerate(tuned):
                reading = replace(target, model=one)
                try:
                    seen = reading.read(tokens, prefix_length, full=not brief)
                except NotFiniteError:
                    target.read(tokens, prefix_length)  # it may have been broken before
                    say(f"{name}: fine-tuning at {rate:g} breaks the model by step {steps[stage]}")
                    break
                recovered[stage] |= measure.recovered(Evidence.of(seen))
                if not brief:
                    similar[stage] |= is_near(seen)
        curve = {} if brief else {"any": recovered, "near": similar}
        return AttackOutcome(recovered[-1], tried, curve)

    return Attack(
        name,
        f"AdamW, once at learning rate {RATES[0]:g} and once at {RATES[1]:g}, "
        f"{', '.join(map(str, STEPS))} steps of at most {ROWS} rows on {text}; all weights, or "
        f"rank-8 adapters from {LARGE:,} parameters on; " + SETTING,
        f"{counted}, after {STEPS[-1]} steps at either rate; the curve also shows fewer steps and "
        "near matches",
        source,
        f"in each draw and at each rate, {STEPS[-1]} training steps and a pass; in the first draw, "
        f"{len(STEPS)} passes with decoding",
        run,
        stages=STEPS,
        in_draws=True,
        **more,
    )
