"""The whole evaluation: base and edited model, measured in the same way one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import datetime, timezone

import numpy as np

from evals.attacks.audit import compare_models
from evals.attacks.result import Audit, Share, Shares
from evals.benchmarks.running import SEEDS, Benchmarks, TaskRun
from evals.benchmarks.scores import main_metric
from evals.benchmarks.tasks import asked
from evals.evaluation.comparing import compare_scores
from evals.evaluation.conclusions import edit_of, heldout_of, passages_of, relation_of
from evals.evaluation.gates import DropLimit, limit_of
from evals.evaluation.headline import RELATIONS, with_sentences
from evals.evaluation.measuring import ModelResults, measure_model, tool_versions
from evals.evaluation.plan import Plan, Progress
from evals.evaluation.report import (
    AllPassages,
    Names,
    Provenance,
    Report,
    Sizes,
    Task,
)
from evals.memorization.comparison import Measured
from evals.memorization.comparison import report as report_extraction
from evals.memorization.measures import Flags
from evals.memorization.summary import Control
from evals.samples.held_back import HeldBack, held_back
from evals.statistics import SEED
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel


@dataclass(frozen=True)
class Evaluation:
    """The report, and lm-eval's own results of both models."""

    report: Report
    base_runs: dict[str, TaskRun]
    edited_runs: dict[str, TaskRun]


def evaluate(
    edited: Sequence[ResolvedModel],
    base: ResolvedModel,
    plan: Plan,
    *,
    say: Callable[[str], None] = lambda message: None,
    progress: Progress = lambda text, total: nullcontext(lambda done: None),
) -> list[Evaluation]:
    """Measures the base once, then every edit of it, one model in memory at a time; compares.

    `say` is told what was decided on the user's behalf; `progress` makes a bar for a text and a
    total. Raises `CheckpointError` or `UnsupportedError` for a model that cannot be loaded,
    `SamplesError` for passages or texts that cannot be used, and `MeasurementError` where the two
    cannot be compared.
    """
    for result in edited:
        if relation_of(result.manifest, base) == "unrelated":  # a mistake, most likely
            say(f"warning: {RELATIONS['unrelated']}")
    before = measure_model(base, plan, say=say, progress=progress)
    left = held_back((result.manifest for result in edited), before.samples, before.windows)
    return [
        _compared(
            base,
            before,
            result,
            measure_model(result, plan, before, say=say, progress=progress),
            plan,
            left,
        )
        for result in edited
    ]


def _compared(
    source: ResolvedModel,
    before: ModelResults,
    result: ResolvedModel,
    after: ModelResults,
    plan: Plan,
    left: HeldBack,
) -> Evaluation:
    samples = before.samples
    tests = [_left_of(one.test, left) for one in (before, after)]
    controls = [_text_of(one.control, left) for one in (before, after)]
    figures = Report(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        verdict="",
        passed=None,
        models=Names(base=source.source.model, edited=result.source.model),
        relation=relation_of(result.manifest, source),
        chose=left.chose,
        tasks=_tasks(plan.benchmarks, before.runs, after.runs, plan.limits),
        extraction=report_extraction(tests[1], tests[0]) if tests[1] else None,
        audit=_audit(before, after, left.passages),
        heldout=heldout_of(*controls),
        all_passages=_of_all(before, after, left),
        gates=[],
        edit=edit_of(result.manifest) if result.manifest else None,
        sizes=Sizes(base=before.size, edited=after.size),
        speed=plan.speed,
        trade_off=None,
        passages=passages_of(tests[0], tests[1], before.tokenizer if plan.show_text else None),
        settings=plan.settings(samples, before.dtype),
        provenance=Provenance(
            base=before.identity,
            edited=after.identity,
            seeds={"bootstrap": SEED, **SEEDS},
            versions=tool_versions(),
            baseline_from_cache=before.from_cache,
            samples_sha256=samples.sha256 if samples else None,
        ),
        commands=[],
    )
    report = with_sentences(figures, plan.front)
    passed = all(gate.ok for gate in report.gates) if report.gates else None
    report = report.model_copy(update={"passed": passed})
    return Evaluation(report, before.runs, after.runs)


def _left_of(test: Measured | None, left: HeldBack) -> Measured | None:
    if test is None:
        return None
    control = _text_of(test.control, left)
    return replace(test, test=test.test.select(left.passages), control=control)


def _text_of(control: Control | None, left: HeldBack) -> Control | None:
    """The windows that are left; passages that were not trained on chose nothing."""
    if control is None or control.kind != "text":
        return control
    return control.select(left.windows)


def _audit(before: ModelResults, after: ModelResults, left: Flags) -> Audit | None:
    if not (after.attacked and before.audited and after.audited):
        return None
    counted = left[after.attacked.samples.trained_on]
    return compare_models(after.attacked, before.audited, after.audited, counted)


def _of_all(before: ModelResults, after: ModelResults, left: HeldBack) -> AllPassages | None:
    if before.test is None or after.test is None or not (left.chose.passages or left.chose.windows):
        return None
    audit = _audit(before, after, np.ones_like(left.passages))
    recited = [one.test.exact[one.test.samples.trained_on] for one in (before.test, after.test)]
    base, edited = map(Share.of, recited)
    return AllPassages(
        n=base.n,
        recited=Shares(base=base, edited=edited),
        recovered=audit.recovered if audit else {},
        heldout=heldout_of(before.control, after.control),
    )


def _tasks(
    benchmarks: Benchmarks | None,
    before: dict[str, TaskRun],
    after: dict[str, TaskRun],
    limits: Sequence[DropLimit],
) -> dict[str, Task]:
    found: dict[str, Task] = {}
    if benchmarks is None:
        return found
    for name in before:
        base, edited = benchmarks.scores(name, before[name]), benchmarks.scores(name, after[name])
        shared = {key: score for key, score in base.items() if key in edited}
        if not shared:
            raise MeasurementError("has no metric that both models give", where=f"task {name}")
        main, version = main_metric(shared), before[name]["version"]
        gates = {main: limit_of(limits, name)}
        metrics = {key: compare_scores(shared[key], edited[key], gates.get(key)) for key in shared}
        found[name] = Task(
            **metrics[main].model_dump(),
            metric=main,
            metrics=metrics,
            description=asked(name, before[name]["config"]),
            num_fewshot=before[name]["n-shot"],
            batch_size=before[name]["batch_size"],
            version=None if version is None else str(version),
        )
    return found
