"""`extract`, `audit`, and `evaluate`, from the request to the files that hold the result."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evals.jobs.asking import MeasureRequest
from evals.jobs.materials import Materials, open_materials
from evals.jobs.measurement import Measurement, OpenedMeasurement, open_measurement
from evals.jobs.reporting import find_relation
from evals.measure.attacks.rows import list_recovered
from evals.measure.memorization.summary import list_rows
from evals.run.console import say
from evals.run.finding import find_baseline
from evals.run.lm_eval.running import write_results
from evals.run.models import find_device
from evals.table.page import render_pages
from surgery.card.measurements import build_measurements
from surgery.card.text import read_own_card, render_card
from surgery.checkpoint import CARD, MANIFEST, hash_file
from surgery.errors import ManifestError, OutputError, SurgeryError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.output import (
    OwnFile,
    check_output,
    create_folder,
    create_staging,
    publish,
    recognize_by,
    recognize_lines,
    write_lines,
    write_text,
)
from surgery.privacy import expand_home, get_last_name
from surgery.processes import by_one
from surgery.record.manifest import (
    RECIPE,
    REPORTS,
    UNLISTED,
    Manifest,
    parse_manifest,
    read_manifest,
)
from surgery.record.measured import BASE, EDITED
from surgery.record.reports import record_reports
from surgery.untrusted import read_bytes, read_json
from surgery.verification import verify

TEXTS = "passages.jsonl"
"""The passages' texts, on request. They stand beside the report and are never published."""
RESULTS = "lm_eval"
RUNS = ("base", "edited")
"""lm-eval's own results, in a folder for the base and one for the edited model."""
_OF_LM_EVAL = [
    f"{place}{name}" for place in ("", "*/") for name in ("results_*.json", "samples_*.jsonl")
]
"""What lies in each of `RUNS`."""
_KEPT = "it has a report, which `overwrite=True` replaces"
_WRITTEN = [name for name in UNLISTED if name not in (CARD, RECIPE)]
owned = recognize_by(REPORTS[0], ("base", "edits", "settings"), *_WRITTEN, TEXTS)
RESULT = OwnFile(
    "a result of an extraction", lambda file: read_json(file).keys() >= {"command", "figures"}
)
ROWS = {
    "extract": recognize_lines("a file of rows", "id", "hash", "exact", "first_divergence"),
    "audit": recognize_lines("a file of rows", "id", "hash", "recovered_by", "recovered"),
}


def write_evaluation(found: Measurement, folder: Path, manifest: Manifest | None = None) -> None:
    """Writes everything into an existing folder. Raises `OutputError`.

    `manifest`: of the one edit, written again with the hashes of its report.
    """
    report = found.report
    pages = {REPORTS[0]: report.to_text(), **render_pages(report)}
    for name, text in pages.items():
        write_text(folder / name, text)
    if manifest is not None:
        write_text(folder / MANIFEST, record_reports(manifest, pages).to_text())
    if found.texts:
        write_lines(folder / TEXTS, map(json.dumps, found.texts))
    for of, name, runs in found.runs:
        if runs:
            write_results(folder / RESULTS / of, name, runs)


@by_one
def attach(found: Measurement, place: int, folder: Path, name: str | None = None) -> None:
    """Puts one edit's report into its model's folder, and its figures on the card there.

    `name`: what the model is called there (default: as its folder). `push` then publishes both.
    Raises `OutputError` if the folder cannot be written.
    """
    _check_results(folder)
    name = name or get_last_name(folder)
    selected = found.select(place, name)
    manifest = parse_manifest(read_bytes(folder / MANIFEST, ManifestError), folder / MANIFEST)
    if selected.report.edits[0].provenance["content"] != manifest.content:
        raise OutputError("changed while it was measured", where=folder, fix="evaluate it again")
    card = render_card(
        manifest,
        name=name,
        measured=build_measurements(selected.report),
        existing=read_own_card(folder),
    )
    with create_staging(folder) as staging:
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
        if (there / name).exists():
            made.mkdir(exist_ok=True)
            (there / name).rename(made / f"old-{name}")
        if (made / name).exists():
            there.mkdir(exist_ok=True)
            (made / name).rename(there / name)
    if there.is_dir() and not any(there.iterdir()):
        there.rmdir()


@dataclass(frozen=True)
class OpenedJob:
    """A measurement that can be run, and where its result goes: of `extract`, a JSON file `output`;
    of `audit` and `evaluate`, a folder with a report; of `evaluate`, also each model that is an
    export. `rows`: a file that gets a JSON line for each passage."""

    request: MeasureRequest
    opened: OpenedMeasurement
    output: Path | None = None
    rows: Path | None = None
    overwrite: bool = False

    @property
    def attaches(self) -> bool:
        return self.request.command == "evaluate"

    def run(self) -> Measurement:
        """Measures and writes."""
        request, output, overwrite = self.request, self.output, self.overwrite
        found, edited = self.opened.run(), self.opened.edited
        if self.rows is not None:
            lines, ours = _list_rows(found), ROWS[request.command]
            write_lines(self.rows, lines, overwrite=overwrite, owned=ours)
        if output is not None and request.command == "extract":
            text = found.report.to_text().rstrip()
            write_lines(output, [text], overwrite=overwrite, owned=RESULT)
        elif output is not None:
            edit = found.report.edits[0]
            alone = self.attaches and edit.relation == "source"
            manifest, config = edited[0].manifest if alone else None, request.to_config()
            with create_folder(output, owned, overwrite=overwrite, config=config) as folder:
                write_evaluation(found, folder, manifest)
        for place, name in enumerate(request.models if self.attaches else ()):
            _attach(found, place, expand_home(name), overwrite)
        return found


def open_job(
    request: MeasureRequest,
    output: Path | None = None,
    *,
    rows: Path | None = None,
    overwrite: bool = False,
) -> OpenedJob:
    """Checks the outputs, opens every input, and finds the models.

    `output` None: nothing is written. Without `overwrite`, a model that has a report keeps it.
    Raises as `open_materials` and `open_measurement`, and `OutputError`.
    """
    is_file, models = request.command == "extract", request.models
    if rows is not None:
        _check_rows(rows, output, request, overwrite)
    if output is not None and is_file:
        check_output(output, RESULT, overwrite=overwrite, argument="output")
    elif output is not None:
        check_output(output, owned, overwrite=overwrite)
    if request.run.device != "all":
        find_device(request.run.device)
    known = [(model, request.revision) for model in models]
    materials = open_materials(request, known, request.baseline)
    edited = [find_model(model, request.revision) for model in models]
    base = find_baseline(request.baseline, edited) if request.baseline else None
    attached = request.command == "evaluate"
    for name, model in zip(models, edited, strict=True) if attached and base else ():
        related = base is not None and find_relation(model.manifest, base) == "source"
        if related and _keeps_report(expand_home(name), overwrite):
            say(f"{name}: will leave its report and model card unchanged: {_KEPT}")
    opened = open_measurement(materials, base, edited)
    return OpenedJob(request, opened, output, rows, overwrite)


def run_measurement(
    request: MeasureRequest,
    output: Path | None = None,
    *,
    rows: Path | None = None,
    overwrite: bool = False,
) -> Measurement:
    """Opens a measurement (`open_job`) and runs it."""
    return open_job(request, output, rows=rows, overwrite=overwrite).run()


def _check_rows(
    rows: Path,
    output: Path | None,
    request: MeasureRequest,
    overwrite: bool,
) -> None:
    """Raises `OutputError` for a file that could not be written, or that lies in the folder, which
    appears only when all is done."""
    place = rows.absolute()
    if output is not None and output.absolute() in (place, *place.parents):
        raise OutputError(
            "lies in the folder of the result", where=rows, fix="choose another `rows`"
        )
    check_output(rows, ROWS[request.command], overwrite=overwrite, argument="rows")


def _list_rows(found: Measurement) -> Iterator[str]:
    """A JSON line for each passage: its scores, or of an audit which attack recovers it."""
    results, lines = found.results, list[dict[str, Any]]()
    before, after = results.get(BASE), results[EDITED]
    if found.request.command == "audit":
        models = {of: one.audited for of, one in results.items() if one.audited}
        assert after.asked.attacked is not None
        lines = list(list_recovered(after.asked.attacked, models, found.left))
    elif after.test is not None:
        tokenizer = after.asked.tokenizer if found.request.show_text else None
        test, base = after.test.test, before.test.test if before and before.test else None
        lines = list(list_rows(test, baseline=base, tokenizer=tokenizer))
    return (json.dumps(line, ensure_ascii=False) for line in lines)


def list_given_away(found: Measurement) -> dict[str, list[str]]:
    """Passages that attacks recover from the edited model → these attacks. No file holds it."""
    after = found.results[EDITED]
    if after.asked.attacked is None or after.audited is None:
        return {}
    rows = list_recovered(after.asked.attacked, {EDITED: after.audited}, found.left)
    return {
        row["id"]: row["recovered_by"] for row in rows if row["counted"] and row["recovered_by"]
    }


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


@by_one
def _attach(found: Measurement, place: int, folder: Path, overwrite: bool) -> None:
    """Puts the report into the folder of an exported model, for its card and for `push`."""
    if not (folder / MANIFEST).is_file():
        return
    report = found.report
    reason = None
    assert report.base is not None
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
    choose: int | None = None,
) -> tuple[Measurement, Measurement]:
    """Verifies exports of one source, measures them, and puts each report into its folder.

    Returns what chooses one of them, and what judges it. `choose`: a seed; each is then of one half
    of the passages that test. Raises `OutputError` for an export that does not verify.
    """
    for output in outputs:
        say(f"{output.name}: verified ({_verify(output, source)} checks)")
    models = [find_model(output) for output in outputs]
    opened = open_measurement(materials, source, models, choose)
    report = opened.measure()
    found = choosing = report(opened.left)
    if opened.choosing is not None:
        choosing = report(opened.choosing)
        found = found.with_choice(choosing)
    for place, output in enumerate(outputs):
        attach(found, place, output)
    return choosing, found


@by_one
def _verify(output: Path, source: ResolvedModel) -> int:
    """The number of checks that a new export passes."""
    verification = verify(output, source=source, papers=False)  # written anew
    if (failed := verification.failed) is not None:
        what = f"does not verify: {failed.name}: {failed.detail}"
        raise OutputError(what, where=output, fix="make it again; else report this")
    return len(verification.checks)
