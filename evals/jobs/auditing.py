"""The audit: runs every attack on a model, on its base, if there is one, and on other text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import model_validator

from evals.data import Samples, Tokens
from evals.data.held_back import HeldBack, hold_back
from evals.data.inputs import (
    open_passages,
    read_heldout_texts,
    require_heldout_texts,
    tokenize_passages,
)
from evals.jobs.result_folder import ResultFolder
from evals.measure.attacks.foreseeing import foresee
from evals.measure.attacks.names import choose_attacks
from evals.measure.attacks.request import Auditing
from evals.measure.attacks.result import AllRecovered, Audit, AuditReport
from evals.measure.memorization.measures import Flags
from evals.measure.verdicts import (
    describe_limits,
    find_void,
    join_sentences,
    name_taught,
    settle,
)
from evals.report.attacks import (
    PICTURES,
    UNTRAINED,
    describe_attacks,
    describe_taught,
    draw_audit,
    has_trained,
)
from evals.run.console import say, show_progress
from evals.run.finding import check_tokens, find_baseline
from evals.run.request import (
    HELD_OUT_BEFORE,
    TEXT_FORMS,
    UNSEEN,
    Listing,
    Measuring,
    Option,
    Passages,
)
from surgery.errors import OutputError
from surgery.hub.embedded import find_lab
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.output import check_output, recognize_by, recognize_lines, write_lines
from surgery.processes import join_launch, leave_launch
from surgery.record.manifest import list_versions

if TYPE_CHECKING:
    from evals.measure.attacks.trying import AttackPlan, AuditedModel
    from evals.run.models import LoadedModel

    Shared = tuple[AttackPlan, HeldBack]

_PICTURES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
owned = recognize_by("audit.json", ("attacks", "limits"), *_PICTURES)
ROWS = recognize_lines("a file of rows", "id", "hash", "recovered_by", "recovered")


class AuditRequest(Measuring, Auditing, Listing):
    """Measures what attackers recover of `samples` from `model` and, if given, from `baseline`.

    Raises `UnknownNameError` for an unknown attack.
    """

    model: str
    baseline: Annotated[
        str | None,
        "The model before the edit, to compare with; a Hub id, at the commit that MODEL records.",
        Option("input", "BASE", "none: attack MODEL alone"),
    ] = None
    samples: Passages = None
    heldout: Annotated[
        tuple[Path, ...],
        f"{UNSEEN}: a control, unless the passages have non-members. Some attacks need it as "
        f"other text. With `baseline` it is needed. {TEXT_FORMS}",
        Option("input", default="a lab model's own", old=HELD_OUT_BEFORE),
    ] = ()

    @model_validator(mode="after")
    def _can_be_tried(self) -> AuditRequest:
        if self.samples is None and self.lab is None:
            raise ValueError("audit needs passages: give `samples`")
        if self.baseline is None:
            self._refuse_unused("baseline", "twin")
        assert self.tried
        return self

    @property
    def lab(self) -> str | None:
        """The lab model among the two, if any."""
        return find_lab(self.model, self.baseline)

    @property
    def tried(self) -> tuple[str, ...]:
        """The names of the attacks to run."""
        return choose_attacks(self.attack, self.max, sibling=self.sibling is not None)


def audit(
    request: AuditRequest,
    folder: Path | None = None,
    *,
    rows: Path | None = None,
    overwrite: bool = False,
) -> AuditReport | None:
    """Audits a request's models, and writes the result into `folder` if you give one.

    It then continues from the attacks that an interrupted audit had finished.
    `rows`: gets a JSON line for each passage (`evals.measure.attacks.rows`).

    Returns None on all processes but the main one. Raises `SurgeryError` if the request names
    anything unusable, or if the folder or the file cannot be written.
    """
    from evals.measure.attacks.sibling import describe_own_recital
    from evals.measure.attacks.trying import check_cut
    from evals.run.forward import read_limits
    from evals.run.models import find_last, measure_in_turn

    output = ResultFolder(request, folder, owned, overwrite)
    if rows is not None:
        _check_rows(rows, folder, request, overwrite)
    passages = open_passages(request.samples or str(request.lab), request)
    texts = _find_texts(request)
    join_launch(say)
    edited = find_last(request.model, request)
    if request.baseline is not None:
        check_cut(request.tried, request.max, edited)
    bases, twins, sibling = _find_others(request, edited)
    done: list[AuditedModel] = []
    tokenizers: list[Any] = []

    def prepare(loaded: LoadedModel) -> Shared:
        tokenizers.append(loaded.tokenizer)
        samples = tokenize_passages(passages, loaded.tokenizer)
        samples.check_fits(*read_limits(loaded.model))
        windows = _cut(texts, loaded, samples.tokens.shape[1])
        size = request.batch_size or output.journals.recall("batch_size", ".1")
        return _plan_attacks(request, loaded, samples, windows, (*bases, edited), sibling, size)

    def attack(loaded: LoadedModel, shared: Shared, is_last: bool) -> AuditedModel:
        # every model is asked in the same tokens; of a twin, the same blocks are woken
        loaded = replace(loaded, tokenizer=loaded.tokenizer or tokenizers[0])
        cut = edited.cut if done else loaded.cut
        done.append(_attack(loaded, shared[0], output, done, is_last=is_last, cut=cut))
        return done[-1]

    (plan, left), _ = measure_in_turn([*bases, *twins, edited], request, prepare, attack)
    if sibling is not None and (grafted := done[-1].passages.get("graft")) is not None:
        say(describe_own_recital(sibling, grafted.scores["sibling"]))
    if not leave_launch():
        return None
    names = [*("base" for _ in bases), *("twin" for _ in twins), "edited"]
    tried = dict(zip(names, done, strict=True))
    report = _make_report(request, plan, left, tried, _find_void((*bases, edited), tried))
    if rows is not None:
        _write_rows(rows, plan, tried, left, overwrite=overwrite)
    output.write("audit.json", report.to_dict(), partial(draw_audit, report.to_dict()))
    return report


def _find_others(
    request: AuditRequest, edited: ResolvedModel
) -> tuple[list[ResolvedModel], list[ResolvedModel], ResolvedModel | None]:
    """The base and the twin, if there are any; and what attention may be copied from, with what to
    know about it."""
    from evals.measure.attacks.sibling import describe_sibling, find_sibling

    bases = [find_baseline(request.baseline, [edited])] if request.baseline else []
    twins = [find_model(request.twin)] if request.twin else []
    for base in bases:
        check_tokens(base, [edited, *twins])
        if base.folder.samefile(edited.folder):
            say(f"{base.source.model} is compared with itself; leave out `baseline`")
    sibling = find_sibling(request.sibling, [edited])
    if (line := describe_sibling(sibling, *(bases or [edited]))) is not None:
        say(line)
    return bases, twins, sibling


def _find_texts(request: AuditRequest) -> list[str]:
    """Held-out text; for one model alone, possibly none. Raises `SamplesError` for unusable files,
    and if there is none although two models are compared."""
    find = read_heldout_texts if request.baseline is None else require_heldout_texts
    return find(request.heldout, request.lab or request.model)


def _cut(texts: Sequence[str], loaded: LoadedModel, length: int) -> Tokens:
    """Windows of the texts, int32 [M, length]; none of no text."""
    from evals.data.windows import cut_windows

    if not texts:
        return np.empty((0, length), dtype=np.int32)
    return cut_windows(texts, loaded.tokenizer, length)


def _write_rows(
    file: Path,
    plan: AttackPlan,
    tried: Mapping[str, AuditedModel],
    left: HeldBack,
    *,
    overwrite: bool,
) -> None:
    """Writes which attack recovers which passage of each model, the base among them."""
    from evals.measure.attacks.rows import list_recovered

    lines = (json.dumps(one, ensure_ascii=False) for one in list_recovered(plan, tried, left))
    write_lines(file, lines, overwrite=overwrite, owned=ROWS)


def _attack(
    loaded: LoadedModel,
    plan: AttackPlan,
    output: ResultFolder,
    done: Sequence[AuditedModel],
    *,
    is_last: bool,
    cut: tuple[int, ...],
) -> AuditedModel:
    """Attacks a model after those that are `done`, the first of which is the base.

    `cut`: the blocks that an attacker who knows the edit works on.
    """
    from evals.jobs.measuring import describe_attacked
    from evals.measure.attacks.trying import try_attacks
    from evals.measure.memorization.protocol import measure_control

    before = [one.provenance for one in done[:1]]
    describe = partial(describe_attacked, plan, loaded, before, cut)
    journal = output.journals.open(describe, loaded, f".{len(done) + 1}")
    with show_progress(f"audit {loaded.name}", len(plan.tried)) as advance:
        control = is_last and len(plan.control) > 0
        given: dict[str, Any] = {"with_control": control, "advance": advance, "journal": journal}
        found = try_attacks(loaded, plan, *done[:1], cut=cut, **given)
    if not len(plan.unrelated):
        return found
    text = measure_control(loaded.model, plan.unrelated, batch_size=plan.batch_size)
    return replace(found, loss=float(text.nll.mean()))


def _find_void(models: Sequence[ResolvedModel], tried: Mapping[str, AuditedModel]) -> str | None:
    """Why no limit is decided; None if nothing speaks against it. `models`: the base, if any, and
    the edited one; `tried`: as for `_make_report`."""
    from evals.measure.attacks.sibling import has_same_weights

    if "base" not in tried:
        return None  # each limit says so itself
    before, after = (tried[name].loss for name in ("base", "edited"))
    text = None if before is None or after is None else (before, after)
    vocabulary = models[-1].inventory.dimensions.vocabulary
    return find_void(vocabulary, text, same=has_same_weights(models[0], models[-1]))


def _check_rows(rows: Path, folder: Path | None, request: AuditRequest, overwrite: bool) -> None:
    """Raises `OutputError` for a file that could not be written, or that lies in the folder, which
    appears only when all is done."""
    place = rows.absolute()
    if folder is not None and folder.absolute() in (place, *place.parents):
        raise OutputError(
            "lies in the folder of the result", where=rows, fix="choose another `rows`"
        )
    reads = (request.samples, *request.heldout)
    check_output(rows, ROWS, overwrite=overwrite, argument="rows", reads=reads)


def _plan_attacks(
    request: AuditRequest,
    loaded: LoadedModel,
    samples: Samples,
    windows: Tokens,
    models: Sequence[ResolvedModel],
    sibling: ResolvedModel | None,
    batch_size: int | None,
) -> tuple[AttackPlan, HeldBack]:
    """Plans the attacks, all in one batch size, and finds out which passages chose the base or the
    edited model, and which it was taught. `loaded`: the first of them. `batch_size`: by default
    what memory allows."""
    from evals.measure.attacks.trying import AttackPlan, add_for_trained
    from evals.run.batching import rows_per_batch

    manifests = [model.manifest for model in models]
    left, manifest = hold_back(manifests, samples, windows, request.leave_out), manifests[-1]
    if warning := left.count(-1).model_copy(update={"windows": 0}).warning:
        say(f"warning: {warning}")
    tried = request.tried
    if manifest is not None and manifest.is_trained:
        tried = add_for_trained(tried)
    size = batch_size or rows_per_batch(loaded.model, samples.tokens.shape[1])
    alone = request.baseline is None
    plan = AttackPlan(
        *(samples, windows, tried, size, request.max, request.draws, sibling),
        has_base=not alone,
        has_cut=bool(models[-1].cut),
    )
    for name, needs in plan.skipped.items():
        say(f"skipped: {name} needs {needs}")
    if alone and request.max:
        say("without `baseline`, a limit can be missed, but it cannot be kept")
    if not (alone or left.is_whole(-1)):  # whose count decides, however few they are
        for line in foresee(request.max.items(), int(left.passages[samples.trained_on].sum())):
            say(line)
    return plan, left


def _make_report(
    request: AuditRequest,
    plan: AttackPlan,
    left: HeldBack,
    tried: Mapping[str, AuditedModel],
    void: str | None,
) -> AuditReport:
    """Figures of the passages held back; also of those that were taught, or, if a search used some,
    the rates of all. `tried`: "base" and "twin", if any, and "edited" → the outcomes. `void`: why
    no limit is decided, if so.
    """
    from evals.measure.attacks.rows import list_recovered
    from evals.measure.attacks.trying import compare_models

    base, twin, after = tried.get("base"), tried.get("twin"), tried["edited"]
    members, chose = plan.samples.trained_on, left.count(-1)
    counted, unlisted = left.passages[members], left.unlisted[members]
    figures = compare_models(plan, base, after, counted, twin)
    figures = figures.whole if left.is_whole(-1) else figures

    def compare(rows: Flags) -> Audit:
        return compare_models(plan, base, after, rows)

    def recover(every: Audit) -> AllRecovered:
        return AllRecovered(n=every.n, recovered=every.recovered)

    taught = None if left.others is None else compare(left.others[members]).whole
    limits = figures.check_limits(request.max, void)
    if taught is not None and chose.includes(taught.n):
        limits += name_taught(taught.check_limits(request.max, void))
    alone = not unlisted.any()
    said = [*filter(None, [chose.doubt]), describe_limits(limits, alone=alone)]
    said += describe_attacks(figures)
    if taught is not None and chose.includes(taught.n):
        said.append(describe_taught(taught.n, taught.recovered))
    said += [] if has_trained(figures) else [UNTRAINED]
    mixed = taught is None and not (counted | unlisted).all()
    return AuditReport(
        **dict(figures),
        chose=chose,
        all_passages=recover(compare(~unlisted)) if mixed else None,
        taught=None if taught is None else recover(taught),
        unlisted=None if alone else recover(compare(unlisted)),
        prefix_length=plan.samples.prefix_length,
        suffix_length=plan.samples.suffix_length,
        secrets=plan.samples.secrets,
        limits=limits,
        state=settle(limit.state for limit in limits),
        verdict=join_sentences(said),
        given_away={
            row["id"]: row["recovered_by"]
            for row in list_recovered(plan, {"edited": after}, left)
            if row["counted"] and row["recovered_by"]
        },
        provenance=_record_provenance(plan, tried),
    )


def _record_provenance(plan: AttackPlan, tried: Mapping[str, AuditedModel]) -> dict[str, Any]:
    """Of the models, the passages, and the libraries. `tried`: as for `_make_report`."""
    base = tried.get("base")
    return {
        "base": base and base.provenance,
        **{name: one.provenance for name, one in tried.items() if name != "base"},
        **({"sibling": plan.sibling.identified.model_dump()} if plan.sibling else {}),
        "samples_sha256": plan.samples.sha256,
        "versions": list_versions(),
    }
