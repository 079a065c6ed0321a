"""Tries attacks on models, on passages and on a control, and puts the outcomes side by side."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np

from evals.data import Samples, Tokens
from evals.data.windows import end_alike
from evals.measure.attacks.attack import Attack, AttackOutcome, Setting, Target, split
from evals.measure.attacks.names import TRAINED, choose_attacks, find_attack, is_own
from evals.measure.attacks.result import Outcomes, measure_outcomes, measure_scores
from evals.measure.memorization.measures import Flags
from evals.run.console import say, show_progress
from evals.run.keep import KEEP_NOTHING, Store
from evals.run.models import LoadedModel
from surgery.errors import MeasurementError, SamplesError
from surgery.hub.resolved import ResolvedModel
from surgery.record.measured import EDITED, Measured, On


@dataclass(frozen=True)
class AttackPlan:
    """The attacks to try and their targets, the same for every model.

    - `samples`: if membership is known, members are attacked, and non-members are the control.
    - `unrelated`: int32 [M, T], windows of held-out text as long as a passage. They are the control
      if no non-members are known, and `perturbed` and `revive` need them.
    - `attacks`: names; `limited`: those whose share has a limit. `draws`, `sibling`: as `Target`.
    - `has_base`, `has_cut`: whether there is a base to compare with, and a model that was cut.

    Raises `SamplesError` for fewer than two passages, and `MeasurementError` if an attack with a
    limit cannot be tried on them. Others are skipped.
    """

    samples: Samples
    unrelated: Tokens
    attacks: tuple[str, ...]
    batch_size: int | None = None
    limited: Collection[str] = ()
    draws: int | None = None
    sibling: ResolvedModel | None = None
    has_base: bool = True
    has_cut: bool = True

    def __post_init__(self) -> None:
        if len(self.passages) < 2:
            raise SamplesError(
                "too few passages to attack",
                where=self.samples.source,
                expected="at least 2 that were trained on",
                got=len(self.passages),
            )
        for name in self.skipped.keys() & set(self.limited):
            raise MeasurementError(
                f"{name} has a limit and cannot be tried",
                where=self.samples.source,
                expected=self.skipped[name],
                fix="give that, or leave out the limit",
            )

    @cached_property
    def skipped(self) -> dict[str, str]:
        """Attack that cannot be tried → what it needs."""
        found = map(find_attack, self.attacks)
        return {one.name: lack for one in found if (lack := self._find_lack(one)) is not None}

    def _find_lack(self, attack: Attack) -> str | None:
        if attack.trains_only_cut and not (self.has_base or self.has_cut):
            return "blocks that were cut, and the model's files name none"
        if lack := next((words for words, has in attack.needs if not has(self)), None):
            return lack
        if attack.share and not split(self.passages, attack.share)[1].any():
            return "passages that do not overlap those that the attacker holds"
        return None

    @cached_property
    def tried(self) -> list[Attack]:
        """The attacks that can be tried."""
        return [find_attack(name) for name in self.attacks if name not in self.skipped]

    @cached_property
    def passages(self) -> Samples:
        return self.samples.select(self.samples.trained_on)

    @cached_property
    def control(self) -> Samples:
        if not self.samples.trained_on.all():
            return self.samples.select(~self.samples.trained_on)
        names = tuple(map(str, range(len(self.unrelated))))
        rows = end_alike(self.unrelated, self.passages.tokens)
        return Samples(rows, self.samples.prefix_length, names, "held-out text")

    @property
    def control_kind(self) -> Literal["text", "non-members"]:
        return "text" if self.samples.trained_on.all() else "non-members"


@dataclass(frozen=True)
class AuditedModel:
    """One model's outcomes by attack, on the passages and on the control, and their seconds.

    `loss`: on text that it was not trained on, in nats per token, if that was measured.
    """

    passages: dict[str, AttackOutcome]
    control: dict[str, AttackOutcome]
    seconds: dict[str, float]
    provenance: dict[str, Any]
    loss: float | None = None


@dataclass(frozen=True)
class Tried:
    """What one attack found on one model: on the passages and on the control, if it ran there."""

    passages: AttackOutcome | None
    control: AttackOutcome | None
    seconds: float


def add_for_trained(asked: Sequence[str]) -> tuple[str, ...]:
    """The attacks, and those that every trained model must face. Says which it adds."""
    attacks = choose_attacks((*asked, *TRAINED))
    if added := [name for name in attacks if name not in asked]:
        say(
            f"also trying {', '.join(added)}: the edited model was trained, and training may only "
            "have hidden what it knows"
        )
    return attacks


def check_cut(attacks: Sequence[str], limited: Collection[str], model: ResolvedModel) -> None:
    """Warns if one of `attacks` works on blocks that were cut, and the model's files name none.

    Raises `MeasurementError` if it has a limit, which it would keep by doing nothing. An erased
    model has no such blocks.
    """
    if model.cut or (model.manifest is not None and model.manifest.is_trained):
        return
    for name in attacks:
        if find_attack(name).trains_only_cut:
            what = f"{name} works on blocks that were cut, and the model's files name none"
            if name in limited:
                fix = "give the folder that `export` wrote, or leave out the limit"
                raise MeasurementError(what, where=model.source.model, fix=fix)
            say(f"warning: {what}: it reads the model as it is")


def try_attacks(
    loaded: LoadedModel,
    plan: AttackPlan,
    base: AuditedModel | None = None,
    *,
    with_control: bool = True,
    cut: tuple[int, ...] | None = None,
    advance: Callable[[int], None] = lambda done: None,
    store: Store = KEEP_NOTHING,
) -> AuditedModel:
    """Tries every attack of `plan` on one model. `advance` counts finished attacks.

    `store` keeps each attack, but for those of your own, which may read what nobody identifies, and
    gives back those of an earlier run.

    - `base`: the outcomes of the base, if the model is an edit of it.
    - `cut`: the blocks that an edit changed; by default those that the model's files name.
    - `with_control`: also try the control (attacks that compare with it always do). The control
      runs apart from the passages, so that their batches do not depend on it.
    """
    on = Target(
        loaded.model,
        loaded.tokenizer,
        plan.passages,
        plan.unrelated,
        plan.batch_size,
        draws=plan.draws,
        cut=loaded.cut if cut is None else cut,
        sibling=plan.sibling,
    )
    beside = replace(on, samples=plan.control)
    done, new = dict[str, Tried](), list[str]()

    def run(attack: Attack, *given: Any) -> Tried:
        new.append(attack.name)
        with show_progress(f"{attack.name}, {loaded.name}", None):
            return _try(attack, *given)

    for attack in plan.tried:
        aimed, beside_it, is_tried = _aim(attack, on, beside, plan, base)
        given = attack, aimed, beside_it, is_tried, with_control
        kept = KEEP_NOTHING if is_own(attack.name) else store
        done[attack.name] = kept.get(("attack", *given), partial(run, *given), Tried, *KINDS)
        advance(1)
    if recalled := [name for name in done if name not in new]:
        say(f"{loaded.name}: known from an earlier run: {', '.join(recalled)}")
    return AuditedModel(
        {name: one.passages for name, one in done.items() if one.passages is not None},
        {name: one.control for name, one in done.items() if one.control is not None},
        {name: one.seconds for name, one in done.items()},
        loaded.provenance,
    )


def _aim(
    attack: Attack, on: Target, beside: Target, plan: AttackPlan, base: AuditedModel | None
) -> tuple[Target, Target, bool]:
    """The passages and the control as an attack meets them, and whether it recovers any."""
    before = base.passages.get(attack.name) if base else None
    is_tried = not attack.tells_members or plan.control_kind == "non-members"
    if before is not None and is_tried and attack.in_draws and not attack.trains_only_cut:
        # every model and control in as many draws; but a base without cuts is only read
        on = replace(on, draws=before.draws, trainings=before.trainings)
    return on, beside, is_tried


def _try(attack: Attack, on: Target, beside: Target, is_tried: bool, with_control: bool) -> Tried:
    """Tries one attack on the passages and on the control, as `try_attacks` says."""
    begun, found, control = time.perf_counter(), None, None
    if is_tried:
        found = attack.run(on)
        if attack.in_draws:
            beside = replace(beside, draws=found.draws, trainings=found.trainings)
        if with_control or attack.tells_members:
            control = attack.run(beside)
    return Tried(found, control, time.perf_counter() - begun)


KINDS = (AttackOutcome, Setting)
"""What outcomes are made of."""


def measure_attacks(
    plan: AttackPlan,
    base: AuditedModel | None,
    edited: AuditedModel,
    counted: Flags | None = None,
    of: str = EDITED,
    on: On = "all",
    twin: AuditedModel | None = None,
    *,
    brief: bool = False,
) -> Iterator[Measured]:
    """The rows of every attack, in the order of the plan. `base`: None for one model alone.

    `counted`: bool [N], the passages that count; by default all. `brief`: as for
    `measure_outcomes`.
    """
    if counted is None:
        counted = np.ones(len(plan.passages), dtype=np.bool_)
    groups = plan.passages.groups
    shared: Any = {"groups": None if groups is None else groups[counted], "brief": brief}
    for attack in plan.tried:
        name = attack.name
        found = (one.passages.get(name) if one else None for one in (base, edited, twin))
        outcomes = [made and made.select(counted) for made in found]
        draws = min((made.draws for made in outcomes if made), default=1)
        before, after, never = (made and made.take_draws(draws) for made in outcomes)
        control = edited.control.get(name)
        if attack.tells_members:
            old = (before, base.control.get(name)) if base else (None, None)
            if not brief:
                yield from measure_scores(name, old, (after, control), of)
            continue
        assert after is not None
        control = control if control is not None and control.tried.any() else None
        seconds = edited.seconds[name] + (base.seconds[name] if base else 0.0)
        found_all = Outcomes(before, after, never, control)
        yield from measure_outcomes(attack, found_all, of, on, seconds=seconds, **shared)
