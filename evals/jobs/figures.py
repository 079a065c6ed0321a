"""The figures of an edited model: all that was measured of it, beside the base and the twin."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from evals.data import Samples
from evals.data.held_back import HeldBack
from evals.jobs.materials import Materials
from evals.jobs.measuring import ModelResults
from evals.measure.attacks.trying import measure_attacks
from evals.measure.differences import compare_task, halve_scores, hash_documents
from evals.measure.memorization.measures import MEASURES, Flags
from evals.measure.memorization.protocol import ExtractionResults
from evals.measure.memorization.summary import (
    measure_control,
    measure_form,
    measure_membership,
    measure_recital,
)
from evals.run.lm_eval.scores import Scores, choose_metric
from evals.table.limits import ask_tasks
from surgery.record.measured import BASE, TWIN, Measured, On


@dataclass(frozen=True)
class Compared:
    """What all edits of a report are compared with. `offset`: the place of the first edit in
    `left`."""

    materials: Materials
    before: ModelResults | None
    twin: ModelResults | None
    left: HeldBack
    offset: int

    def find_on(self, place: int) -> On:
        """The passages that the main figures of an edit are of."""
        left = self.left
        if left.is_whole(place + self.offset):
            return "taught" if left.others is None else "taught, held back"
        if left.others is not None:
            return "not taught"
        return "all" if (left.passages | left.unlisted).all() else "held back"

    def is_taught(self, place: int, samples: Samples) -> bool:
        """Whether an edit was taught the passages whose figures are of what was taught."""
        if (others := self.left.others) is None:
            return False
        taught = int(others[samples.trained_on].sum())
        return self.left.count(place + self.offset).includes(taught)

    def holds_back(self, task: str, base: Mapping[str, Scores]) -> bool:
        """Whether a search chose on every other document of a task, so that its figures are of the
        rest."""
        scores = base[choose_metric(base)]
        if task not in self.left.documents or len(scores.documents) < 2:
            return False
        return hash_documents(halve_scores(scores, 0)) in self.left.documents[task]

    def list_unknown(self) -> list[str]:
        """The tasks on other documents of which a search chose an edit."""
        benchmarks, before = self.materials.benchmarks, self.before
        if benchmarks is None or before is None:
            return []
        return [
            name
            for name, run in before.runs.items()
            if name in self.left.documents
            and not self.holds_back(name, benchmarks.scores(name, run))
        ]

    def measure(self, after: ModelResults, of: str, place: int) -> Iterator[Measured]:
        """All figures of an edit, and those of the base and the twin; the main ones first."""
        left, before, on = self.left, self.before, self.find_on(place)
        tests = (
            select(before, left.passages, left.windows),
            select(after, left.passages, left.windows),
        )
        if tests[1] is not None:
            never = select(self.twin, left.passages, left.windows)
            base, twin = (one.test if one else None for one in (tests[0], never))
            yield from measure_recital(tests[1].test, base, of, on, twin=twin)
        if self.twin is not None:
            yield from self._measure_twin(on)
        yield from self._measure_attacks(after, of, on, left.passages)
        plan = after.asked.attacked
        if tests[1] is not None and not (plan and "membership" in {a.name for a in plan.tried}):
            for model, test in ((BASE, tests[0]), (of, tests[1])):
                yield from measure_membership(test.test, model) if test else ()
        yield from self._measure_costs(after, of)
        if tests[1] is not None:
            before_edit = tests[0].test if tests[0] is not None else None
            yield from measure_form(before_edit, tests[1].test, of)
        for rows, some in self._list_sides():
            yield from self._measure_side(after, of, rows, some)

    def _list_sides(self) -> Iterator[tuple[On, Flags]]:
        """Other passages that figures are of, too."""
        left = self.left
        if left.others is not None:
            yield "taught", left.others
        elif not ((left.passages | left.unlisted).all() and left.windows.all()):
            yield "all", ~left.unlisted
        if left.unlisted.any():
            yield "not listed", left.unlisted

    def _measure_side(
        self, after: ModelResults, of: str, on: On, rows: Flags
    ) -> Iterator[Measured]:
        """What is recited and recovered of some rows, bool [N]; of all, also the loss."""
        every = self.left.windows | True
        tests = [select(one, rows, every) for one in (self.before, after)]
        if tests[1] is not None:
            exact = [one for one in MEASURES if one.figure == "recited"]
            test, base = (
                one.test.select(one.test.samples.trained_on) if one else None
                for one in reversed(tests)
            )
            yield from measure_recital(_drop_counts(test), base, of, on, exact)
        yield from self._measure_attacks(after, of, on, rows, brief=True)
        if on == "all" and not self.left.windows.all():
            text = self.before.control if self.before else None
            yield from measure_control(text, after.control, on, of)

    def _measure_attacks(
        self, after: ModelResults, of: str, on: On, rows: Flags, *, brief: bool = False
    ) -> Iterator[Measured]:
        plan = after.asked.attacked
        if plan is None or after.audited is None:
            return
        base = self.before.audited if self.before else None
        twin = self.twin.audited if self.twin and not brief else None
        counted = rows[plan.samples.trained_on]
        yield from measure_attacks(plan, base, after.audited, counted, of, on, twin, brief=brief)

    def _measure_twin(self, on: On) -> Iterator[Measured]:
        """Recitation and loss of a model that never saw the passages."""
        test = select(self.twin, self.left.passages, self.left.windows)
        if test is not None:
            shown = [one for one in MEASURES if one.name in ("exact_match", "suffix_nll")]
            some = _drop_counts(test.test.select(test.test.samples.trained_on))
            yield from measure_recital(some, None, TWIN, on, shown)

    def _measure_costs(self, after: ModelResults, of: str) -> Iterator[Measured]:
        """Benchmarks, by each of their metrics, and loss on held-out text."""
        benchmarks, before, limits = (
            self.materials.benchmarks, self.before, self.materials.request.benchmarks.max_drop
        )  # fmt: skip
        for name, run in after.runs.items() if benchmarks and before else ():
            assert benchmarks is not None
            assert before is not None
            base, edited = (benchmarks.scores(name, one) for one in (before.runs[name], run))
            most = next((task.limit for task in ask_tasks(limits, [name])), None)
            held_back = self.holds_back(name, base)
            if held_back:
                base, edited = (
                    {key: halve_scores(one, 1) for key, one in scores.items()}
                    for scores in (base, edited)
                )
            for row in compare_task(name, base, edited, most, of):
                yield row.model_copy(update={"on": "held back"}) if held_back else row
        windows = self.left.windows
        controls = [one.control if one else None for one in (before, after)]
        chosen = [control.select(windows) if control else None for control in controls]
        text = after.asked.windows is not None
        on: On = "held back" if text and not windows.all() else "all"
        yield from measure_control(chosen[0], chosen[1], on, of)


def select(results: ModelResults | None, rows: Flags, windows: Flags) -> ExtractionResults | None:
    if results is None or results.test is None:
        return None
    return results.test.select(rows, windows)


def _drop_counts(test: Any) -> Any:
    """Without how often passages were seen: no figure of each count is wanted."""
    return replace(test, samples=replace(test.samples, counts=None))
