"""The schema of an audit's results, for audit.json and for the report of an evaluation.

Rates are shares of passages in [0, 1]. Intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal

import numpy as np
from pydantic import Field

from evals.data.held_back import ChoiceCounts
from evals.measure.attacks.attack import (
    KEPT,
    UNTRAINED,
    WHOLE,
    Attack,
    AttackOutcome,
    Learned,
)
from evals.measure.memorization.measures import Flags
from evals.measure.memorization.membership import auc
from evals.measure.verdicts import check_share
from evals.run.statistics import compare_draws, rate, rate_draws
from surgery.card.percent import format_percent
from surgery.record.manifest import Record
from surgery.record.report import Limit, State


class Share(Record):
    """The passages recovered of `n` that were tried.

    `bound`: the most that the share may be, with 95 % confidence (one-sided). `draws`: the runs of
    an attack that trains; None for other attacks. `n` and `count` are of the passages that were
    tried, and recovered, in at least one of them; `rate` is their mean rate. `ci95`: None for the
    passages that the edited model was taught. They are all there is, so their share estimates
    nothing.
    """

    n: int
    count: int
    rate: float
    ci95: tuple[float, float] | None
    bound: float
    draws: int | None = None

    @classmethod
    def of(cls, recovered: Flags) -> Share:
        return cls(n=len(recovered), **rate(recovered))

    @classmethod
    def of_outcome(cls, attack: Attack, outcome: AttackOutcome) -> Share:
        draws = outcome.draws if attack.in_draws else None
        return cls(**rate_draws(*outcome.by_draw), draws=draws)

    @property
    def whole(self) -> Share:
        """The same of all the passages there are."""
        return self.model_copy(update={"ci95": None}) if self.n else self

    @property
    def runs(self) -> str:
        """What its rate is of, for people; empty for attacks that do not train."""
        return {None: "", 1: "one run"}.get(self.draws, f"mean of {self.draws} runs")

    @property
    def told(self) -> str:
        """How many of how many, without the noun."""
        several = self.draws is not None and self.draws > 1
        return (
            f"{format_percent(self.rate)}% of {self.n:,}"
            if several
            else f"{self.count} of {self.n:,}"
        )


class SharePair(Record):
    """What is recovered of the same passages from both models. `base`: None for one model alone."""

    base: Share | None
    edited: Share

    @property
    def whole(self) -> SharePair:
        """As `Share.whole`."""
        return SharePair(base=self.base and self.base.whole, edited=self.edited.whole)


class Area(Record):
    """How well a score tells members from non-members: the area under its ROC curve."""

    auc: float
    ci95: tuple[float, float]
    overcorrected: bool


class PairedChange(Record):
    """Changes on the same passages, in the mean of the draws. Differences are edited minus base, or
    edited minus twin. `ci95`: as for `Share`."""

    no_longer: int
    newly: int
    difference: float
    ci95: tuple[float, float] | None
    p_value: float

    @classmethod
    def of(cls, base: AttackOutcome, edited: AttackOutcome) -> PairedChange:
        (before, _), (after, tried) = base.by_draw, edited.by_draw
        lost, gained, difference, (low, high), p_value = compare_draws(before, after, tried)
        return cls(
            no_longer=lost, newly=gained, difference=difference, ci95=(low, high), p_value=p_value
        )


class Curve(Record):
    """Shares of `n` passages after each stage of an attack in its first draw, by two measures."""

    n: int
    stages: list[int]
    any: list[float]
    near: list[float]

    @classmethod
    def of(cls, attack: Attack, outcome: AttackOutcome) -> Curve | None:
        """None if that draw counts no passage."""
        counted = outcome.by_draw[1][0]
        if not counted.any():
            return None
        rates = {
            measure: [float(flags.mean()) for flags in stages[:, counted]]
            for measure, stages in outcome.curve.items()
        }
        return cls(n=int(counted.sum()), stages=list(attack.stages), **rates)


class Curves(Record):
    base: Curve | None
    edited: Curve
    control: Curve | None


class Reached(Record):
    """The setting under which an attack with several recovers most of the edited model.

    `tried`: how many settings trained both models and the control. Those that brought back much of
    the control are among them, but do not count. `left_out`: how many more there are, for which
    there was no time. `discarded`: the largest share of the passages that one of those recovers
    that do not count, if that is more than the setting that counts.
    """

    learned: Learned
    learning_rate: float
    steps: int
    tried: int
    left_out: int = 0
    discarded: float | None = None


class TrainingResult(Record):
    """What one training of an attack with several settings recovers: shares of the passages that
    count, in the mean of the runs, after the number of steps that recovers most.

    `base_left`: the share of what the base gave before that it still gives after the last step, in
    the first run. It is None, as is `base`, where only blocks that were cut are trained: a base has
    none.
    """

    learned: Learned
    learning_rate: float
    base: float | None
    base_left: float | None
    edited: float

    @property
    def key(self) -> str:
        """What is trained, if not everything, and the learning rate."""
        what = "" if self.learned == "all weights" else f" {self.learned}"
        return f"{self.learning_rate:g}{what}"


class _AttackFacts(Record):
    """An attack with its own description. `seconds`: for both models and the control."""

    name: str
    setting: str
    definition: str
    source: str
    cost: str
    seconds: float


class AttackResult(_AttackFacts):
    """An attack that recovers passages. `control`: None if it was not tried. `base`, `paired`: None
    for one model alone, whose share is `edited`.

    `twin`: what it recovers from a model that never saw them; `above_twin`: edited minus twin;
    `toward_twin`: see `measure_way`.
    `reached`: None for an attack with one setting. Each model has its own strongest. `trainings`:
    what each training gives. `doubt`: why it shows too little to decide a limit that it keeps.
    """

    base: Share | None
    edited: Share
    control: Share | None
    paired: PairedChange | None = None
    curve: Curves | None = None
    twin: Share | None = None
    above_twin: PairedChange | None = None
    toward_twin: float | None = None
    reached: Reached | None = None
    trainings: tuple[TrainingResult, ...] = ()
    doubt: str | None = None

    @property
    def whole(self) -> AttackResult:
        """As `Share.whole`."""
        shares = {key: getattr(self, key) for key in ("base", "edited", "twin")}
        changes = {key: getattr(self, key) for key in ("paired", "above_twin")}
        update = {key: one and one.whole for key, one in shares.items()}
        update |= {
            key: one and one.model_copy(update={"ci95": None}) for key, one in changes.items()
        }
        return self.model_copy(update=update)

    @property
    def strength(self) -> tuple[float, float]:
        """What it recovers from the edited model, and, to decide between ties, from the base."""
        return self.edited.rate, self.base.rate if self.base else 0.0

    def find_doubt(self, limit: float) -> str | None:
        """Why a limit that it keeps is not decided, if what does not count exceeds it."""
        more = self.reached.discarded if self.reached else None
        if more is not None and more > limit:
            return (
                f"a setting of {self.name} recovers {more:.1%}, and does not count, as it also "
                "brings back what was never trained on"
            )
        return self.doubt


class MembershipResult(_AttackFacts):
    """AUC by score; None if no passage is known to be a non-member."""

    base: dict[str, Area] | None
    edited: dict[str, Area] | None
    control: None = None


class ControlKind(Record):
    """What no model was trained on: "text" or "non-members", with `n` windows or passages."""

    kind: Literal["text", "non-members"]
    n: int


class Audit(Record):
    """Every attack that was tried on `n` passages.

    `skipped`: attack that was asked for → what it needs and did not have. `not_tried`: the names of
    all attacks that were not tried.
    """

    n: int
    control: ControlKind
    attacks: list[AttackResult | MembershipResult]
    skipped: dict[str, str]
    not_tried: list[str]

    @property
    def whole(self) -> Audit:
        """As `Share.whole`."""
        found = (one.whole if isinstance(one, AttackResult) else one for one in self.attacks)
        return self.model_copy(update={"attacks": list(found)})

    @property
    def rated(self) -> list[AttackResult]:
        """The attacks that recover passages."""
        return [attack for attack in self.attacks if isinstance(attack, AttackResult)]

    @property
    def areas(self) -> dict[str, tuple[float, tuple[float, float]]]:
        """Membership score → its AUC of the edited model, and the interval, if it was tried."""
        found = (one.edited or {} for one in self.attacks if isinstance(one, MembershipResult))
        return {name: (one.auc, one.ci95) for some in found for name, one in some.items()}

    @property
    def strongest(self) -> AttackResult | None:
        """The attack that recovers most from the edited model; on a tie, most from the base."""
        return max(self.tied, key=lambda attack: attack.strength, default=None)

    @property
    def counting(self) -> list[AttackResult]:
        """Those of them that count any passage."""
        return [attack for attack in self.rated if attack.edited.n]

    @property
    def tied(self) -> list[AttackResult]:
        """Every attack that recovers as much from the edited model as the strongest."""
        most = max((attack.edited.rate for attack in self.counting), default=None)
        return [attack for attack in self.counting if attack.edited.rate == most]

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def recovered(self) -> dict[str, SharePair]:
        """Attack → what it recovers from both models."""
        return {one.name: SharePair(base=one.base, edited=one.edited) for one in self.rated}

    def check_limits(self, limits: Mapping[str, float], unclear: str | None = None) -> list[Limit]:
        """Checks `limits`: attack → the highest rate allowed. `unclear`: as for `check_share`."""
        return [
            check_share(
                one.name,
                f"share of passages recovered by {one.name}",
                limits[one.name],
                one.edited.model_dump(),
                base=one.base.rate if one.base else None,
                unclear=unclear or one.find_doubt(limits[one.name]),
            )
            for one in self.rated
            if one.name in limits
        ]


class AllRecovered(Record):
    """Attack → what it recovers of `n` passages: of all, including those that a search used, of
    those that the edited model was taught, or of those that are not listed."""

    n: int
    recovered: dict[str, SharePair]


class AuditReport(Audit):
    """The object of `audit --json`. Figures leave out passages on which the edit was chosen, and
    those that it was taught, if any others are left.

    `all_passages`, `taught`, `unlisted`: None if there are none; `all_passages` also where there
    are `taught` ones. `secrets`: whether each suffix is a secret that was marked; `suffix_length`
    is then that of the longest. `state`: of all limits together, None without any; `verdict`: the
    result in a few sentences. `given_away`: the id of each passage that an attack recovers from the
    edited model → these attacks; no file holds it.
    """

    chose: ChoiceCounts
    all_passages: AllRecovered | None
    taught: AllRecovered | None = None
    unlisted: AllRecovered | None = None
    prefix_length: int
    suffix_length: int
    secrets: bool = False
    limits: list[Limit]
    state: State | None
    verdict: str
    given_away: dict[str, list[str]] = Field(default_factory=dict, exclude=True)
    provenance: dict[str, Any]


def compare_outcomes(
    attack: Attack,
    base: AttackOutcome | None,
    edited: AttackOutcome | None,
    controls: tuple[AttackOutcome | None, AttackOutcome | None],
    seconds: float,
    twin: AttackOutcome | None = None,
) -> AttackResult | MembershipResult:
    """Puts one attack's outcomes side by side. `controls`: of the base and the edited model."""
    record: dict[str, Any] = {**attack.description, "seconds": seconds}
    if attack.tells_members:
        pairs = zip((base, edited), controls, strict=True)
        areas = [_find_areas(one, other) if one and other else None for one, other in pairs]
        return MembershipResult(**record, base=areas[0], edited=areas[1])
    assert edited is not None
    control = controls[1] if controls[1] is not None and controls[1].tried.any() else None
    if edited.settings:
        both = edited.settings if control is None else {*edited.settings} & {*control.settings}
        best, made = edited.take_strongest(control)
        record["reached"] = Reached(
            **asdict(best),
            tried=len({*both} - {UNTRAINED}),
            left_out=edited.left_out,
            discarded=_find_more(attack, made, edited.take_discarded(control)),
        )
        record["trainings"] = tuple(_list_trainings(base, edited))
        record["doubt"] = base and find_weakness(attack.name, base)
        base = base and base.take_strongest(control)[1]
        twin = twin and twin.take_strongest(control)[1]
        control = control and replace(control, recovered=control.settings[best])
        edited = made
    outcomes = {"base": base, "edited": edited, "control": control, "twin": twin}
    record |= {key: one and Share.of_outcome(attack, one) for key, one in outcomes.items()}
    if base is not None:
        record["paired"] = PairedChange.of(base, edited)
    if twin is not None:
        rates = (record[key].rate for key in ("base", "edited", "twin"))
        record["toward_twin"] = measure_way(*rates)
        record["above_twin"] = PairedChange.of(twin, edited)
    if attack.stages:
        curves = {
            key: one and Curve.of(attack, one) for key, one in outcomes.items() if key != "twin"
        }
        alone = base is None
        record["curve"] = curves if (alone or curves["base"]) and curves["edited"] else None
    return AttackResult(**record)


def _list_trainings(base: AttackOutcome | None, edited: AttackOutcome) -> Iterator[TrainingResult]:
    for training, settings in edited.by_training.items():
        whole = base is not None and training[0] in WHOLE and training in base.by_training
        yield TrainingResult(
            learned=training[0],
            learning_rate=training[1],
            base=base.measure_rate(settings) if base is not None and whole else None,
            base_left=base.left.get(training) if base is not None else None,
            edited=edited.measure_rate(settings),
        )


def find_weakness(name: str, base: AttackOutcome) -> str | None:
    """Why an attack that did so to the base shows too little, if it recovers little from an edit.

    An edit meets the same trainings.
    """
    ran = len(base.settings) - 1
    if base.left_out > ran:
        return f"{name} had time for {ran} of its {ran + base.left_out} settings only"
    left = max(base.left.values(), default=None)
    if left is not None and left < KEPT:
        return (
            f"at no learning rate that {name} tried does fine-tuning leave the base what it "
            f"recites: after the last step, it gives {left:.0%} of that at most"
        )
    return None


def _find_more(attack: Attack, made: AttackOutcome, other: AttackOutcome | None) -> float | None:
    """The rate of the other outcome, if that is higher."""
    rate = None if other is None else Share.of_outcome(attack, other).rate
    return None if rate is None or rate <= Share.of_outcome(attack, made).rate else rate


def measure_way(base: float, edited: float, twin: float) -> float | None:
    """The share of the way that an edit goes from the base to the twin. None if these are equal.

    0: as the base; 1: as the twin; above 1: past it.
    """
    return (edited - base) / (twin - base) if twin != base else None


def _find_areas(members: AttackOutcome, others: AttackOutcome) -> dict[str, Area]:
    labels = np.arange(len(members.recovered) + len(others.recovered)) < len(members.recovered)
    return {
        name: Area(**auc(np.concatenate([values, others.scores[name]]), labels))
        for name, values in members.scores.items()
    }
