"""The whole measurement: measures the base, if there is one, and each model in the same way."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from evals.data.held_back import HeldBack, halve_tested, hold_back
from evals.jobs.asking import MeasureRequest
from evals.jobs.figures import Compared
from evals.jobs.materials import Materials
from evals.jobs.measuring import (
    ModelResults,
    Questions,
    measure_model,
    tokenize,
)
from evals.jobs.reporting import find_relation, make_report, record_request
from evals.measure.attacks.foreseeing import foresee
from evals.measure.attacks.sibling import (
    check_sibling,
    describe_own_recital,
    describe_sibling,
)
from evals.measure.attacks.trying import add_for_trained, check_cut
from evals.measure.memorization.protocol import ExtractionResults
from evals.measure.memorization.summary import list_rows
from evals.run.console import SILENT, say, use_console
from evals.run.finding import check_tokens
from evals.run.lm_eval.running import TaskRun
from evals.run.models import check_precisions
from surgery.checkpoint import MANIFEST
from surgery.errors import ManifestError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.loading import has_tokenizer, load_tokenizer
from surgery.record.measured import BASE, EDITED, TWIN
from surgery.record.report import Report


@dataclass(frozen=True)
class Measurement:
    """A report, and what it leaves out.

    - `request`: as the report records it. `results`: of every model by its name in the report.
    - `left`: what the figures are of.
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

    def with_choice(self, choosing: Measurement) -> Measurement:
        """The same of results of which one is kept for its figures on the passages of `choosing`:
        each says so."""
        (one, other), every = (
            (found.left.passages & ~found.left.unlisted for found in (choosing, self)),
            len(self.report.edits),
        )
        said = (
            f"{int((one & ~other).sum()):,} passages chose one of {every} results, and the other "
            f"{int((other & ~one).sum()):,} judge it: the verdict rests on these; text and "
            "benchmarks were the same for both"
        )
        edits = [
            edit.model_copy(update={"warnings": [*edit.warnings, said]})
            for edit in self.report.edits
        ]
        return replace(self, report=self.report.model_copy(update={"edits": edits}))

    def select(self, place: int, name: str) -> Measurement:
        """The measurement of one edit, for its model's folder, which may have another name now."""
        report, edit = self.report, self.report.edits[place]
        others = {one.of for one in report.edits} - {edit.of}

        def take(rows: Sequence[Any]) -> list[Any]:
            of = {edit.of: EDITED}
            kept = (row for row in rows if row.of not in others)
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
        results = {key: one for key, one in self.results.items() if key not in others}
        results[EDITED] = results.pop(edit.of)
        return Measurement(found, request, results, self.left)


@dataclass(frozen=True)
class OpenedMeasurement:
    """What is measured of which models, all read and checked.

    - `base`: what the models are compared with. `edited`: the models; none if they are still to be
      made. `twin`: a model that never saw the passages.
    - `asked`: what each model is asked. `left`: what the figures are of. `choosing`: what others
      are of, that choose one of the models.
    """

    materials: Materials
    base: ResolvedModel | None
    edited: Sequence[ResolvedModel]
    twin: ResolvedModel | None
    asked: Questions
    left: HeldBack
    choosing: HeldBack | None = None

    def run(self) -> Measurement:
        """Measures, and reports on what the figures are of. Raises as `measure`."""
        return self.measure()(self.left)

    def measure(self) -> Callable[[HeldBack], Measurement]:
        """Measures the base once and then every model, with one in memory at a time. Returns what
        reports on rows.

        Raises `CheckpointError` or `UnsupportedError` for a model that cannot be loaded, and
        `MeasurementError` if the models cannot be compared.
        """
        materials, base, edited = self.materials, self.base, self.edited
        request, asked = materials.request, self.asked
        before = twin = None
        if base is not None:  # what it is asked without a cut counts only for an edit
            before = measure_model(base, materials, asked, tries_control=False)
            asked = before.asked
        if self.twin is not None:  # before the edits: it may not be comparable
            cut = tuple(sorted({block for model in edited for block in model.cut}))
            quick = replace(materials, benchmarks=None)
            twin = measure_model(self.twin, quick, asked, before, cut=cut, tries_control=False)
            asked = twin.asked
        results = list[ModelResults]()
        for model in edited:
            results.append(measure_model(model, materials, asked, before))
            asked = results[-1].asked
        first = before or results[0]
        _say_what_sibling_gives(results[-1], materials)
        names = [EDITED]
        if len(edited) > 1:
            names = [f"{EDITED}-{number}" for number in range(1, len(edited) + 1)]
        recorded = record_request(materials, first, edited, base)  # no path of this machine
        named = dict(zip(names, results, strict=True))
        others = {of: one for of, one in {BASE: before, TWIN: twin}.items() if one is not None}

        def report(left: HeldBack) -> Measurement:
            found = Compared(materials, before, twin, left, 1 if base else 0)
            made = make_report(found, named, edited, base, recorded)
            hashes = {row.hash for edit in made.edits for row in edit.passages}
            texts = []
            if request.command == "evaluate" and request.show_text:
                texts = decode_passages(first.test, asked.tokenizer, hashes)
            return Measurement(made, recorded, {**others, **named}, left, texts)

        return report


def open_measurement(
    materials: Materials,
    base: ResolvedModel | None,
    edited: Sequence[ResolvedModel] = (),
    choose: int | None = None,
) -> OpenedMeasurement:
    """Checks that models, passages, and text go together, and reads these in the models' tokens.
    Loads the tokenizer, and no model.

    `edited`: none yet, to learn before hours of work what would be refused of edits of `base`.
    `choose`: a seed; half of the passages that test choose one of the models.
    Raises `SamplesError` for unusable passages or texts, and `MeasurementError` if the models
    cannot be compared.
    """
    for model in edited:
        _check_size(model)
    first = base or edited[0]
    request = materials.request
    twin = find_model(request.attacks.twin) if request.attacks.twin else None
    never = [twin] if twin else []
    for model in edited or [first]:
        if materials.sibling is not None:
            check_sibling(materials.sibling, model)
    if request.attack_names and any(
        model.manifest and model.manifest.is_trained for model in edited
    ):
        attacks = add_for_trained(request.attack_names)
        request = request.change(attack=attacks)
        materials = replace(materials, request=request)
    check_tokens(first, [*edited, *never])
    check_precisions([*([base] if base else []), *edited, *never], request.run)
    tokenizer = load_tokenizer(first.folder) if has_tokenizer(first.folder) else None
    with nullcontext() if edited else use_console(SILENT):  # it is said once
        protocol, windows, attacked = tokenize(materials, tokenizer)
    asked, size = Questions(tokenizer, protocol, windows, attacked), first.dimensions
    if asked.samples is not None:
        asked.samples.check_fits(size.vocabulary, size.max_positions or None)
    every = [model.manifest for model in (*([base] if base else []), *edited)]
    left, choosing = hold_back(every, asked.samples, windows, request.passages.leave_out), None
    if choose is not None and asked.samples is not None:
        choosing, left = halve_tested(left, asked.samples, choose)
    if edited:
        _announce_models(edited, base, materials)
        asked = _announce(asked, left, edited, base, request)
    return OpenedMeasurement(materials, base, edited, twin, asked, left, choosing)


def _say_what_sibling_gives(after: ModelResults, materials: Materials) -> None:
    """What `graft` brings back may be the sibling's own."""
    grafted = after.audited.passages.get("graft") if after.audited else None
    if materials.sibling is not None and grafted is not None:
        say(describe_own_recital(materials.sibling, grafted.scores["sibling"]))


def _announce_models(
    edited: Sequence[ResolvedModel], base: ResolvedModel | None, materials: Materials
) -> None:
    """Says what is unusual about the models."""
    request = materials.request
    for model in edited if base else ():
        assert base is not None
        if find_relation(model.manifest, base) == "unrelated":
            say(
                "warning: the base is not a recorded source of the edited model, so differences "
                "may have other causes than the edit"
            )
        check_cut(request.attack_names, request.attacks.max, model)
        if request.command != "evaluate" and base.folder.samefile(model.folder):
            say(f"{base.source.model} is compared with itself; leave out `baseline`")
    line = describe_sibling(materials.sibling, base or edited[0])
    if line is not None and request.attack_names:
        say(line)


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
        tested = asked.samples.select(left.passages & asked.samples.trained_on)
        for line in foresee(
            request.limits, tested.independent
        ):  # of taught ones, the count decides
            say(line)
    return asked


def _check_size(model: ResolvedModel) -> None:
    """Raises `ManifestError`, before hours of work, for a manifest of a model of another size."""
    sizes = model.dimensions
    for step in model.manifest.history if model.manifest else ():
        if (step.num_blocks, step.num_heads) != (sizes.num_blocks, sizes.num_heads):
            raise ManifestError(
                "is of a model of another size",
                where=model.folder / MANIFEST,
                expected=f"{sizes.num_blocks} blocks of {sizes.num_heads} heads",
                got=f"{step.num_blocks} of {step.num_heads}",
            )


def decode_passages(
    test: ExtractionResults | None, tokenizer: Any, hashes: Container[str]
) -> list[dict[str, Any]]:
    """`id`, `hash`, `prefix` and `suffix` (as text) of the passages with these hashes."""
    if test is None or tokenizer is None:
        return []
    shown = ("id", "hash", "prefix", "suffix")
    found = (row for row in list_rows(test.test, tokenizer=tokenizer) if row["hash"] in hashes)
    return [{key: row[key] for key in shown} for row in found]
