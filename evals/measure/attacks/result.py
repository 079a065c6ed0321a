"""What attacks recover, as rows of the table, and passage by passage.

Rates are shares of passages in [0, 1]. Intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evals.measure.attacks.attack import (
    KEPT,
    UNTRAINED,
    Attack,
    AttackOutcome,
    Training,
    trains_whole,
)
from evals.measure.memorization.membership import measure_area
from evals.table.measured import measure_share, measure_value
from surgery.record.measured import BASE, TWIN, Measured, On


class Outcomes(NamedTuple):
    """One attack's outcomes on the same passages of each model, and on the control of the edited
    one; None if there is no such model, or no control."""

    base: AttackOutcome | None
    edited: AttackOutcome
    twin: AttackOutcome | None = None
    control: AttackOutcome | None = None

    @property
    def strongest(self) -> Outcomes:
        """Each model under its own strongest setting that counts; the control under that of the
        edited model."""
        if not self.edited.settings:
            return self
        best, made = self.edited.take_strongest(self.control)
        base, twin = (one and one.take_strongest(self.control)[1] for one in (self.base, self.twin))
        control = self.control and replace(self.control, recovered=self.control.settings[best])
        return Outcomes(base, made, twin, control)


def measure_outcomes(
    attack: Attack,
    found: Outcomes,
    of: str,
    on: On,
    *,
    groups: npt.NDArray[np.int64] | None = None,
    brief: bool = False,
    **details: Any,
) -> Iterator[Measured]:
    """The rows of one attack. `brief`: only what it recovers in all. `groups`: those of `Samples`.

    Details of an edited model: `seconds`, if given; of an attack with several settings, the one
    that recovers most (`learned`, `learning_rate`, `steps`), how many `settings` ran, and
    `discarded`: the largest share of those that do not count, if that is more; `doubt`: why it
    shows too little to decide a limit that it keeps.
    """
    name, runs = f"recovered.{attack.name}", found.edited.draws if attack.in_draws else None
    made = found.strongest
    base, after, twin = made.base, made.edited, made.twin
    more: dict[str, Any] = {} if brief else {**details, **_describe_setting(attack, found)}
    given: dict[str, Any] = {"on": on, "runs": runs}
    if base is not None:
        yield measure_share(name, *base.by_draw, of=BASE, **given)
    before, never = (None if one is None else one.by_draw[0] for one in (base, twin))
    more |= {"base": before, "twin": never}
    yield measure_share(name, *after.by_draw, of=of, on=on, runs=runs, groups=groups, **more)
    if twin is not None:
        yield measure_share(name, *twin.by_draw, of=TWIN, **given)
    if made.control is not None and not brief:
        rest: Any = {"of": of, "on": "never trained on", "runs": runs}
        yield measure_share(name, *made.control.by_draw, **rest)
    if not brief:
        yield from _list_stages(attack, made, of, on)
        yield from _list_trainings(attack, found, of, on)


def measure_scores(
    attack: str,
    base: tuple[AttackOutcome | None, AttackOutcome | None],
    edited: tuple[AttackOutcome | None, AttackOutcome | None],
    of: str,
) -> Iterator[Measured]:
    """How well each score tells members from others: outcomes on both, of the base and the edited
    model. Nothing if no passage is known to be a non-member.

    Scores of an `attack` of your own have its name, too.
    """
    whose = "" if attack == "membership" else f"membership.{attack} "
    for name, (members, others) in ((BASE, base), (of, edited)):
        if members is None or others is None:
            continue
        n = len(members.recovered)
        labels = np.arange(n + len(others.recovered)) < n
        for score, values in members.scores.items():
            every = np.concatenate([values, others.scores[score]])
            yield measure_area(f"{whose}{score}", every, labels, name)


def _describe_setting(attack: Attack, found: Outcomes) -> dict[str, Any]:
    """Of an attack with several settings, the one that recovers most of the edited model.

    `settings`: how many trained both models and the control. Those that brought back much of
    the control are among them, but do not count.
    """
    edited, control = found.edited, found.control
    if not edited.settings:
        return {}
    both = edited.settings if control is None else {*edited.settings} & {*control.settings}
    best, made = edited.take_strongest(control)
    other = edited.take_discarded(control)
    share = _measure_rate(made)
    more = None if other is None else _measure_rate(other)
    known = {
        **vars(best),
        "settings": len({*both} - {UNTRAINED}),
        "discarded": None if more is None or more <= share else more,
        "doubt": found.base and find_weakness(attack.name, found.base),
    }
    return {key: value for key, value in known.items() if value is not None}


def _measure_rate(outcome: AttackOutcome) -> float:
    return measure_share("", *outcome.by_draw).value or 0.0


def _list_stages(attack: Attack, made: Outcomes, of: str, on: On) -> Iterator[Measured]:
    """What an attack that trains recovers after each of its stages, in its first run, at the rate
    that recovers most then."""
    curves = [(BASE, on, made.base), (of, on, made.edited), (of, "never trained on", made.control)]
    lacks = [one is not None and not one.by_draw[1][0].any() for _, _, one in curves[:2]]
    if not attack.stages or any(lacks):
        return
    for place, steps in enumerate(attack.stages):
        for model, rows, outcome in curves:
            if outcome is None or not (counted := outcome.by_draw[1][0]).any():
                continue
            if outcome.curve is None or place >= len(outcome.curve):
                continue
            rate = float(outcome.curve[place, counted].mean())
            name, n = f"recovered.{attack.name} {steps}", int(counted.sum())
            row = measure_value(name, rate, of=model, on=rows, n=n, unit="share")
            yield row.model_copy(update={"runs": 1})


def _list_trainings(attack: Attack, found: Outcomes, of: str, on: On) -> Iterator[Measured]:
    """What each training of an attack with several settings recovers, in the mean of the runs,
    after the number of steps that recovers most.

    `base_left`: the share of what the base gave before that it still gives after the last step, in
    the first run: a training that leaves little shows nothing where it recovers nothing. A base has
    no blocks that were cut, so it is not measured where only these are trained.
    """
    base, n = found.base, int(found.edited.by_draw[1].any(axis=0).sum())
    given: dict[str, Any] = {"on": on, "n": n, "unit": "share"}
    for training, settings in found.edited.by_training.items():
        name = f"recovered.{attack.name} at {_name_training(training)}"
        asked = trains_whole(training) or not training[1]
        if base is not None and asked and training in base.by_training:
            left, rate = base.left.get(training), base.measure_rate(settings)
            known: Any = {} if left is None else {"base_left": left}
            yield measure_value(name, rate, of=BASE, **given, **known)
        yield measure_value(name, found.edited.measure_rate(settings), of=of, **given)


def _name_training(training: Training) -> str:
    """The learning rate, and what is trained, if not everything; or what is done without one."""
    learned, rate = training
    if not rate:
        return learned
    return f"{rate:g}" if learned == "all weights" else f"{rate:g} {learned}"


def find_weakness(name: str, base: AttackOutcome) -> str | None:
    """Why an attack that did so to the base shows too little, if it recovers little from an edit.

    An edit meets the same trainings.
    """
    left = max(base.left.values(), default=None)
    if left is not None and left < KEPT:
        return (
            f"at no learning rate that {name} tried does fine-tuning leave the base what it "
            f"recites: after the last step, it gives {left:.0%} of that at most"
        )
    return None
