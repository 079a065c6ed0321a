"""Measures edits as exports would have them, and attacks them where one pass does not decide.

With text to heal on, all limits are for the healed edit, so every attack is of that one. The best
edits are healed in any case, before one of them is chosen.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from evals.choose.grid import EditPoint, measure_points
from evals.choose.search.opened import Healing, OpenedSearch, TaskScores
from evals.measure.attacks.attack import AttackOutcome
from evals.measure.attacks.names import find_attack, is_own
from evals.measure.attacks.trying import KINDS
from evals.measure.differences import compare_scores, halve_scores
from evals.measure.edits.engine import BASE, Engine
from evals.measure.healing import heal_model
from evals.measure.naming import HEALED
from evals.run.keep import Store
from evals.run.lm_eval.scores import choose_metric
from evals.table.measured import measure_share, measure_value
from surgery.cuts import find_constants, mark_constants
from surgery.errors import MeasurementError
from surgery.plan import check_trainable
from surgery.record.measured import Measured, On
from surgery.selection import Selection, blocks_of
from surgery.variants import variant_of

HALVES: tuple[On, On] = ("chosen on", "held back")
HINTS = "hints:8"
"""A measure of what a healed edit still knows: healing brings memory back, and hints show it."""
Twice = tuple[EditPoint, EditPoint]
"""An edit on the half to choose on, and on the half that is held back."""


@dataclass(frozen=True)
class Trials:
    """Measures edits.

    Every attack of an edit runs once on each half, and learns nothing from the other. A benchmark
    runs once: every other document chooses, and the rest is held back.
    """

    opened: OpenedSearch
    engines: tuple[Engine, Engine]
    outcomes: dict[tuple[Selection, str, int], AttackOutcome] = field(default_factory=dict)
    edited: dict[tuple[Selection, Healing | None], Any] = field(default_factory=dict)
    healed: dict[Selection, Twice] = field(default_factory=dict)
    scores: dict[tuple[Selection, str], TaskScores] = field(default_factory=dict)

    def measure(self, selection: Selection, half: int = 0) -> EditPoint:
        """What one pass shows on a half."""
        (point,) = measure_points(self.engines[half], [selection], HALVES[half], self.opened.names)
        return point

    def measure_twice(self, selection: Selection) -> Twice:
        """With every attack that has a limit."""
        first, second = (
            self.attack(self.measure(selection, half), half, stop=False) for half in (0, 1)
        )
        return first, second

    def attack(self, point: EditPoint, half: int = 0, *, stop: bool = True) -> EditPoint:
        """Adds the attacks, and then the benchmarks, that a point lacks and that have a limit.
        `stop`: none after a limit is missed.

        Raises `MeasurementError` if no passage counts for one: every edit would keep its limit.
        """
        for name in self.opened.slow:
            if stop and point.excess(self.opened.others):
                break
            if name not in point.late:
                outcome = self._run(point.selection, name, half)
                if not outcome.tried.any():
                    raise MeasurementError(
                        f"{name} has a limit, and no passage of a half counts for it",
                        where=self.opened.samples.source,
                        fix="give more passages, or leave out the limit",
                    )
                row = measure_share(
                    f"{self.prefix}recovered.{name}",
                    *outcome.by_draw,
                    on=HALVES[half],
                    groups=self.opened.halves[half].samples.groups,
                )
                point = replace(point, tried=(*point.tried, row))
        for task, most in self.opened.drop_limits.items() if point.selection else ():
            if stop and point.excess(self.opened.others):
                break
            if f"task.{task}" not in point.late:
                row = self._compare(point.selection, task, most, half)
                point = replace(point, tried=(*point.tried, row))
        complete = len(point.attacked) == len(self.opened.slow)
        if self.opened.healing and complete and point.selection and point.healed_rise is None:
            after, before = self.heal(point.selection)[half], self.measure(BASE, half)
            rise = after.plain["heldout"] - before.plain["heldout"]
            n, on = len(self.opened.halves[half].windows), HALVES[half]
            row = measure_value(f"{HEALED}heldout_rise", rise, on=on, n=n, unit="nats")
            point = replace(point, tried=(*point.tried, row))
        return point

    @cached_property
    def _judges(self) -> tuple[Healing, tuple[Engine, Engine]]:
        """How edits are healed before one is chosen, and what measures them then. Raises
        `SamplesError` for too little text."""
        opened = self.opened
        if opened.asked_healing is not None:
            return opened.asked_healing, self.engines
        healing, windows = opened.short_healing
        (half, _), (first, second) = opened.halves, self.engines
        if len(windows) < len(half.windows):
            documents = None if half.documents is None else half.documents[::2]
            first = opened.make_engine(replace(half, windows=windows, documents=documents))
        return healing, (first, second)

    def heal(self, selection: Selection) -> Twice:
        """What one pass shows of a healed edit.

        Raises `SamplesError` for too little text, and `UnsupportedError` for a model that cannot
        be trained.
        """
        if selection not in self.healed:
            healing, engines = self._judges
            names = dict.fromkeys([*self.opened.names, HINTS])

            def read() -> list[list[dict[str, Any]]]:
                check_trainable(self.opened.loaded.found.checkpoint.config)
                model, found = self._edit(selection, healing), []
                for engine, on in zip(engines, HALVES, strict=True):
                    (point,) = measure_points(engine.compare(model), [BASE], on, names)
                    found.append([row.model_dump(mode="json") for row in point.figures])
                return found

            key = "healed", *names, self.opened.halves
            first, second = (
                EditPoint(selection, tuple(map(Measured.model_validate, rows)), next(iter(names)))
                for rows in self._keep(selection, healing).get(key, read)
            )
            self.healed[selection] = first, second
        return self.healed[selection]

    @property
    def prefix(self) -> str:
        """With healing, attacks are of the healed edit, and so are benchmarks."""
        return HEALED if self.opened.healing is not None else ""

    def _compare(self, selection: Selection, task: str, most: float, half: int) -> Measured:
        """What an edit loses on a half of a task's documents."""
        base, edited = self.opened.base_scores[task], self._score(selection, task)
        main = choose_metric({key: one for key, one in base.items() if key in edited})
        before, after = (halve_scores(scores[main], half) for scores in (base, edited))
        _, row = compare_scores(f"{self.prefix}task.{task}", before, after, most)
        return row.model_copy(update={"on": HALVES[half]})

    def _run(self, selection: Selection, name: str, half: int) -> AttackOutcome:
        key = (selection, name, half)
        if key not in self.outcomes:
            target, attack = self.opened.targets[half], find_attack(name)
            if attack.in_draws and not attack.trains_only_cut and (selection or half):
                # the same trainings on every edit and half
                target = replace(target, trainings=self._run(BASE, name, 0).trainings)
            if selection:
                cut = tuple(sorted({*target.cut, *blocks_of(selection)}))
                target = replace(target, cut=cut)

            def run() -> AttackOutcome:
                return attack.run(
                    replace(target, model=self._edit(selection)) if selection else target
                )

            kept, told = not is_own(name), ("attack", attack, target)
            self.outcomes[key] = self._keep(selection).get(told, run, *KINDS) if kept else run()
        return self.outcomes[key]

    def _score(self, selection: Selection, task: str) -> TaskScores:
        key = (selection, task)
        if key not in self.scores:
            store = self._keep(selection)
            self.scores[key] = self.opened.score(store, task, lambda: self._edit(selection))
        return self.scores[key]

    def _keep(self, selection: Selection, healing: Healing | None = None) -> Store:
        """The store for work on an edit. Work on the base does not depend on how edits are made."""
        opened, healing = self.opened, healing or self.opened.asked_healing
        if not selection:
            return opened.store.narrow(opened.request.run.batch_size)
        how = opened.fitter, opened.request.choice.layout, healing, opened.request.run.batch_size
        return opened.store.narrow(selection, *how)

    def _edit(self, selection: Selection, healing: Healing | None = None) -> Any:
        """The edited model, healed as asked for. Keeps only the last one. `healing`: another."""
        healing = healing or self.opened.asked_healing
        if (key := (selection, healing)) not in self.edited:
            self.edited.clear()  # first: memory need not hold two
            opened, editable = self.opened, self.opened.loaded.editable
            model, constants = opened.loaded.model, None
            if selection:
                plan = editable.plan(selection, layout=opened.request.choice.layout)
                fitted = any(variant_of(part.variant).fitted for part in selection)
                fits = opened.fitter.fit(selection) if opened.fitter and fitted else {}
                model = editable.apply(plan, fits)
                found = opened.loaded.found
                constants = find_constants(found.checkpoint, found.manifest)
                for name, flags in mark_constants(plan).items():
                    constants[name] = constants.get(name, False) | flags
            if healing is not None and selection:
                stored = opened.loaded.found.dtype
                lessons = healing.text, healing.passages, healing.schedule
                model = heal_model(
                    opened.loaded.model, model, *lessons, stored, constants=constants
                )
            self.edited[key] = model
        return self.edited[key]
