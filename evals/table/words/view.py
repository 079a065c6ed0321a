"""What sentences may say about one edited model of a report: its figures, in order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from evals.data.held_back import ChoiceCounts
from evals.table.limits import settle
from surgery.record.measured import BASE, TAUGHT, Limit, Measured, On
from surgery.record.report import EditRecord, Named, Report


class Attacked(NamedTuple):
    """What an attack recovers: from the edited model, from the base, and of the control."""

    name: str
    named: Named
    row: Measured
    base: Measured | None
    control: Measured | None

    @property
    def strength(self) -> tuple[float, float]:
        """From the edited model, and, to decide between ties, from the base."""
        return self.row.value or 0.0, (self.base.value or 0.0) if self.base else 0.0


@dataclass(frozen=True)
class View:
    """A report from the side of one of its edits."""

    report: Report
    edit: EditRecord

    def find(self, name: str, on: On | None = None) -> Measured | None:
        return self.report.find(name, self.edit.of, on)

    def find_base(self, row: Measured | None) -> Measured | None:
        """The same figure of the base."""
        return row and self.report.find(row.name, BASE, row.on)

    @cached_property
    def chose(self) -> ChoiceCounts:
        return ChoiceCounts(**dict(self.edit.chose))

    @property
    def recited(self) -> Measured | None:
        return self.find("recited")

    @property
    def is_whole(self) -> bool:
        """Whether the main figures are of the passages that it was taught, and of no others."""
        return self.recited is not None and self.recited.on in TAUGHT

    @property
    def taught(self) -> Measured | None:
        """What is recited of the passages that it was taught, where the main figures are of
        others."""
        row = None if self.is_whole else self.find("recited", "taught")
        return row if row and self.chose.includes(row.n or 0) else None

    @property
    def unlisted(self) -> Measured | None:
        return self.find("recited", "not listed")

    @property
    def part(self) -> Any:
        """The documents, or the share of them, that were measured of each task; None: all."""
        return self.report.settings.get("limit")

    @cached_property
    def attacks(self) -> list[Attacked]:
        """Every attack that was tried, with its main figure."""
        return self._list_attacks(None)

    @property
    def taught_attacks(self) -> list[Attacked]:
        """The same on the passages that it was taught, those that count any."""
        return [attack for attack in self._list_attacks("taught") if attack.row.value is not None]

    def _list_attacks(self, on: On | None) -> list[Attacked]:
        found = []
        for name, named in self.report.names.items():
            row = self.find(name, on) if "attack" in named.details else None
            if row is not None:
                control, base = self.find(name, "never trained on"), self.find_base(row)
                found.append(Attacked(str(named.details["attack"]), named, row, base, control))
        return found

    @property
    def counting(self) -> list[Attacked]:
        """The attacks that count any passage."""
        return [attack for attack in self.attacks if attack.row.n]

    @property
    def empty(self) -> list[str]:
        """The names of the others."""
        return [attack.name for attack in self.attacks if not attack.row.n]

    @property
    def tied(self) -> list[Attacked]:
        """The attacks that recover most from the edited model."""
        return tie(self.counting)

    @property
    def strongest(self) -> Attacked | None:
        """The one of these that recovers most from the base."""
        return max(self.tied, key=lambda one: one.strength, default=None)

    @property
    def has_trained(self) -> bool:
        """Whether an attack trained the model, and counts any passage."""
        return any(one.named.details.get("trains") for one in self.counting)

    @property
    def by_attacker(self) -> dict[str, list[Attacked]]:
        """What someone does → the attacks of that kind that were tried."""
        found: dict[str, list[Attacked]] = {}
        for attack in self.attacks:
            found.setdefault(str(attack.named.details["attacker"]), []).append(attack)
        return found

    @property
    def area(self) -> Measured | None:
        """How well the membership score tells members from others; None if that was not tried."""
        row = self.find("membership.loss")
        return None if row is None or row.value is None else row

    @property
    def tells_members(self) -> bool:
        """Whether it is shown to tell members from others."""
        ends = self.area.ci95 if self.area else None
        return ends is None or not ends[0] <= 0.5 <= ends[1]

    @cached_property
    def tasks(self) -> list[tuple[str, Named, Measured]]:
        """Every task with its main metric."""
        every = self.report.names.items()
        names = [(name, one) for name, one in every if "task" in one.details and one.main]
        found = [(str(one.details["task"]), one, self.find(name)) for name, one in names]
        return [(task, named, row) for task, named, row in found if row is not None]

    def list_tasks(self, *outcomes: str) -> list[tuple[str, Named, Measured]]:
        return [task for task in self.tasks if task[2].details.get("outcome") in outcomes]

    @property
    def heldout(self) -> Measured | None:
        return self.find("heldout")

    @property
    def form(self) -> Measured | None:
        """The loss on new text of the passages' form."""
        return self.find("form")

    @property
    def probability(self) -> float:
        """By how many percent the true next token of held-out text is less likely than before.

        A geometric mean."""
        change = self.heldout.change if self.heldout else None
        assert change is not None
        return 100 * (1 - math.exp(-change.difference))

    @property
    def limits(self) -> list[Limit]:
        return self.report.list_limits(self.edit.of)

    @property
    def state(self) -> str | None:
        """Of the limits, whatever a search says."""
        return settle(limit.state for limit in self.limits)

    @property
    def lacking(self) -> dict[str, list[Limit]]:
        """What would decide open limits → these."""
        found: dict[str, list[Limit]] = {}
        for limit in self.limits:
            if limit.lacks is not None:
                found.setdefault(limit.lacks, []).append(limit)
        return found

    @property
    def on_passages(self) -> list[Limit]:
        return [limit for limit in self.limits if limit.what in ("recited", "recovered")]

    @property
    def unlimited(self) -> Attacked | None:
        """The strongest attack without a limit, if it recovers more than limits allow others."""
        limited = {passage.subject: passage.limit for passage in self.on_passages}
        free = [one for one in self.counting if one.name not in limited]
        strongest = max(free, key=lambda one: one.strength, default=None)
        if strongest is None or not limited:
            return None
        return strongest if strongest.strength[0] > min(limited.values()) else None


def tie(attacks: list[Attacked]) -> list[Attacked]:
    """Those that recover most from the edited model."""
    most = max((attack.row.value or 0.0 for attack in attacks), default=None)
    return [attack for attack in attacks if attack.row.value == most]
