"""Measures edits as exports would have them, and attacks them where one pass does not decide."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from evals.attacks.attack import AttackOutcome
from evals.attacks.names import find_attack
from evals.edits.batch import BASE
from evals.edits.engine import Engine
from evals.samples.held_back import deal_passages
from evals.search.points import EditPoint, point_of
from evals.search.task import SearchTask
from surgery.selection import Selection
from surgery.variants import variant_of

Twice = tuple[EditPoint, EditPoint]
"""An edit on the half to choose on, and on the half that is held back."""


@dataclass(frozen=True)
class Trials:
    """Of a task's edits in a layout. Every attack of an edit runs once, as in an audit: on the
    passages of both halves, which are then counted apart."""

    task: SearchTask
    engines: tuple[Engine, Engine]
    layout: str
    outcomes: dict[tuple[Selection, str], AttackOutcome] = field(default_factory=dict)

    def measure(self, selection: Selection, half: int = 0) -> EditPoint:
        """What one pass shows on a half."""
        (measured,) = self.engines[half].measure([selection])
        return point_of(measured, self.task.measure, self.task.names)

    def measure_twice(self, selection: Selection) -> Twice:
        """With every attack that has a limit."""
        first, second = (
            self.attack(self.measure(selection, half), half, stop=False) for half in (0, 1)
        )
        return first, second

    def attack(self, point: EditPoint, half: int = 0, *, stop: bool = True) -> EditPoint:
        """Adds the attacks that a point lacks. `stop`: none after a limit is missed."""
        for name in self.task.slow:
            if stop and point.excess(self.task.others):
                break
            if name not in {known for known, _, _ in point.attacked}:
                outcome = self._run(point.selection, name)
                rows = deal_passages(self.task.target.samples, self.task.request.seed)[half]
                counted = outcome.recovered[rows][outcome.tried[rows]]
                rate = float(counted.mean()) if len(counted) else 0.0
                point = replace(point, attacked=(*point.attacked, (name, rate, len(counted))))
        return point

    def _run(self, selection: Selection, name: str) -> AttackOutcome:
        if (selection, name) not in self.outcomes:
            task, target, attack = self.task, self.task.target, find_attack(name)
            if selection:
                editable = task.loaded.editable
                plan = editable.plan(selection, layout=self.layout)
                fitted = any(variant_of(part.variant).FITTED for part in selection)
                fits = task.fitter.fit(selection) if task.fitter and fitted else {}
                base = self._run(BASE, name) if attack.reads_base else None
                target = replace(target, model=editable.apply(plan, fits), base=base)
            self.outcomes[selection, name] = attack.run(target)
        return self.outcomes[selection, name]
