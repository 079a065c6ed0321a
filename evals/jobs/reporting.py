"""The whole measurement: measures the base, if there is one, and each model in the same way."""

from __future__ import annotations

import shlex
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from typing import Any

from evals.data import describe_samples, list_row_warnings
from evals.data.held_back import HeldBack, hold_back
from evals.data.samples import record_samples
from evals.jobs.asking import MeasureRequest
from evals.jobs.materials import Materials
from evals.jobs.measuring import (
    ModelResults,
    Questions,
    list_tool_versions,
    measure_model,
    tokenize,
)
from evals.jobs.naming import make_tables, name_figures
from evals.measure.attacks.foreseeing import foresee
from evals.measure.attacks.names import ATTACKERS, list_untried
from evals.measure.attacks.sibling import (
    check_sibling,
    describe_own_recital,
    describe_sibling,
    has_same_weights,
)
from evals.measure.attacks.trying import add_for_trained, check_cut, measure_attacks
from evals.measure.differences import compare_task
from evals.measure.memorization.measures import MEASURES, Flags
from evals.measure.memorization.protocol import ExtractionResults
from evals.measure.memorization.summary import (
    list_rows,
    measure_control,
    measure_membership,
    measure_recital,
)
from evals.run.console import SILENT, say, use_console
from evals.run.finding import check_tokens
from evals.run.lm_eval.running import SEEDS, TaskRun
from evals.run.lm_eval.scores import choose_metric
from evals.run.lm_eval.tasks import describe_task
from evals.run.models import check_precisions
from evals.run.statistics import SEED
from evals.table.limits import Asked, ask, ask_tasks, decide, find_void, settle
from evals.table.measured import measure_selectivity, measure_value
from evals.table.words import describe
from surgery.card.command import describe_training, name_texts, write_export_command
from surgery.card.facts import make_printable
from surgery.checkpoint.source import MANIFEST
from surgery.editing.loading import has_tokenizer, load_tokenizer
from surgery.errors import ManifestError
from surgery.hub.embedded import find_lab
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import Manifest, is_word
from surgery.record.measured import BASE, EDITED, MOST_LETTERS, TWIN, Limit, Measured, On, Unit
from surgery.record.report import (
    EditRecord,
    EditSummary,
    PassageRow,
    PassageScores,
    Provenance,
    Relation,
    Report,
    Summary,
    summarize_edit,
)
from surgery.selection import format_selection, variant_name
from surgery.untrusted import guard

MOST_PASSAGES = 12
_SIZES: dict[str, Unit] = {
    "parameters": "count",
    "weight_bytes": "bytes",
    "cache_bytes_per_token": "bytes",
}
_UNSAID = Summary(line="", recited="", attacked="", cost="")


@dataclass(frozen=True)
class Measurement:
    """A report, and what it leaves out.

    - `request`: as the report records it, with names for paths. Commands are made of it.
    - `results`: of every model by its name in the report. `left`: what the figures are of.
    - `texts`: of the passages that the report shows, on request.
    """

    report: Report
    request: MeasureRequest
    results: Mapping[str, ModelResults]
    left: HeldBack
    texts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def runs(self) -> list[tuple[str, str, dict[str, TaskRun]]]:
        """lm-eval's own results: the model's name in the report, as typed, and by task."""
        report = self.report
        named = [(BASE, report.base), *((edit.of, edit) for edit in report.edits)]
        return [(of, model.name, self.results[of].runs) for of, model in named if model]

    def as_rivals(self) -> Measurement:
        """The same of edits of which one will be kept for its figures."""
        report = self.report
        if len(report.edits) == 1:
            return self
        said = (
            f"this is one of {len(report.edits)} results that were compared on these passages: the "
            "one that was kept for its figures may look a little better than it is, so evaluate it "
            "on other passages if you have them"
        )
        edits = [one.model_copy(update={"warnings": [*one.warnings, said]}) for one in report.edits]
        return replace(self, report=report.model_copy(update={"edits": edits}))

    def select(self, place: int, name: str) -> Measurement:
        """The measurement of one edit, for its model's folder, which may have another name now."""
        report, edit = self.report, self.report.edits[place]
        others = {one.of for one in report.edits} - {edit.of}

        def take(rows: Sequence[Any]) -> list[Any]:
            of = {edit.of: EDITED}
            kept = (one for one in rows if one.of not in others)
            return [one.model_copy(update={"of": of.get(one.of, one.of)}) for one in kept]

        provenance = {**edit.provenance, "model": name}
        renamed = {"of": EDITED, "name": name, "provenance": provenance}
        found = report.model_copy(
            update={
                "edits": [edit.model_copy(update=renamed)],
                "figures": take(report.figures),
                "limits": take(report.limits),
                "settings": {**report.settings, "models": [name]},
            }
        )
        request = self.request.model_copy(update={"models": (name,)})
        found = found.model_copy(update={"commands": write_commands(found, request)})
        results = {key: one for key, one in self.results.items() if key not in others}
        results[EDITED] = results.pop(edit.of)
        return Measurement(found, request, results, self.left)


def measure(
    edited: Sequence[ResolvedModel], base: ResolvedModel | None, materials: Materials
) -> Measurement:
    """Measures the base once and then every edit, with one model in memory at a time.

    Raises `CheckpointError` or `UnsupportedError` for a model that cannot be loaded,
    `SamplesError` for unusable passages or texts, and `MeasurementError` if the models cannot be
    compared.
    """
    for model in edited:
        _check_summary(model)
    materials = _prepare(edited, base, materials)
    request, bases = materials.request, [base] if base else []
    never = [find_model(request.twin)] if request.twin else []
    check_precisions([*bases, *edited, *never], request)
    every = [model.manifest for model in (*bases, *edited)]

    def inspect(asked: Questions) -> Questions:
        left = hold_back(every, asked.samples, asked.windows, request.leave_out)
        return _announce(asked, left, edited, base, request)

    given: Any = {"inspect": inspect, "tries_control": False}  # only that of an edit counts
    before = first = measure_model(base, materials, **given) if base else None
    quick, twin, results = replace(materials, benchmarks=None), None, []
    if never:  # before the edits: it may not be comparable
        cut = tuple(sorted({block for model in edited for block in model.cut}))
        twin = measure_model(never[0], quick, first, before, cut=cut, tries_control=False)
    for model in edited:
        results.append(measure_model(model, materials, first, before, inspect=inspect))
        first = first or results[0]
    assert first is not None
    asked = first.asked
    _note_own_recital(materials, results[-1])
    left = hold_back(every, asked.samples, asked.windows, request.leave_out)
    found = _Found(materials, before, twin, left, len(bases))
    names = [EDITED] if len(edited) == 1 else [f"{EDITED}-{n}" for n in range(1, len(edited) + 1)]
    recorded = _record_request(materials, first, edited, base)  # which names no folder
    report = _make_report(found, dict(zip(names, results, strict=True)), edited, base, recorded)
    by_name = {BASE: before, TWIN: twin, **dict(zip(names, results, strict=True))}
    hashes = {row.hash for edit in report.edits for row in edit.passages}
    texts = []
    if request.command == "evaluate" and request.show_text:
        texts = decode_passages(first.test, asked.tokenizer, hashes)
    measured = {of: one for of, one in by_name.items() if one is not None}
    return Measurement(report, recorded, measured, left, texts)


def _prepare(
    edited: Sequence[ResolvedModel], base: ResolvedModel | None, materials: Materials
) -> Materials:
    """Says what is unusual about the models, checks that they go together, and adds the attacks
    that a trained model must face, if attacks are wanted."""
    request = materials.request
    for model in edited:
        if base is not None and find_relation(model.manifest, base) == "unrelated":
            say(
                "warning: the base is not a recorded source of the edited model, so differences "
                "may have other causes than the edit"
            )
        if materials.sibling is not None:
            check_sibling(materials.sibling, model)
        if base is not None:
            check_cut(request.attacks, request.max, model)
        needs_base = request.command == "evaluate"
        if base is not None and not needs_base and base.folder.samefile(model.folder):
            say(f"{base.source.model} is compared with itself; leave out `baseline`")
    first = base or edited[0]
    line = describe_sibling(materials.sibling, first)
    if line is not None and request.attacks:
        say(line)
    never = [find_model(request.twin)] if request.twin else []
    check_tokens(first, [*edited, *never])
    trained = any(model.manifest and model.manifest.is_trained for model in edited)
    if not (request.attacks and trained):
        return materials
    attacks = add_for_trained(request.attacks)
    return replace(materials, request=request.model_copy(update={"attack": attacks}))


def _announce(
    asked: Questions,
    left: HeldBack,
    edited: Sequence[ResolvedModel],
    base: ResolvedModel | None,
    request: MeasureRequest,
) -> Questions:
    """Says what cannot be tried, and what the passages cannot decide."""
    offset = 1 if base else 0
    if (plan := asked.attacked) is not None:
        asked = replace(asked, attacked=replace(plan, has_cut=any(one.cut for one in edited)))
        assert asked.attacked is not None
        for name, needs in asked.attacked.skipped.items():
            say(f"skipped: {name} needs {needs}")
    if base is None:
        if request.limits:
            say("without `baseline`, a limit can be missed, but it cannot be kept")
    elif asked.samples and not all(left.is_whole(at + offset) for at in range(len(edited))):
        n = int(left.passages[asked.samples.trained_on].sum())  # of taught ones, the count decides
        for line in foresee(request.limits, n):
            say(line)
    return asked


def _note_own_recital(materials: Materials, after: ModelResults) -> None:
    """Says what the model from which `graft` copied attention recites by itself."""
    made = after.audited.passages.get("graft") if after.audited else None
    if materials.sibling is not None and made is not None:
        say(describe_own_recital(materials.sibling, made.kept, len(made.recovered)))


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
    """Raises what `measure` would, of the inputs, after an edit of `source` that may take hours.

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


@dataclass(frozen=True)
class _Found:
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
            return "taught" if left.others is None else "taught here"
        if left.others is not None:
            return "not taught"
        return "all" if (left.passages | left.unlisted).all() else "held back"

    def measure(self, after: ModelResults, of: str, place: int) -> Iterator[Measured]:
        """All figures of an edit, and those of the base and the twin; the main ones first."""
        left, before, on = self.left, self.before, self.find_on(place)
        tests = (
            _select(before, left.passages, left.windows),
            _select(after, left.passages, left.windows),
        )
        if tests[1] is not None:
            base = tests[0].test if tests[0] else None
            yield from measure_recital(tests[1].test, base, of, on)
        if self.twin is not None:
            yield from self._measure_twin(on)
        yield from self._measure_attacks(after, of, on, left.passages)
        plan = after.asked.attacked
        if tests[1] is not None and not (plan and "membership" in {a.name for a in plan.tried}):
            for model, test in ((BASE, tests[0]), (of, tests[1])):
                yield from measure_membership(test.test, model) if test else ()
        yield from self._measure_costs(after, of)
        if tests[0] is not None and tests[1] is not None:
            yield from _measure_selectivity(tests[0], tests[1], of)
        for rows, some in self._list_sides():
            yield from self._measure_side(after, of, rows, some)
        for model, results in ((BASE, before), (of, after)):
            for name, unit in _SIZES.items() if results else ():
                assert results is not None
                yield measure_value(f"size.{name}", results.sizes[name], of=model, unit=unit)

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
        tests = [_select(one, rows, every) for one in (self.before, after)]
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
        test = _select(self.twin, self.left.passages, self.left.windows)
        if test is not None:
            shown = [one for one in MEASURES if one.name in ("exact_match", "suffix_nll")]
            some = _drop_counts(test.test.select(test.test.samples.trained_on))
            yield from measure_recital(some, None, TWIN, on, shown)

    def _measure_costs(self, after: ModelResults, of: str) -> Iterator[Measured]:
        """Benchmarks, by each of their metrics, and loss on held-out text."""
        benchmarks, before, limits = (
            self.materials.benchmarks, self.before, self.materials.request.max_drop
        )  # fmt: skip
        for name, run in after.runs.items() if benchmarks and before else ():
            assert benchmarks is not None
            assert before is not None
            base, edited = (benchmarks.scores(name, one) for one in (before.runs[name], run))
            most = next((one.limit for one in ask_tasks(limits, [name])), None)
            yield from compare_task(name, base, edited, most, of)[1]
        windows = self.left.windows
        controls = [one.control if one else None for one in (before, after)]
        chosen = [one.select(windows) if one else None for one in controls]
        text = after.asked.windows is not None
        on: On = "held back" if text and not windows.all() else "all"
        yield from measure_control(chosen[0], chosen[1], on, of)


def _select(results: ModelResults | None, rows: Flags, windows: Flags) -> ExtractionResults | None:
    if results is None or results.test is None:
        return None
    return results.test.select(rows, windows)


def _drop_counts(test: Any) -> Any:
    """Without how often passages were seen: no figure of each count is wanted."""
    return replace(test, samples=replace(test.samples, counts=None))


def _measure_selectivity(
    before: ExtractionResults, after: ExtractionResults, of: str
) -> Iterator[Measured]:
    if before.control is None or after.control is None:
        return
    members = after.test.samples.trained_on
    rise = (after.test.nll - before.test.nll)[members]
    yield measure_selectivity(rise, after.control.nll - before.control.nll, of)


def _make_report(
    found: _Found,
    results: Mapping[str, ModelResults],
    edited: Sequence[ResolvedModel],
    base: ResolvedModel | None,
    request: MeasureRequest,
) -> Report:
    """The figures, limits, and sentences. It holds no text of a passage.

    `request`: as the report records it.
    """
    materials, before = found.materials, found.before
    first = next(iter(results.values()))
    rows = dict[Any, Measured]()
    for place, (of, one) in enumerate(results.items()):
        for row in found.measure(one, of, place):
            rows.setdefault(row.key, row)
    figures, tested = list(rows.values()), first.asked.samples
    samples = record_samples(tested) if tested else None
    tried = first.asked.attacked.tried if first.asked.attacked else []
    tasks = _list_tasks(materials, first)
    names = name_figures(figures, samples, tried, tasks)
    front = materials.front
    if front is not None:
        names |= {name: one for name, one in front.names.items() if name not in names}
        figures += front.figures
    edits, limits = [], []
    for place, (of, one) in enumerate(results.items()):
        void = _find_void(before, one, base, edited[place])
        some = _decide(found, figures, of, one, place, void)
        limits += some
        edits.append(_record_edit(found, of, one, edited[place], base, place, some, void))
    known = {
        "on": found.find_on(0),
        "samples": samples,
        "control": len(first.asked.attacked.control) if first.asked.attacked else 0,
        "text": first.asked.attacked is None or first.asked.attacked.control_kind == "text",
        "all_taught": _is_taught_to_all(found, len(results)),
        "known": all(edit.chose["passages"] is not None for edit in edits),
    }
    sibling = materials.sibling
    report = Report(
        command=request.command,
        names=names,
        figures=figures,
        limits=limits,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        base=before.model if before else None,
        twin=found.twin.model if found.twin else None,
        edits=edits,
        samples=samples,
        attackers=list(ATTACKERS),
        tables=make_tables(names, figures, **known),
        front=list(front.points) if front else [],
        map=front.map if front else None,
        settings=request.model_dump(mode="json", exclude={*request.omits}),
        provenance=Provenance(
            seeds={"bootstrap": SEED, **SEEDS},
            versions=list_tool_versions(),
            baseline_from_cache=before.from_cache if before else False,
            controls=list(materials.controls),
            sibling=sibling.identified.model_dump(mode="json") if sibling else None,
        ),
        commands=[],
    )
    report = report.model_copy(update={"commands": write_commands(report, request)})
    return describe(report)


def _is_taught_to_all(found: _Found, number: int) -> bool:
    """Whether every edit was taught the passages of the table of taught ones."""
    left = found.left
    if left.others is None:
        return True
    n = int(left.others.sum())
    return all(left.count(place + found.offset).includes(n) for place in range(number))


def _decide(
    found: _Found,
    figures: Sequence[Measured],
    of: str,
    after: ModelResults,
    place: int,
    void: str | None,
) -> list[Limit]:
    """The limits of an edit. What was taught must keep the same limits as what was not. `void`: why
    none is decided, if so."""
    request, samples, others = found.materials.request, after.asked.samples, found.left.others
    asked: list[Asked] = ask(request.max, request.max_extraction)
    on: list[On | None] = [None]
    if others is not None and samples is not None:
        taught = int(others[samples.trained_on].sum())
        if found.left.count(place + found.offset).includes(taught):
            on.append("taught")
    limits = decide(figures, asked, of, on, unclear=void)
    return limits + decide(figures, ask_tasks(request.max_drop, after.runs), of, unclear=void)


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
    return find_void(model.inventory.dimensions.vocabulary, text, passages, same=same)


def _record_edit(
    found: _Found,
    of: str,
    after: ModelResults,
    model: ResolvedModel,
    base: ResolvedModel | None,
    place: int,
    limits: Sequence[Limit],
    void: str | None,
) -> EditRecord:
    chose, edit = found.left.count(place + found.offset), None
    if model.manifest is not None:
        edit = summarize_edit(model.manifest)
    state = settle(one.state for one in limits)
    if state is not None and edit is not None and edit.missed_alone:
        state = "missed"  # by the search that chose it, on the passages that it used
    plan = after.asked.attacked
    names = [one.name for one in plan.tried if after.audited] if plan else []
    scored = after.audited is not None and after.audited.passages.get("membership") is not None
    tried = [name for name in names if name != "membership" or scored]
    tests = [_select(one, found.left.passages, found.left.windows) for one in (found.before, after)]
    warnings = _list_warnings(found, after, chose.warning, void)
    return EditRecord(
        of=of,
        name=after.model.name,
        provenance=after.model.provenance,
        relation=find_relation(model.manifest, base) if base else "not recorded",
        verdict="",
        summary=_UNSAID,
        state=state,
        chose={"passages": chose.passages, "windows": chose.windows, "taught": chose.taught},
        not_tried=list_untried(tried) if plan else [],
        skipped=plan.skipped if plan else {},
        edit=edit,
        passages=choose_passages(tests[0], tests[1]),
        warnings=[make_printable(text)[:MOST_LETTERS] for text in warnings],
    )


def _list_warnings(
    found: _Found, after: ModelResults, choice: str | None, void: str | None
) -> list[str]:
    """What to know before you rely on a figure."""
    said = ["memorization was not measured; to measure it, give passages with --samples"]
    if after.test is not None:
        said = list_row_warnings(describe_samples(after.test.test.samples))
        areas = measure_membership(after.test.test, EDITED)
        said += [
            f"membership score {one.name.removeprefix('membership.')}: AUC {one.value:.2f} is far "
            "below 0.5: the model avoids members so clearly that this reveals them, too "
            "(over-correction)"
            for one in areas
            if one.details["overcorrected"]
        ]
    models = [one.model for one in (found.before, after) if one]
    tokenizers = {one.provenance.get("tokenizer_sha256") for one in models}
    if found.materials.request.limit is not None:
        said.append(
            "only a part of each benchmark was measured (--limit), so the model card leaves these "
            "figures out; evaluate without --limit before you publish"
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


def _record_request(
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


def write_commands(report: Report, request: MeasureRequest) -> list[str]:
    """The commands that make the edits and their report again."""
    made = [command for edit in report.edits for command in _write_export_command(edit)]
    return [*dict.fromkeys(made), request.to_command()]


def _write_export_command(found: EditRecord) -> list[str]:
    """The command that made the edit, in the folder that was measured; empty if no single one did.

    Of a Hub id, the folder has the last part.
    """
    edit: EditSummary | None = found.edit
    if edit is None or edit.variant == "mixed" or edit.earlier_edits:
        return []
    erasing, drop_attn, variant = edit.erasing, edit.drop_attn, edit.variant
    if not edit.parts and erasing is not None:
        teacher = tuple(erasing.teacher)
        drop_attn, variant = format_selection(teacher, edit.num_heads or 0), variant_name(teacher)
        if variant == "mixed":
            return []
    plan = "plan.json" if edit.taught_by_choice else None  # of the search: only it says which
    text = edit.calibration or (erasing and erasing.calibration)
    taught, healed = (one.model_dump() if one else None for one in (erasing, edit.healing))
    lab = find_lab(edit.source) or "lab:pythia"  # all have the same text
    words = write_export_command(
        edit.source,
        revision=edit.commit,
        drop_attn=None if plan else drop_attn,
        plan=plan,
        variant=None if plan else variant,
        calibration=name_texts([source.name for source in (text.sources if text else ())]),
        **describe_training(taught, healed, lab),
        layout=edit.layout,
        family=edit.family,
        max_shard_size=edit.max_shard_size,
        output=found.name.rpartition("/")[2],
        cut=bool(edit.parts),
    )
    return [shlex.join(words)]


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


def decode_passages(
    test: ExtractionResults | None, tokenizer: Any, hashes: Container[str]
) -> list[dict[str, Any]]:
    """`id`, `hash`, `prefix` and `suffix` (as text) of the passages with these hashes."""
    if test is None or tokenizer is None:
        return []
    shown = ("id", "hash", "prefix", "suffix")
    found = (row for row in list_rows(test.test, tokenizer=tokenizer) if row["hash"] in hashes)
    return [{key: row[key] for key in shown} for row in found]
