"""The whole evaluation: base and edited model, measured in the same way one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from evals.attacks.audit import compare_models
from evals.attacks.result import Audit, Share, Shares
from evals.benchmarks.running import SEEDS, Benchmarks, TaskRun
from evals.benchmarks.scores import choose_metric
from evals.benchmarks.tasks import describe_task
from evals.evaluation.comparing import compare_scores
from evals.evaluation.conclusions import edit_of, heldout_of, passages_of, relation_of, texts_of
from evals.evaluation.gates import limit_of
from evals.evaluation.headline import RELATIONS, write_sentences
from evals.evaluation.materials import Materials
from evals.evaluation.measuring import ModelResults, measure_model, tool_versions
from evals.evaluation.report import (
    AllPassages,
    EditReport,
    MeasuredModel,
    Provenance,
    Report,
    TaskResult,
)
from evals.inputs import Progress, Say, say_nothing, show_nothing
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
    """The report, and lm-eval's own results of the base and of every edit.

    `texts`: those of the passages that the report shows, if they were asked for; never in it.
    """

    report: Report
    base_runs: dict[str, TaskRun]
    edited_runs: list[dict[str, TaskRun]]
    texts: list[dict[str, Any]] = field(default_factory=list)

    def alone(self, place: int) -> Evaluation:
        """The evaluation of one of the edits, for the folder of its model."""
        edit = self.report.edits[place]
        update = {
            "edits": [edit],
            "settings": self.report.settings.model_copy(update={"models": (edit.name,)}),
        }
        report = write_sentences(self.report.model_copy(update=update))
        return Evaluation(report, self.base_runs, [self.edited_runs[place]])


def evaluate(
    edited: Sequence[ResolvedModel],
    base: ResolvedModel,
    materials: Materials,
    *,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
) -> Evaluation:
    """Measures the base once, then every edit of it, one model in memory at a time; compares.

    `say` hears what was decided for the user; `progress` makes a bar for a text and a total.
    Raises `CheckpointError` or `UnsupportedError` for a model that cannot be loaded,
    `SamplesError` for passages or texts that cannot be used, and `MeasurementError` where the
    models cannot be compared.
    """
    for result in edited:
        if relation_of(result.manifest, base) == "unrelated":  # a mistake, most likely
            say(f"warning: {RELATIONS['unrelated']}")
    before = measure_model(base, materials, say=say, progress=progress)
    left = held_back((result.manifest for result in edited), before.samples, before.windows)
    results = [measure_model(one, materials, before, say=say, progress=progress) for one in edited]
    request, samples = materials.request, before.samples
    report = Report(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        base=_model(base, before),
        edits=[
            _compare_models(base, before, result, after, materials, left)
            for result, after in zip(edited, results, strict=True)
        ],
        front=list(materials.front),
        settings=request.resolved(
            [one.source.model for one in edited],
            base.source.model,
            samples=samples.source if samples else None,
            prefix_length=samples.prefix_length if samples else None,
            suffix_length=samples.suffix_length if samples else None,
            dtype=before.dtype,
        ),
        provenance=Provenance(
            seeds={"bootstrap": SEED, **SEEDS},
            versions=tool_versions(),
            baseline_from_cache=before.from_cache,
            samples_sha256=samples.sha256 if samples else None,
            controls=list(materials.controls),
        ),
        commands=[],
    )
    hashes = {row["hash"] for edit in report.edits for row in edit.passages}
    texts = texts_of(before.test, before.tokenizer, hashes) if request.show_text else []
    runs = [after.runs for after in results]
    return Evaluation(write_sentences(report), before.runs, runs, texts)


def _model(model: ResolvedModel, found: ModelResults) -> MeasuredModel:
    return MeasuredModel(name=model.source.model, size=found.size, provenance=found.identity)


def _compare_models(
    base: ResolvedModel,
    before: ModelResults,
    edited: ResolvedModel,
    after: ModelResults,
    materials: Materials,
    left: HeldBack,
) -> EditReport:
    tests = [_left_of(one.test, left) for one in (before, after)]
    controls = [_text_of(one.control, left) for one in (before, after)]
    request, manifest = materials.request, edited.manifest
    return EditReport(
        **dict(_model(edited, after)),
        relation=relation_of(manifest, base),
        verdict="",
        passed=None,
        chose=left.chose,
        tasks=_tasks(materials.benchmarks, before.runs, after.runs, request.max_drop),
        extraction=report_extraction(tests[1], tests[0]) if tests[1] else None,
        audit=_audit(before, after, left.passages),
        heldout=heldout_of(*controls),
        all_passages=_of_all(before, after, left),
        gates=[],
        edit=edit_of(manifest) if manifest else None,
        passages=passages_of(*tests),
    )


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
    limits: Mapping[str, float],
) -> dict[str, TaskResult]:
    found: dict[str, TaskResult] = {}
    if benchmarks is None:
        return found
    for name in before:
        base, edited = benchmarks.scores(name, before[name]), benchmarks.scores(name, after[name])
        shared = {key: score for key, score in base.items() if key in edited}
        if not shared:
            raise MeasurementError("has no metric that both models give", where=f"task {name}")
        main, version = choose_metric(shared), before[name]["version"]
        gates = {main: limit_of(limits, name)}
        metrics = {key: compare_scores(shared[key], edited[key], gates.get(key)) for key in shared}
        found[name] = TaskResult(
            **metrics[main].model_dump(),
            metric=main,
            metrics=metrics,
            description=describe_task(name, before[name]["config"]),
            num_fewshot=before[name]["n-shot"],
            batch_size=before[name]["batch_size"],
            version=None if version is None else str(version),
        )
    return found
