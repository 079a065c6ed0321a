"""What an audit found, in one checked schema: for audit.json and for the report of an evaluation.

Rates are shares of passages in [0, 1]; intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from evals.attacks.attack import Attack, AttackOutcome
from evals.memorization.measures import Flags
from evals.memorization.membership import auc
from evals.samples.held_back import ChoiceCounts
from evals.statistics import check_limit, mcnemar, paired_difference, rate
from surgery.record.manifest import Record


class Share(Record):
    """Passages that were recovered, of `n` that were tried."""

    n: int
    count: int
    rate: float
    ci95: tuple[float, float]

    @classmethod
    def of(cls, recovered: Flags) -> Share:
        return cls(n=len(recovered), **rate(recovered))


class SharePair(Record):
    """What is recovered of the same passages under both models."""

    base: Share
    edited: Share


class Area(Record):
    """How well a score tells members from non-members: area under its ROC curve."""

    auc: float
    ci95: tuple[float, float]
    overcorrected: bool


class PairedChange(Record):
    """On the same passages; differences are edited minus base."""

    no_longer: int
    newly: int
    difference: float
    ci95: tuple[float, float]
    p_value: float

    @classmethod
    def of(cls, base: Flags, edited: Flags) -> PairedChange:
        lost, gained = int((base & ~edited).sum()), int((edited & ~base).sum())
        interval = paired_difference(lost, gained, len(edited))
        return cls(
            no_longer=lost,
            newly=gained,
            difference=(gained - lost) / max(1, len(edited)),
            ci95=(interval.low, interval.high),
            p_value=mcnemar(lost, gained),
        )


class Curve(Record):
    """Shares after each stage of an attack, by two measures."""

    stages: list[int]
    any: list[float]
    near: list[float]

    @classmethod
    def of(cls, attack: Attack, outcome: AttackOutcome) -> Curve:
        rates = {
            measure: [float(flags.mean()) for flags in stages[:, outcome.tried]]
            for measure, stages in outcome.curve.items()
        }
        return cls(stages=list(attack.stages), **rates)


class Curves(Record):
    base: Curve
    edited: Curve
    control: Curve | None


class _AttackFacts(Record):
    """One attack, described as by its own record. `seconds`: on both models and the control."""

    name: str
    setting: str
    definition: str
    source: str
    cost: str
    seconds: float


class AttackResult(_AttackFacts):
    """An attack that recovers passages. `control`: None where none was tried."""

    base: Share
    edited: Share
    control: Share | None
    paired: PairedChange
    curve: Curves | None = None


class MembershipResult(_AttackFacts):
    """AUC by score; None where no passage is known to be no member."""

    base: dict[str, Area] | None
    edited: dict[str, Area] | None
    control: None = None


class ControlKind(Record):
    """What was never trained on: "text" or "non-members"; `n` windows or passages."""

    kind: Literal["text", "non-members"]
    n: int


class Limit(Record):
    """The highest rate that is allowed to an attack, and the rate measured on `n` passages.

    `conclusive`: all of the interval is on the same side of the limit.
    """

    name: str
    ok: bool
    limit: float
    value: float
    ci95: tuple[float, float]
    n: int
    conclusive: bool


class Audit(Record):
    """Every attack that was tried, on `n` passages."""

    n: int
    control: ControlKind
    attacks: list[AttackResult | MembershipResult]

    @property
    def rated(self) -> list[AttackResult]:
        """The attacks that recover passages."""
        return [attack for attack in self.attacks if isinstance(attack, AttackResult)]

    @property
    def strongest(self) -> AttackResult | None:
        """The attack that gets most of the edited model; of several, most of the base."""
        return max(self.tied, key=lambda attack: attack.base.rate, default=None)

    @property
    def tied(self) -> list[AttackResult]:
        """Every attack that gets as much of the edited model as the strongest."""
        most = max((attack.edited.rate for attack in self.rated), default=None)
        return [attack for attack in self.rated if attack.edited.rate == most]

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def recovered(self) -> dict[str, SharePair]:
        """By attack, what it recovers from both models."""
        return {one.name: SharePair(base=one.base, edited=one.edited) for one in self.rated}

    def check_limits(self, limits: Mapping[str, float]) -> list[Limit]:
        """`limits`: attack → the highest rate that is allowed."""
        found = []
        for one in self.rated:
            if (most := limits.get(one.name)) is not None:
                share = one.edited
                ok, conclusive = check_limit(share.rate, share.ci95, most)
                found.append(
                    Limit(
                        name=one.name,
                        ok=ok,
                        limit=most,
                        value=share.rate,
                        ci95=share.ci95,
                        n=share.n,
                        conclusive=conclusive,
                    )
                )
        return found


class AllRecovered(Record):
    """By attack, what it recovers of all `n` passages, those that chose the edit too."""

    n: int
    recovered: dict[str, SharePair]


class AuditReport(Audit):
    """The object of `audit --json`. Figures leave out the passages that chose the edit.

    `all_passages`: None where none did.
    """

    chose: ChoiceCounts
    all_passages: AllRecovered | None
    prefix_length: int
    suffix_length: int
    limits: list[Limit]
    provenance: dict[str, Any]


def compare_outcomes(
    attack: Attack,
    base: AttackOutcome | None,
    edited: AttackOutcome | None,
    controls: tuple[AttackOutcome | None, AttackOutcome | None],
    seconds: float,
) -> AttackResult | MembershipResult:
    """One attack's outcomes side by side. `controls`: of the base, and of the edited model."""
    record: dict[str, Any] = {**attack.description, "seconds": seconds}
    if attack.tells_members:
        pairs = zip((base, edited), controls, strict=True)
        areas = [_areas(one, other) if one and other else None for one, other in pairs]
        return MembershipResult(**record, base=areas[0], edited=areas[1])
    assert base is not None
    assert edited is not None
    outcomes = {"base": base, "edited": edited, "control": controls[1]}
    record |= {key: one and Share.of(one.counted) for key, one in outcomes.items()}
    record["paired"] = PairedChange.of(base.counted, edited.counted)
    if attack.stages and edited.tried.any():
        record["curve"] = {key: one and Curve.of(attack, one) for key, one in outcomes.items()}
    return AttackResult(**record)


def _areas(members: AttackOutcome, others: AttackOutcome) -> dict[str, Area]:
    labels = np.arange(len(members.recovered) + len(others.recovered)) < len(members.recovered)
    return {
        name: Area(**auc(np.concatenate([values, others.scores[name]]), labels))
        for name, values in members.scores.items()
    }
