"""An evaluation from its request to the folders that hold its report."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from evals.jobs.materials import Materials, open_materials
from evals.jobs.reporting import Evaluation, evaluate, find_relation
from evals.jobs.result_folder import Journals
from evals.report.page import render_pages
from evals.report.printing import find_browser, print_page
from evals.report.request import EvaluationRequest
from evals.run.console import say
from evals.run.finding import find_baseline
from evals.run.lm_eval.running import write_results
from surgery.card.measurements import build_measurements
from surgery.card.text import read_own_card, render_card
from surgery.checkpoint.content import hash_file
from surgery.checkpoint.source import CARD, MANIFEST
from surgery.errors import ManifestError, OutputError, SurgeryError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.output import (
    check_output,
    create_folder,
    create_staging,
    publish,
    recognize_by,
    write_lines,
    write_text,
)
from surgery.privacy import expand_home, get_last_name, name_result
from surgery.processes import join_launch, leave_launch
from surgery.proof.report import record_reports
from surgery.proof.verification import verify
from surgery.record.manifest import (
    RECIPE,
    REPORTS,
    UNLISTED,
    Manifest,
    parse_manifest,
    read_manifest,
)
from surgery.record.report import Report
from surgery.untrusted import read_bytes

TEXTS = "passages.jsonl"
"""The passages' texts, on request. They stand beside the report and are never published."""
PDF = "report.pdf"
RESULTS = "lm_eval"
RUNS = ("base", "edited")
"""lm-eval's own results, in a folder for the base and one for the edited model."""
_OF_LM_EVAL = [
    f"{place}{name}" for place in ("", "*/") for name in ("results_*.json", "samples_*.jsonl")
]
"""What lies in each of `RUNS`."""
_KEPT = "it has a report, which `overwrite=True` replaces"
_WRITTEN = [name for name in UNLISTED if name not in (CARD, RECIPE)]
owned = recognize_by(REPORTS[0], ("base", "edits", "settings"), *_WRITTEN, TEXTS, PDF)


def write_evaluation(
    evaluation: Evaluation, folder: Path, manifest: Manifest | None = None
) -> None:
    """Writes everything into an existing folder. Raises `OutputError`.

    `manifest`: of the one edit, written again with the hashes of its report.
    """
    report = evaluation.report
    pages = {REPORTS[0]: report.to_text(), **render_pages(report)}
    for name, text in pages.items():
        write_text(folder / name, text)
    if manifest is not None:
        write_text(folder / MANIFEST, record_reports(manifest, pages).to_text())
    if evaluation.texts:
        write_lines(folder / TEXTS, map(json.dumps, evaluation.texts))
    several = len(report.edits) > 1
    runs = {"base": (report.base.name, evaluation.base_runs)}
    for place, (edit, run) in enumerate(zip(report.edits, evaluation.edited_runs, strict=True), 1):
        runs[f"edited-{place}" if several else "edited"] = (edit.name, run)
    for part, (name, results) in runs.items():
        if results:
            write_results(folder / RESULTS / part, name, results)


def attach(evaluation: Evaluation, place: int, folder: Path) -> None:
    """Puts one edit's report into its model's folder, and its figures on the card there.

    `push` then publishes both. Raises `OutputError` if the folder cannot be written.
    """
    _check_results(folder)
    selected = evaluation.select(place, get_last_name(folder))
    manifest = parse_manifest(read_bytes(folder / MANIFEST, ManifestError), folder / MANIFEST)
    if selected.report.edits[0].provenance["content"] != manifest.content:
        raise OutputError("changed while it was measured", where=folder, fix="evaluate it again")
    card = render_card(
        manifest,
        name=get_last_name(folder),
        measured=build_measurements(selected.report),
        existing=read_own_card(folder),
    )
    with create_staging(folder, UNLISTED) as staging:
        write_evaluation(selected, staging, manifest)
        write_text(staging / CARD, card)
        _replace_results(staging / RESULTS, folder / RESULTS)
        # the manifest first: if this is stopped, it tells that the others are not whole
        for part in sorted(staging.iterdir(), key=lambda part: part.name != MANIFEST):
            if part.name != RESULTS:
                publish(part, folder / part.name)


def _check_results(folder: Path) -> None:
    """Raises `OutputError` for results of lm-eval that are not ours to replace, and for a link,
    which may lead anywhere."""
    results = folder / RESULTS
    if results.is_symlink():
        raise OutputError("is a link, which is not followed", where=results, fix="remove it")
    for place in (results / name for name in RUNS):
        check_output(place, lambda _: _OF_LM_EVAL, overwrite=True)


def _replace_results(made: Path, there: Path) -> None:
    """Puts results of lm-eval in place of an earlier report's. Whatever else lies there stays."""
    for name in RUNS:
        if (made / name).exists():
            there.mkdir(exist_ok=True)
            publish(made / name, there / name)
        elif (there / name).exists():
            shutil.rmtree(there / name)
    if there.is_dir() and not any(there.iterdir()):
        there.rmdir()


def run_evaluation(
    request: EvaluationRequest,
    output: Path | None = None,
    *,
    overwrite: bool = False,
    pdf: bool = False,
) -> tuple[Report, Path] | None:
    """Evaluates, and writes the report into `output` and into each model that is an export.

    Without `overwrite`, a model that has a report keeps it. `pdf`: also print the page to a file.
    Returns the report and its folder (default: NAME-evaluation), and None on all processes but the
    main one. Raises as `open_materials` and `evaluate`; `OutputError`; and `MeasurementError`, at
    once, if there is no browser to print with.
    """
    models, baseline = request.models, request.baseline
    if output is None:
        output = name_result(baseline if len(models) > 1 else models[0], "evaluation")
    check_output(output, owned, overwrite=overwrite)
    browser = find_browser() if pdf else None
    join_launch(say)
    known = [(model, request.revision) for model in models]
    materials = open_materials(request, known, baseline)
    edited = [find_model(model, request.revision) for model in models]
    base = find_baseline(baseline, edited)
    for name, model in zip(models, edited, strict=True):
        related = find_relation(model.manifest, base) == "source"
        if related and _keeps_report(expand_home(name), overwrite):
            say(f"{name}: will leave its report and model card unchanged: {_KEPT}")
    materials = replace(materials, journals=Journals(output, anew=True))
    found = evaluate(edited, base, materials)
    if not leave_launch():
        return None
    config = request.to_config()
    alone = len(edited) == 1 and found.report.edits[0].relation == "source"
    with create_folder(output, owned, overwrite=overwrite, config=config) as folder:
        write_evaluation(found, folder, edited[0].manifest if alone else None)
        if browser is not None:
            print_pdf(browser, folder, folder / PDF)
    for place, name in enumerate(models):
        _attach(found, place, expand_home(name), overwrite)
    materials.journals.remove()
    return found.report, output


def print_pdf(browser: str, folder: Path, target: Path, *, overwrite: bool = False) -> None:
    """Prints the page in a folder. A failure is only told: the evaluation took much longer."""
    try:
        print_page(browser, folder / REPORTS[1], target, overwrite=overwrite)
    except SurgeryError as error:
        say(f"warning: {error}")


def _keeps_report(folder: Path, overwrite: bool) -> bool:
    """Whether the folder of a model holds a report, or a part of one, that is to stay."""
    parts = (*REPORTS, *(f"{RESULTS}/{name}" for name in RUNS))
    if overwrite or not any((folder / name).exists() for name in parts):
        return False
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    there = {name: hash_file(folder / name) for name in REPORTS if (folder / name).is_file()}
    ours = bool(there) and there.items() <= manifest.reports.items()
    # what a run left that was stopped while it put its report there
    return not (ours and manifest.reports.keys() - there.keys())


def _attach(found: Evaluation, place: int, folder: Path, overwrite: bool) -> None:
    """Puts the report into the folder of an exported model, for its card and for `push`."""
    if not (folder / MANIFEST).is_file():
        return
    report = found.report
    reason = None
    if report.edits[place].relation != "source":
        reason = f"{report.base.name} is not known to be its source"
    elif report.settings["limit"] is not None:
        reason = "only a part of each benchmark was measured (`limit`)"
    elif _keeps_report(folder, overwrite):
        reason = _KEPT
    if reason is not None:
        say(f"{folder}: left its report and model card unchanged: {reason}")
        return
    try:
        attach(found, place, folder)
    except SurgeryError as error:  # the evaluation itself is done and written
        say(f"warning: could not put the report beside the model: {error}")
    else:
        say(f"{folder}: updated its report and model card")


def evaluate_exports(
    source: ResolvedModel,
    materials: Materials,
    outputs: Sequence[Path],
    arrange: Callable[[Report], Sequence[Path]] | None = None,
) -> Report:
    """Verifies exports of one source, evaluates them, and puts each report into its folder.

    `arrange`: gets the report, may move the folders, which have their reports then, and returns
    where they are. Raises `OutputError` for an export that does not verify.
    """
    for output in outputs:
        verification = verify(output, source=source, papers=False)  # written anew
        if (failed := verification.failed) is not None:
            what = f"does not verify: {failed.name}: {failed.detail}"
            fix = "run it again if the source changed meanwhile; else report this"
            raise OutputError(what, where=output, fix=fix)
        say(f"{output.name}: verified ({len(verification.checks)} checks)")
    models = [find_model(output) for output in outputs]
    found = evaluate(models, source, materials)
    found = found.as_rivals() if arrange else found
    for place, output in enumerate(outputs):
        attach(found, place, output)
    places = arrange(found.report) if arrange else outputs
    for place, moved in enumerate(places):
        if moved != outputs[place]:
            attach(found, place, moved)
    alone = len(outputs) == 1
    return found.select(0, get_last_name(places[0])).report if alone else found.report
