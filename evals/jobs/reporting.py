"""The whole evaluation: measures the base and each edited model in the same way, and compares."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import cached_property
from typing import Any

from evals.data import Samples, Tokens
from evals.data.held_back import HeldBack, hold_back
from evals.jobs.materials import Materials
from evals.jobs.measuring import ModelResults, list_tool_versions, measure_model, tokenize
from evals.measure.attacks.foreseeing import foresee
from evals.measure.attacks.result import Audit, Share, SharePair, measure_way
from evals.measure.attacks.sibling import check_sibling, describe_sibling, has_same_weights
from evals.measure.attacks.trying import add_for_trained, check_cut, compare_models
from evals.measure.differences import compare_heldout, compare_scores
from evals.measure.drops import choose_shared, find_limit
from evals.measure.memorization.measures import Flags
from evals.measure.memorization.protocol import ExtractionResults, report_extraction
from evals.measure.memorization.summary import list_rows
from evals.measure.verdicts import find_void
from evals.report.costs import TaskResult
from evals.report.figures import AllPassages, Finding, Findings, TwinFigures
from evals.report.headline import RELATIONS
from evals.report.report import make_report
from evals.run.console import SILENT, say, use_console
from evals.run.finding import check_tokens
from evals.run.lm_eval.running import SEEDS, Benchmarks, TaskRun
from evals.run.lm_eval.tasks import describe_task
from evals.run.models import check_precisions
from evals.run.statistics import SEED
from surgery.checkpoint.source import MANIFEST
from surgery.editing.loading import has_tokenizer, load_tokenizer
from surgery.errors import ManifestError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import Manifest, is_word
from surgery.record.report import (
    PassageRow,
    PassageScores,
    Provenance,
    Relation,
    Report,
    summarize_edit,
)
from surgery.untrusted import guard

MOST_PASSAGES = 12


@dataclass(frozen=True)
class Evaluation:
    """What was found, and lm-eval's own results for the base and every edit.

    `texts`: of the passages that the report shows, on request. The report never holds them.
    """

    found: Findings
    base_runs: dict[str, TaskRun]
    edited_runs: list[dict[str, TaskRun]]
    texts: list[dict[str, Any]] = field(default_factory=list)

    @cached_property
    def report(self) -> Report:
        return make_report(self.found)

    def as_rivals(self) -> Evaluation:
        """The same of edits of which one will be kept for its figures."""
        update = {"rivals": len(self.found.edits) - 1}
        edits = [edit.model_copy(update=update) for edit in self.found.edits]
        return replace(self, found=self.found.model_copy(update={"edits": edits}))

    def select(self, place: int, name: str) -> Evaluation:
        """The evaluation of one edit, for its model's folder, which may have another name now."""
        edit = self.found.edits[place]
        update = {"name": name, "provenance": {**edit.provenance, "model": name}}
        edit = edit.model_copy(update=update)
        settings = self.found.settings.model_copy(update={"models": (name,)})
        found = self.found.model_copy(update={"edits": [edit], "settings": settings})
        return Evaluation(found, self.base_runs, [self.edited_runs[place]])


def evaluate(
    edited: Sequence[ResolvedModel], base: ResolvedModel, materials: Materials
) -> Evaluation:
    """Measures the base once and then every edit, with one model in memory at a time.

    Raises `CheckpointError` or `UnsupportedError` for a model that cannot be loaded,
    `SamplesError` for unusable passages or texts, and `MeasurementError` if the models cannot be
    compared.
    """
    for model in edited:
        _check_summary(model)
    relations = [find_relation(model.manifest, base) for model in edited]
    for _ in range(relations.count("unrelated")):  # a mistake, most likely
        say(f"warning: {RELATIONS['unrelated']}")
    _check_sibling(materials, edited, base)
    for model in edited:
        check_cut(materials.request.attacks, materials.request.max, model)
    materials = _prepare_for_trained(materials, edited)
    request = materials.request
    never = [find_model(request.twin)] if request.twin else []
    check_tokens(base, [*edited, *never])
    check_precisions([base, *edited, *never], request)

    def hold(samples: Samples | None, windows: Tokens | None) -> HeldBack:
        manifests = [model.manifest for model in (base, *edited)]
        return hold_back(manifests, samples, windows, request.leave_out)

    def inspect(samples: Samples | None, windows: Tokens | None) -> None:
        left = hold(samples, windows).passages
        n = int(left[samples.trained_on].sum()) if samples else 0
        for line in foresee(request.limits, n):
            say(line)

    before = measure_model(base, materials, inspect=inspect)
    samples = before.samples
    left = hold(samples, before.windows)
    quick, twin = replace(materials, benchmarks=None), None
    if never:  # before the edits: it may not be comparable
        cut = tuple(sorted({block for model in edited for block in model.cut}))
        twin = measure_model(never[0], quick, before, cut=cut)
    results = [measure_model(model, materials, before) for model in edited]
    edits = []
    for model, after, relation in zip(edited, results, relations, strict=True):
        known: dict[str, Any] = {
            "relation": relation,
            "edit": model.manifest and summarize_edit(model.manifest),
            "void": _find_void(before, after, base, model),
        }
        edits.append(_compare_models(before, after, twin, left, materials, **known))
    found = _gather(materials, before, edits, edited, base)
    hashes = {row.hash for edit in edits for row in edit.passages}
    texts = decode_passages(before.test, before.tokenizer, hashes) if request.show_text else []
    runs = [after.runs for after in results]
    return Evaluation(found, before.runs, runs, texts)


def _check_summary(model: ResolvedModel) -> None:
    """Raises `ManifestError`, before hours of work, for a manifest that no report can show."""
    if model.manifest is None:
        return
    sizes = model.inventory.dimensions
    with guard(ManifestError, "cannot be shown in a report", model.folder / MANIFEST):
        summarize_edit(model.manifest)
    for edit in (model.manifest.edit, *model.manifest.history):
        if (edit.num_blocks, edit.num_heads) != (sizes.num_blocks, sizes.num_heads):
            raise ManifestError(
                "is of a model of another size",
                where=model.folder / MANIFEST,
                expected=f"{sizes.num_blocks} blocks of {sizes.num_heads} heads",
                got=f"{edit.num_blocks} of {edit.num_heads}",
            )


def check_inputs(source: ResolvedModel, materials: Materials) -> None:
    """Raises what `evaluate` would, of the inputs, after an edit of `source` that may take hours.

    Loads the tokenizer, and no model.
    """
    request, size = materials.request, source.inventory.dimensions
    never = [find_model(request.twin)] if request.twin else []
    check_tokens(source, never)
    check_precisions([source, *never], request)
    if materials.sibling is not None:
        check_sibling(materials.sibling, source)
    tokenizer = load_tokenizer(source.folder) if has_tokenizer(source.folder) else None
    with use_console(SILENT):  # the evaluation says it
        protocol, windows, _ = tokenize(materials, tokenizer)
    samples = protocol.samples if protocol else None
    if samples is not None:
        samples.check_fits(size.vocabulary, size.max_positions or None)
    hold_back([source.manifest], samples, windows, request.leave_out)


def _gather(
    materials: Materials,
    before: ModelResults,
    edits: list[Finding],
    edited: Sequence[ResolvedModel],
    base: ResolvedModel,
) -> Findings:
    request, samples = materials.request, before.samples
    return Findings(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        base=before.model,
        edits=edits,
        front=list(materials.front),
        map=materials.map,
        settings=request.to_record(
            [model.source.model for model in edited],
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
    )


def _check_sibling(
    materials: Materials, edited: Sequence[ResolvedModel], base: ResolvedModel
) -> None:
    """Raises `MeasurementError` for a sibling that does not fit; tells what to know about it."""
    if materials.sibling is not None:
        for model in edited:
            check_sibling(materials.sibling, model)
    line = describe_sibling(materials.sibling, base)
    if line is not None and materials.request.attacks:
        say(line)


def _prepare_for_trained(materials: Materials, edited: Sequence[ResolvedModel]) -> Materials:
    """Adds the attacks that a trained model must face, if one is there and attacks are wanted."""
    trained = any(model.manifest and model.manifest.is_trained for model in edited)
    if not (materials.request.attacks and trained):
        return materials
    attacks = add_for_trained(materials.request.attacks)
    request = materials.request.model_copy(update={"attack": attacks})
    return replace(materials, request=request)


def _compare_models(
    before: ModelResults,
    after: ModelResults,
    twin: ModelResults | None,
    left: HeldBack,
    materials: Materials,
    **known: Any,
) -> Finding:
    """All that was measured of an edit."""
    windows, passages = left.windows, left.passages
    tests = [one.test and one.test.select(passages, windows) for one in (before, after)]
    controls = [one.control and one.control.select(windows) for one in (before, after)]
    limits = materials.request.max_drop
    return Finding(
        **dict(after.model),
        **known,
        chose=left.chose,
        tasks=_compare_tasks(materials.benchmarks, before.runs, after.runs, limits),
        extraction=report_extraction(tests[1], tests[0]) if tests[1] else None,
        audit=_compare_attacks(before, after, passages, twin),
        heldout=compare_heldout(*controls),
        twin=_compare_twin(before, after, twin, passages) if twin else None,
        all_passages=_summarize_all(before, after, left),
        unlisted=_summarize(before, after, left.unlisted) if left.unlisted.any() else None,
        passages=choose_passages(*tests),
    )


def _find_void(
    before: ModelResults, after: ModelResults, base: ResolvedModel, model: ResolvedModel
) -> str | None:
    """Why no limit of an edit is decided; None if nothing speaks against it."""
    text = passages = None
    if before.control is not None and after.control is not None:
        text = float(before.control.nll.mean()), float(after.control.nll.mean())
    elif before.test is not None and after.test is not None:
        passages = float(before.test.test.nll.mean()), float(after.test.test.nll.mean())
    same = has_same_weights(base, model)
    return find_void(model.inventory.dimensions.vocabulary, text, passages, same=same)


def _compare_attacks(
    before: ModelResults, after: ModelResults, left: Flags, twin: ModelResults | None = None
) -> Audit | None:
    if not (after.attacked and before.audited and after.audited):
        return None
    counted = left[after.attacked.samples.trained_on]
    never = twin.audited if twin else None
    return compare_models(after.attacked, before.audited, after.audited, counted, never)


def _compare_twin(
    before: ModelResults, after: ModelResults, twin: ModelResults, left: Flags
) -> TwinFigures | None:
    """Recitation and loss on the passages on which no edit was chosen. None without passages."""
    found = [one.test.test for one in (before, after, twin) if one.test]
    if not found:
        return None
    tests = [test.select(left & test.samples.trained_on) for test in found]
    rates = [float(test.exact.mean()) for test in tests]
    losses = [float(test.nll.mean()) for test in tests]
    return TwinFigures(
        name=twin.model.name,
        recited=Share.of(tests[-1].exact),
        loss=losses[-1],
        toward_recited=measure_way(*rates),
        toward_loss=measure_way(*losses),
    )


def _summarize_all(before: ModelResults, after: ModelResults, left: HeldBack) -> AllPassages | None:
    """Everything that is listed, if searches used some of it."""
    if (left.passages | left.unlisted).all() and left.windows.all():
        return None
    found = _summarize(before, after, ~left.unlisted)
    heldout = compare_heldout(before.control, after.control)
    return found and found.model_copy(update={"heldout": heldout})


def _summarize(before: ModelResults, after: ModelResults, rows: Flags) -> AllPassages | None:
    """What is recited and recovered of some rows, bool [N]."""
    if before.test is None or after.test is None:
        return None
    audit = _compare_attacks(before, after, rows)
    counted = rows[before.test.test.samples.trained_on]
    base, edited = (Share.of(one.recited[counted]) for one in (before.test, after.test))
    return AllPassages(
        n=base.n,
        recited=SharePair(base=base, edited=edited),
        recovered=audit.recovered if audit else {},
        heldout=None,
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
        main, shared = choose_shared(name, base, edited)
        version = before[name]["version"]
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


def find_relation(manifest: Manifest | None, base: ResolvedModel) -> Relation:
    """Whether the base is a source of a manifest's edits, judged by its content."""
    if manifest is None:
        return "not recorded"
    if base.is_source_of(manifest):
        return "source"
    return "unrelated" if all(one.content for one in manifest.sources) else "not recorded"


def choose_passages(
    before: ExtractionResults | None, after: ExtractionResults | None
) -> list[PassageRow]:
    """At most `MOST_PASSAGES` rows: those that the base recites first, then by what is left."""
    if before is None or after is None:
        return []

    def rank(row: dict[str, Any]) -> tuple[bool, bool, int]:
        return not row["baseline"]["exact"], not row["exact"], row["first_divergence"] or 0

    found = sorted(list_rows(after.test, baseline=before.test), key=rank)
    return [_make_row(row) for row in found[:MOST_PASSAGES]]


def _make_row(row: Mapping[str, Any]) -> PassageRow:
    """What a report shows of a row: no id that could be text."""
    found = {key: row.get(key) for key in PassageRow.model_fields}
    found |= {"id": row["id"] if is_word(row["id"]) else None}
    found["baseline"] = {key: row["baseline"].get(key) for key in PassageScores.model_fields}
    return PassageRow.model_validate(found)


def decode_passages(
    test: ExtractionResults | None, tokenizer: Any, hashes: Container[str]
) -> list[dict[str, Any]]:
    """`id`, `hash`, `prefix` and `suffix` (as text) of the passages with these hashes."""
    if test is None or tokenizer is None:
        return []
    shown = ("id", "hash", "prefix", "suffix")
    found = (row for row in list_rows(test.test, tokenizer=tokenizer) if row["hash"] in hashes)
    return [{key: row[key] for key in shown} for row in found]
