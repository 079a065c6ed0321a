"""What an audit found, in one checked schema: for audit.json and for the report of an evaluation.

Rates are shares of passages in [0, 1]; intervals are 95 %.
"""

from __future__ import annotations

from typing import Any, Literal

from surgery.record.manifest import Record


class Share(Record):
    """Passages that were recovered, of `n` that were tried."""

    n: int
    count: int
    rate: float
    ci95: tuple[float, float]


class Area(Record):
    """How well a score tells members from non-members: area under its ROC curve."""

    auc: float
    ci95: tuple[float, float]
    overcorrected: bool


class Paired(Record):
    """On the same passages; differences are edited minus base."""

    no_longer: int
    newly: int
    difference: float
    ci95: tuple[float, float]
    p_value: float


class Curve(Record):
    """Shares after each stage of an attack, by two measures."""

    stages: list[int]
    any: list[float]
    near: list[float]


class Curves(Record):
    base: Curve
    edited: Curve
    control: Curve | None


class _Attack(Record):
    """One attack. `setting`, `definition`, `source`, `cost`: as its record has them.

    `seconds`: it took, on both models and the control.
    """

    name: str
    setting: str
    definition: str
    source: str
    cost: str
    seconds: float


class Tried(_Attack):
    """An attack that recovers passages. `control`: None where none was tried."""

    base: Share
    edited: Share
    control: Share | None
    paired: Paired
    curve: Curves | None = None


class Membership(_Attack):
    """AUC by score; None where no passage is known to be no member."""

    base: dict[str, Area] | None
    edited: dict[str, Area] | None
    control: None = None


class ControlKind(Record):
    """What was never trained on: "text" or "non-members"; `n` windows or passages."""

    kind: Literal["text", "non-members"]
    n: int


class Audit(Record):
    """Every attack that was tried, on `n` passages."""

    n: int
    control: ControlKind
    attacks: list[Tried | Membership]

    @property
    def rated(self) -> list[Tried]:
        """The attacks that recover passages."""
        return [attack for attack in self.attacks if isinstance(attack, Tried)]

    @property
    def strongest(self) -> Tried | None:
        """The attack that gets most of the edited model; of several, most of the base."""
        return max(self.tied, key=lambda attack: attack.base.rate, default=None)

    @property
    def tied(self) -> list[Tried]:
        """Every attack that gets as much of the edited model as the strongest."""
        most = max((attack.edited.rate for attack in self.rated), default=None)
        return [attack for attack in self.rated if attack.edited.rate == most]

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")
