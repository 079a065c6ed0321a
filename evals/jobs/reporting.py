"""Makes the report of a measurement: its figures, their names, limits, and sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any

from evals.data import describe_samples, list_row_warnings
from evals.data.samples import record_samples
from evals.jobs.asking import MeasureRequest
from evals.jobs.figures import Compared, select
from evals.jobs.materials import Materials
from evals.jobs.measuring import (
    ModelResults,
)
from evals.measure.attacks.names import ATTACKERS, list_untried
from evals.measure.attacks.sibling import has_same_weights
from evals.measure.memorization.membership import SCORE
from evals.measure.memorization.protocol import ExtractionResults
from evals.measure.memorization.summary import list_rows
from evals.measure.naming import make_tables, name_figures
from evals.run.groups import list_tool_versions
from evals.run.lm_eval.running import SEEDS
from evals.run.lm_eval.scores import choose_metric
from evals.run.lm_eval.tasks import describe_task
from evals.run.statistics import SEED
from evals.table.limits import Asked, ask, ask_form, ask_tasks, decide, find_void, settle
from evals.table.words import describe
from surgery.card.facts import make_printable
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import History, Manifest, is_word
from surgery.record.measured import MOST_LETTERS, Limit, Measured, On
from surgery.record.report import (
    EditRecord,
    PassageRow,
    PassageScores,
    Provenance,
    Relation,
    Report,
)

MOST_PASSAGES = 12
_AREAS = {SCORE}


def make_report(
    found: Compared,
    results: Mapping[str, ModelResults],
    edited: Sequence[ResolvedModel],
    base: ResolvedModel | None,
    request: MeasureRequest,
) -> Report:
    """The figures, limits, and sentences. It holds no text of a passage. `request`: as recorded."""
    materials, before = found.materials, found.before
    first = next(iter(results.values()))
    rows = dict[Any, Measured]()
    for place, (of, one) in enumerate(results.items()):
        for row in found.measure(one, of, place):
            rows.setdefault(row.key, row)
    figures, tested = list(rows.values()), first.asked.samples
    samples = record_samples(tested) if tested else None
    names = name_figures(figures, samples, _list_tasks(materials, first))
    front, every = materials.front, names
    if front is not None:
        every = {**names, **{name: one for name, one in front.names.items() if name not in names}}
        figures += front.figures
    edits, limits = [], []
    for place, (of, one) in enumerate(results.items()):
        void = _find_void(before, one, base, edited[place])
        some = _decide(found, figures, of, one, place, void)
        limits += some
        areas = [row for row in figures if row.of == of and row.name in _AREAS]
        edits.append(_record_edit(found, of, one, edited[place], base, place, some, areas, void))
    known = _describe_passages(found, first, edits)
    sibling = materials.sibling
    report = Report(
        command=request.command,
        names=every,
        figures=figures,
        limits=limits,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        base=before.model if before else None,
        twin=found.twin.model if found.twin else None,
        edits=edits,
        samples=samples,
        attackers=list(ATTACKERS),
        tables=make_tables(names, figures, samples=samples, **known),
        front=list(front.points) if front else [],
        settings=request.to_settings(),
        provenance=Provenance(
            seeds={"bootstrap": SEED, **SEEDS},
            versions=list_tool_versions(),
            baseline_from_cache=before.from_cache if before else False,
            controls=list(materials.controls),
            sibling=sibling.identified.model_dump(mode="json") if sibling else None,
        ),
    )
    return describe(report)


def _describe_passages(
    found: Compared, first: ModelResults, edits: Sequence[EditRecord]
) -> dict[str, Any]:
    """What the texts of tables say of the passages."""
    plan, samples = first.asked.attacked, first.asked.samples
    return {
        "on": found.find_on(0),
        "control": len(plan.control) if plan else 0,
        "text": plan is None or plan.control_kind == "text",
        "all_taught": samples and all(found.is_taught(at, samples) for at in range(len(edits))),
        "known": all(edit.chose["passages"] is not None for edit in edits),
    }


def _decide(
    found: Compared,
    figures: Sequence[Measured],
    of: str,
    after: ModelResults,
    place: int,
    void: str | None,
) -> list[Limit]:
    """The limits of an edit. What was taught must keep the same limits as what was not. `void`: why
    none is decided, if so."""
    request, samples = found.materials.request, after.asked.samples
    asked: list[Asked] = ask(request.attacks.max, request.extraction.max_extraction)
    on: list[On | None] = [None]
    if samples is not None and found.is_taught(place, samples):
        on.append("taught")
    limits = decide(figures, asked, of, on, unclear=void)
    costs = ask_tasks(request.benchmarks.max_drop, after.runs)
    costs += ask_form(request.extraction.max_form)
    return limits + decide(figures, costs, of, unclear=void)


def _find_void(
    before: ModelResults | None,
    after: ModelResults,
    base: ResolvedModel | None,
    model: ResolvedModel,
) -> str | None:
    """Why no limit of an edit is decided; None if nothing speaks against it."""
    if before is None or base is None:
        return None  # each limit says so itself
    text = passages = None
    if before.control is not None and after.control is not None:
        text = float(before.control.nll.mean()), float(after.control.nll.mean())
    elif before.test is not None and after.test is not None:
        passages = float(before.test.test.nll.mean()), float(after.test.test.nll.mean())
    same = has_same_weights(base, model)
    return find_void(model.dimensions.vocabulary, text, passages, same=same)


def _record_edit(
    found: Compared,
    of: str,
    after: ModelResults,
    model: ResolvedModel,
    base: ResolvedModel | None,
    place: int,
    limits: Sequence[Limit],
    areas: Sequence[Measured],
    void: str | None,
) -> EditRecord:
    """`areas`: how well each membership score tells members from others, where it was measured."""
    chose, edit = found.left.count(place + found.offset), None
    if model.manifest is not None:
        edit = History(history=model.manifest.history)
    state = settle(limit.state for limit in limits)
    if state is not None and edit is not None and edit.missed_alone:
        state = "missed"  # by the search that chose it, on the passages that it used
    plan = after.asked.attacked
    tried = {one.name for one in plan.tried if after.audited} if plan else set()
    tried = tried - {"membership"} | ({"membership"} if areas else set())
    tests = [select(one, found.left.passages, found.left.windows) for one in (found.before, after)]
    warnings = _list_warnings(found, after, areas, chose.warning, void)
    return EditRecord(
        of=of,
        name=after.model.name,
        provenance=after.model.provenance,
        relation=find_relation(model.manifest, base) if base else "not recorded",
        line="",
        verdict="",
        state=state,
        chose={"passages": chose.passages, "windows": chose.windows, "taught": chose.taught},
        not_tried=list_untried(tried) if plan else [],
        skipped=plan.skipped if plan else {},
        edit=edit,
        passages=choose_passages(tests[0], tests[1]),
        warnings=[make_printable(text)[:MOST_LETTERS] for text in warnings],
    )


def _list_warnings(
    found: Compared,
    after: ModelResults,
    areas: Sequence[Measured],
    choice: str | None,
    void: str | None,
) -> list[str]:
    """What to know before you rely on a figure."""
    said = ["memorization was not measured; to measure it, give passages with --samples"]
    if after.test is not None:
        said = list_row_warnings(describe_samples(after.test.test.samples))
        said += [
            f"membership score {area.name.removeprefix('membership.')}: AUC {area.value:.2f} is "
            "far below 0.5: the model avoids members so clearly that this reveals them, too "
            "(over-correction)"
            for area in areas
            if area.details["overcorrected"]
        ]
    models = [one.model for one in (found.before, after) if one]
    tokenizers = {model.provenance.get("tokenizer_sha256") for model in models}
    if found.materials.request.benchmarks.limit is not None:
        said.append(
            "only a part of each benchmark was measured (limit), so the model card leaves these "
            "figures out; evaluate without a limit before you publish"
        )
    if unknown := found.list_unknown():
        said.append(
            f"a search chose an edit here on other documents of {', '.join(unknown)}, or on more "
            "or fewer; the two sets may overlap, and then the figures flatter that edit"
        )
    said += filter(None, (choice, void))
    if len(tokenizers) > 1:
        said.append("the base and the edited model have different tokenizers")
    return said


def _list_tasks(materials: Materials, first: ModelResults) -> list[dict[str, Any]]:
    """How each task was asked."""
    found = []
    for name, run in first.runs.items():
        assert materials.benchmarks is not None
        scores = materials.benchmarks.scores(name, run)
        version = run["version"]
        found.append(
            {
                "task": name,
                "metric": choose_metric(scores),
                "higher_is_better": {key: one.higher_is_better for key, one in scores.items()},
                "description": describe_task(name, run["config"]),
                "num_fewshot": run["n-shot"],
                "batch_size": run["batch_size"],
                "version": None if version is None else str(version),
            }
        )
    return found


def record_request(
    materials: Materials,
    first: ModelResults,
    edited: Sequence[ResolvedModel],
    base: ResolvedModel | None,
) -> MeasureRequest:
    request, samples = materials.request, first.asked.samples
    recorded: MeasureRequest = request.to_record(
        [model.source.model for model in edited],
        base.source.model if base else None,
        samples=samples.source if samples else None,
        prefix_length=samples.prefix_length if samples else None,
        suffix_length=samples.suffix_length if samples else None,
        dtype=first.asked.dtype,
    )
    return recorded


def find_relation(manifest: Manifest | None, base: ResolvedModel) -> Relation:
    """Whether the base is a source of a manifest's edits, judged by its content."""
    if manifest is None:
        return "not recorded"
    if base.is_source_of(manifest):
        return "source"
    return "unrelated" if all(source.content for source in manifest.sources) else "not recorded"


def choose_passages(
    before: ExtractionResults | None, after: ExtractionResults | None
) -> list[PassageRow]:
    """At most `MOST_PASSAGES` rows: those that the base recites first, then by what is left."""
    if after is None:
        return []

    def rank(row: dict[str, Any]) -> tuple[bool, bool, int]:
        recited = row["baseline"]["exact"] if before else False
        return not recited, not row["exact"], row["first_divergence"] or 0

    base = before.test if before else None
    found = sorted(list_rows(after.test, baseline=base), key=rank)
    return [_make_row(row) for row in found[:MOST_PASSAGES]]


def _make_row(row: Mapping[str, Any]) -> PassageRow:
    """What a report shows of a row: no id that could be text."""
    found = {key: row.get(key) for key in PassageRow.model_fields}
    found |= {"id": row["id"] if is_word(row["id"]) else None}
    if found["baseline"] is not None:
        found["baseline"] = {key: row["baseline"].get(key) for key in PassageScores.model_fields}
    return PassageRow.model_validate(found)
