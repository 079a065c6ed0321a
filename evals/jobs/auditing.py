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
from evals.measure.attacks.result import AllRecovered, AuditReport
from evals.measure.memorization.measures import Flags
from evals.measure.verdicts import describe_limits, join_sentences, settle
from evals.report.attacks import PICTURES, UNTRAINED, describe_attacks, draw_audit, has_trained
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
from surgery.output import check_output, recognize_by, write_lines
from surgery.processes import join_launch, leave_launch
from surgery.record.manifest import list_versions

if TYPE_CHECKING:
    from evals.measure.attacks.trying import AttackPlan, AuditedModel
    from evals.run.models import LoadedModel

    Shared = tuple[AttackPlan, HeldBack]

_PICTURES = [f"{name}.{form}" for name in PICTURES for form in ("png", "svg")]
owned = recognize_by("audit.json", ("attacks", "limits"), *_PICTURES)


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
        _check_apart(rows, folder)
        reads = (request.samples, *request.heldout)
        check_output(rows, overwrite=overwrite, argument="rows", reads=reads)
    passages = open_passages(request.samples or str(request.lab), request)
    texts = _find_texts(request)
    join_launch(say)
    edited = find_last(request.model, request)
    if request.baseline is not None:
        check_cut(request.tried, request.max, edited)
    bases, twins, sibling = _find_others(request, edited)

    def prepare(loaded: LoadedModel) -> Shared:
        tokenizers.append(loaded.tokenizer)
        samples = tokenize_passages(passages, loaded.tokenizer)
        samples.check_fits(*read_limits(loaded.model))
        windows = _cut(texts, loaded, samples.tokens.shape[1])
        return _plan_attacks(request, loaded, samples, windows, (*bases, edited), sibling)

    def attack(loaded: LoadedModel, shared: Shared, is_last: bool) -> AuditedModel:
        # every model is asked in the same tokens; of a twin, the same blocks are woken
        loaded = replace(loaded, tokenizer=loaded.tokenizer or tokenizers[0])
        cut = edited.cut if done else loaded.cut
        done.append(_attack(loaded, shared[0], output, done, is_last=is_last, cut=cut))
        return done[-1]

    done: list[AuditedModel] = []
    tokenizers: list[Any] = []
    models = [*bases, *twins, edited]
    (plan, left), _ = measure_in_turn(models, request, prepare, attack)
    after = done[-1]
    if sibling is not None and (grafted := after.passages.get("graft")) is not None:
        say(describe_own_recital(sibling, grafted.kept, len(grafted.recovered)))
    if not leave_launch():
        return None
    names = ("base", *("twin" for _ in twins)) if bases else ()
    tried = dict(zip((*names, "edited"), done, strict=True))
    report = _make_report(request, plan, left, tried)
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
    write_lines(file, lines, overwrite=overwrite)


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

    before = [one.provenance for one in done[:1]]
    describe = partial(describe_attacked, plan, loaded, before, cut)
    journal = output.journals.open(describe, loaded, f".{len(done) + 1}")
    with show_progress(f"audit {loaded.name}", len(plan.tried)) as advance:
        control = is_last and len(plan.control) > 0
        given: dict[str, Any] = {"with_control": control, "advance": advance, "journal": journal}
        return try_attacks(loaded, plan, *done[:1], cut=cut, **given)


def _check_apart(rows: Path, folder: Path | None) -> None:
    """Raises `OutputError` for a file in the folder, which appears only when all is done."""
    place = rows.absolute()
    if folder is not None and folder.absolute() in (place, *place.parents):
        raise OutputError(
            "lies in the folder of the result", where=rows, fix="choose another `rows`"
        )


def _plan_attacks(
    request: AuditRequest,
    loaded: LoadedModel,
    samples: Samples,
    windows: Tokens,
    models: Sequence[ResolvedModel],
    sibling: ResolvedModel | None,
) -> tuple[AttackPlan, HeldBack]:
    """Plans the attacks, all in one batch size, and finds out on which passages no search chose the
    base or the edited model. `loaded`: the first of them."""
    from evals.measure.attacks.trying import AttackPlan, add_for_trained
    from evals.run.batching import rows_per_batch

    manifests = [model.manifest for model in models]
    left, manifest = hold_back(manifests, samples, windows, request.leave_out), manifests[-1]
    if warning := left.chose.model_copy(update={"windows": 0}).warning:
        say(f"warning: {warning}")
    tried = request.tried
    if manifest is not None and manifest.is_trained:
        tried = add_for_trained(tried)
    size = request.batch_size or rows_per_batch(loaded.model, samples.tokens.shape[1])
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
    n = int(left.passages[samples.trained_on].sum())
    for line in foresee(() if alone else request.max.items(), n):
        say(line)
    return plan, left


def _make_report(
    request: AuditRequest,
    plan: AttackPlan,
    left: HeldBack,
    tried: Mapping[str, AuditedModel],
) -> AuditReport:
    """Figures of the passages held back; if a search used some, also the rates of all. `tried`:
    "base" and "twin", if any, and "edited" → the outcomes."""
    from evals.measure.attacks.rows import list_recovered
    from evals.measure.attacks.trying import compare_models

    base, twin, after = tried.get("base"), tried.get("twin"), tried["edited"]
    counted = left.passages[plan.samples.trained_on]
    figures = compare_models(plan, base, after, counted, twin)
    unlisted = left.unlisted[plan.samples.trained_on]

    def recover(rows: Flags) -> AllRecovered:
        every = compare_models(plan, base, after, rows)
        return AllRecovered(n=every.n, recovered=every.recovered)

    limits = figures.check_limits(request.max)
    said = [*filter(None, [left.chose.doubt]), describe_limits(limits), *describe_attacks(figures)]
    said += [] if has_trained(figures) else [UNTRAINED]
    return AuditReport(
        **dict(figures),
        chose=left.chose,
        all_passages=None if (counted | unlisted).all() else recover(~unlisted),
        unlisted=recover(unlisted) if unlisted.any() else None,
        prefix_length=plan.samples.prefix_length,
        suffix_length=plan.samples.suffix_length,
        limits=limits,
        state=settle(limit.state for limit in limits),
        verdict=join_sentences(said),
        given_away={
            row["id"]: row["recovered_by"]
            for row in list_recovered(plan, {"edited": after}, left)
            if row["counted"] and row["recovered_by"]
        },
        provenance={
            "base": base and base.provenance,
            "edited": after.provenance,
            **({"twin": twin.provenance} if twin else {}),
            **({"sibling": plan.sibling.identified.model_dump()} if plan.sibling else {}),
            "samples_sha256": plan.samples.sha256,
            "versions": list_versions(),
        },
    )
