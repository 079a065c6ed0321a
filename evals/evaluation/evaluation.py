"""The whole evaluation: measures the base and each edited model in the same way, and compares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

import numpy as np

from evals.attacks.audit import compare_models
from evals.attacks.names import HEALED, choose_attacks
from evals.attacks.result import Audit, Share, SharePair, measure_way
from evals.benchmarks.running import SEEDS, Benchmarks, TaskRun
from evals.benchmarks.scores import choose_metric
from evals.benchmarks.tasks import describe_task
from evals.evaluation.comparing import compare_scores
from evals.evaluation.conclusions import (
    choose_passages,
    compare_heldout,
    decode_passages,
    find_relation,
    summarize_edit,
)
from evals.evaluation.gates import find_limit
from evals.evaluation.headline import RELATIONS, write_sentences
from evals.evaluation.materials import Materials
from evals.evaluation.measuring import (
    HealedResults,
    ModelResults,
    list_tool_versions,
    measure_healed_base,
    measure_model,
)
from evals.evaluation.report import (
    AllPassages,
    EditReport,
    HealedBase,
    MeasuredModel,
    Provenance,
    Report,
    TaskResult,
    TwinFigures,
)
from evals.inputs import Progress, Say, say_nothing, show_nothing
from evals.memorization.comparison import report_extraction
from evals.memorization.measures import Flags
from evals.memorization.summary import ControlLoss
from evals.samples.held_back import HeldBack, hold_back
from evals.statistics import SEED
from surgery.errors import MeasurementError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import HealingRecord, Manifest


@dataclass(frozen=True)
class Evaluation:
    """The report, and lm-eval's own results for the base and every edit.

    `texts`: of the passages that the report shows, on request. The report never holds them.
    """

    report: Report
    base_runs: dict[str, TaskRun]
    edited_runs: list[dict[str, TaskRun]]
    texts: list[dict[str, Any]] = field(default_factory=list)

    def select(self, place: int) -> Evaluation:
        """The evaluation of one edit, for its model's folder."""
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
    """Measures the base once and then every edit, with one model in memory at a time.

    `say` reports decisions made for the user; `progress` makes a bar from a text and a total.
    Raises `CheckpointError` or `UnsupportedError` for a model that cannot be loaded,
    `SamplesError` for unusable passages or texts, and `MeasurementError` if the models cannot be
    compared.
    """
    for result in edited:
        if find_relation(result.manifest, base) == "unrelated":  # a mistake, most likely
            say(f"warning: {RELATIONS['unrelated']}")
    manifests = [one.manifest for one in edited if one.manifest is not None]
    materials = _attack_healed(materials, manifests)
    before = measure_model(base, materials, say=say, progress=progress)
    left = hold_back((result.manifest for result in edited), before.samples, before.windows)
    results = [measure_model(one, materials, before, say=say, progress=progress) for one in edited]
    twin = _measure_twin(materials, before, say, progress)
    healings = [manifest.edit.healing for manifest in manifests if manifest.edit.healing]
    bases = {
        key: measure_healed_base(base, record, materials, before, say=say, progress=progress)
        for key, record in {_get_schedule(one): one for one in healings}.items()
    }
    request, samples = materials.request, before.samples
    report = Report(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        base=_describe_model(base, before),
        edits=[
            _compare_models(base, before, result, after, materials, left, bases, twin)
            for result, after in zip(edited, results, strict=True)
        ],
        front=list(materials.front),
        map=materials.map,
        settings=request.to_record(
            [one.source.model for one in edited],
            base.source.model,
            samples=samples.source if samples else None,
            prefix_length=samples.prefix_length if samples else None,
            suffix_length=samples.suffix_length if samples else None,
            dtype=before.dtype,
        ),
        provenance=Provenance(
            seeds={"bootstrap": SEED, **SEEDS},
            versions=list_tool_versions(),
            baseline_from_cache=before.from_cache,
            samples_sha256=samples.sha256 if samples else None,
            controls=list(materials.controls),
        ),
        commands=[],
    )
    hashes = {row["hash"] for edit in report.edits for row in edit.passages}
    texts = decode_passages(before.test, before.tokenizer, hashes) if request.show_text else []
    runs = [after.runs for after in results]
    return Evaluation(write_sentences(report), before.runs, runs, texts)


def _attack_healed(materials: Materials, manifests: Sequence[Manifest]) -> Materials:
    """Adds the attacks that a healed model must face, if one is there and attacks are wanted."""
    if not materials.request.attacks or not any(manifest.is_healed for manifest in manifests):
        return materials
    attacks = choose_attacks((*materials.request.attacks, *HEALED))
    request = materials.request.model_copy(update={"attack": attacks})
    return replace(materials, request=request)


def _measure_twin(
    materials: Materials, before: ModelResults, say: Say, progress: Progress
) -> ModelResults | None:
    """What a model that never saw the passages makes of them. None if there is none."""
    if materials.request.twin is None:
        return None
    plain = replace(materials, benchmarks=None)
    return measure_model(
        find_model(materials.request.twin), plain, before, say=say, progress=progress
    )


def _get_schedule(record: HealingRecord) -> tuple[str, int, int, int]:
    """What decides how a model is healed: the text's hash, the steps, the seed, and the rank."""
    return record.sha256, record.steps, record.seed, record.rank


def _describe_model(model: ResolvedModel, found: ModelResults) -> MeasuredModel:
    return MeasuredModel(name=model.source.model, size=found.size, provenance=found.identity)


def _compare_models(
    base: ResolvedModel,
    before: ModelResults,
    edited: ResolvedModel,
    after: ModelResults,
    materials: Materials,
    left: HeldBack,
    bases: Mapping[Any, HealedResults],
    twin: ModelResults | None,
) -> EditReport:
    windows, passages = left.windows, left.passages
    tests = [one.test and one.test.select(passages, windows) for one in (before, after)]
    controls = [one.control and one.control.select(windows) for one in (before, after)]
    request, manifest = materials.request, edited.manifest
    return EditReport(
        **dict(_describe_model(edited, after)),
        relation=find_relation(manifest, base),
        verdict="",
        passed=None,
        chose=left.chose,
        tasks=_compare_tasks(materials.benchmarks, before.runs, after.runs, request.max_drop),
        extraction=report_extraction(tests[1], tests[0]) if tests[1] else None,
        audit=_compare_attacks(before, after, left.passages, twin),
        heldout=compare_heldout(*controls),
        healed_base=_compare_healed(manifest, bases, controls[1], left),
        twin=_compare_twin(before, after, twin, left.passages),
        all_passages=_summarize_all(before, after, left),
        gates=[],
        edit=summarize_edit(manifest) if manifest else None,
        passages=choose_passages(*tests),
    )


def _compare_attacks(
    before: ModelResults, after: ModelResults, left: Flags, twin: ModelResults | None = None
) -> Audit | None:
    if not (after.attacked and before.audited and after.audited):
        return None
    counted = left[after.attacked.samples.trained_on]
    never = twin.audited if twin else None
    return compare_models(after.attacked, before.audited, after.audited, counted, never)


def _compare_twin(
    before: ModelResults, after: ModelResults, twin: ModelResults | None, left: Flags
) -> TwinFigures | None:
    """Recitation and loss of the passages that chose no edit. None without a twin or passages."""
    if twin is None or not (before.test and after.test and twin.test):
        return None
    counted = left & before.test.test.samples.trained_on
    tests = [one.test.test.select(counted) for one in (before, after, twin) if one.test]
    rates = [float(test.exact.mean()) for test in tests]
    losses = [float(test.nll.mean()) for test in tests]
    return TwinFigures(
        name=twin.identity["model"],
        recited=Share.of(tests[-1].exact),
        loss=losses[-1],
        toward_recited=measure_way(*rates),
        toward_loss=measure_way(*losses),
    )


def _compare_healed(
    manifest: Manifest | None,
    bases: Mapping[Any, HealedResults],
    after: ControlLoss | None,
    left: HeldBack,
) -> HealedBase | None:
    """The edit against the base healed in the same way. None unless both were healed."""
    record = manifest.edit.healing if manifest else None
    test, control = bases[_get_schedule(record)] if record is not None else (None, None)
    if test is None and control is None:
        return None
    return HealedBase(
        recited=Share.of(test.select(left.passages, left.windows).recited) if test else None,
        heldout=compare_heldout(control and control.select(left.windows), after),
    )


def _summarize_all(before: ModelResults, after: ModelResults, left: HeldBack) -> AllPassages | None:
    if before.test is None or after.test is None or not (left.chose.passages or left.chose.windows):
        return None
    audit = _compare_attacks(before, after, np.ones_like(left.passages))
    base, edited = (Share.of(one.recited) for one in (before.test, after.test))
    return AllPassages(
        n=base.n,
        recited=SharePair(base=base, edited=edited),
        recovered=audit.recovered if audit else {},
        heldout=compare_heldout(before.control, after.control),
    )


def _compare_tasks(
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
            raise MeasurementError("has no metric in common for both models", where=f"task {name}")
        main, version = choose_metric(shared), before[name]["version"]
        gates = {main: find_limit(limits, name)}
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
