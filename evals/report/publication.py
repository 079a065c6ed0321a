"""Checks a report's seal and writes its sentences again, for `verify` and `push`.

So no sentence can hold a passage's text, whoever typed it there, and the schema has no other place
for one. The seal shows that a report was changed after it was written. It is no signature: nothing
here can know whether a passage was recited.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import create_model

from evals.data.windows import SELECTIVITY
from evals.measure.attacks.attack import Attack
from evals.measure.attacks.names import list_untried, make_attack
from evals.measure.differences import describe_outcome
from evals.measure.memorization.measures import MEASURES
from evals.measure.memorization.protocol import list_extraction_warnings as extraction_warnings
from evals.report.headline import write_sentences
from evals.report.page import build_measurements, render_pages
from evals.report.report import Report, seal_report, summarize_edit
from evals.run.statistics import Interval
from surgery.errors import MeasurementError, OutputError
from surgery.proof.verification import TOOL, RenderedReport
from surgery.record.manifest import REPORTS, Line, Manifest, Record, Sha256, Word
from surgery.variants import VARIANTS

_FRONT = re.compile(rf"[\d.,-]* ({'|'.join((*VARIANTS, 'mixed'))})", re.ASCII)
"""The label of a search's point, from `materials.read_search`: blocks, heads and variant."""


class Selectivity(Record):
    value: float
    ci95: tuple[float, float]
    definition: str


_KINDS: list[tuple[Any, str]] = [
    (
        float | None,
        "n p rate mean value p_value auc overcorrected forgotten newly_extracted rows top_k "
        "temperature prefix_length suffix_length batch_size exact first_divergence member",
    ),
    (
        Sha256 | None,
        "hash sha256 samples_sha256 content manifest_sha256 config_sha256 tokenizer_sha256",
    ),
    (Word | None, "id kind metrics revision commit dtype device attn_implementation"),
    (Line, "source reason"),
    (int | Word | None, "count"),
    (tuple[float, float], "ci95"),
    (dict[Word, int], "seeds"),
    (dict[Word, Word], "versions"),
    (Selectivity, "selectivity"),
    ("Line | OpenPart", "model"),
    ("dict[Word, OpenPart]", "membership"),
    ("list[OpenPart]", "by_count curve left_out reservations"),
    (
        "OpenPart | None",
        "samples provenance baseline paired control non_members exact_match_difference "
        "next_token_accuracy_difference suffix_nll_difference control_nll_difference",
    ),
    (
        "OpenPart | dict[Word, OpenPart] | float | None",
        " ".join({"nll", *(measure.name.partition(".")[0] for measure in MEASURES)}),
    ),
]
"""What may stand under which keys, wherever these stand."""
_FIELDS: dict[str, Any] = {key: (kind, None) for kind, keys in _KINDS for key in keys.split()}
OpenPart: Any = create_model("OpenPart", __base__=Record, __module__=__name__, **_FIELDS)
OpenPart.model_rebuild()
_Extraction: Any = create_model(
    "_Extraction",
    __base__=OpenPart,
    warnings=(list[str], ...),
    samples=(OpenPart, ...),
    paired=(OpenPart, ...),
)


class _Edit(Record):
    provenance: OpenPart
    extraction: _Extraction | None
    passages: list[OpenPart]


class _Parts(Record):
    provenance: OpenPart
    edits: list[_Edit]


def _check_open_parts(report: Report) -> None:
    """Raises `pydantic.ValidationError` if an open part holds anything else."""
    edits = [{key: getattr(edit, key) for key in _Edit.model_fields} for edit in report.edits]
    _Parts.model_validate({"provenance": report.base.provenance, "edits": edits})


def render_report(report: Mapping[str, Any], where: Path, manifest: bytes) -> RenderedReport:
    """Checks a report.json and writes its sentences and pages again.

    `where`: its file; `manifest`: surgery.json of the model that it must belong to. Raises as
    `check_report`, and `OutputError` for the report of another model.
    """
    _check_model(Report.model_validate(report), where, manifest)
    made = check_report(report, where)
    files = {REPORTS[0]: made.to_text(), **render_pages(made.to_dict())}
    (edit,) = made.edits
    version = made.provenance.versions.get(TOOL)
    return RenderedReport(files, build_measurements(made), version, edit.state)


def check_report(report: Mapping[str, Any], where: Path) -> Report:
    """Checks a report's seal and writes its sentences again. `where`: its file.

    Raises ValueError for an invalid report or one that holds text, and `OutputError` for one that
    was changed after it was written.
    """
    given = Report.model_validate(report)
    _check_open_parts(given)
    if given.seal != seal_report(report):
        what = "was changed after it was measured"
        raise OutputError(what, where=where, fix="remove it, and evaluate again")
    return write_all_sentences(given)


def _check_model(report: Report, where: Path, manifest: bytes) -> None:
    """Refuses the report of another model, and one whose base is not the model's source."""
    recorded = Manifest.model_validate_json(manifest, strict=True)
    ours, base = hashlib.sha256(manifest).hexdigest(), report.base.provenance
    if [edit.provenance.get("manifest_sha256") for edit in report.edits] != [ours]:
        raise OutputError(
            "belongs to another model", where=where, fix="remove it, and evaluate this one"
        )
    named = {(source.model, source.commit) for source in recorded.sources if source.commit}
    contents = {source.content for source in recorded.sources if source.content}
    is_source = base.get("content") in contents
    is_source = is_source or (base.get("model"), base.get("commit")) in named
    (edit,) = report.edits
    if edit.relation != "source" or not is_source:
        what = "compares with a model that is not recorded as the source"
        raise OutputError(what, where=where, fix="remove it, and evaluate against the source")
    made = summarize_edit(recorded)
    early = made.model_copy(update={"max_shard_size": None})  # which reports used to leave out
    if edit.edit not in (made, early):
        what = "edit differs from the one in surgery.json"
        raise OutputError(what, where=where, fix="remove it, and evaluate again")


def write_all_sentences(report: Report) -> Report:
    """Writes every sentence again. An untouched report stays the same."""
    plain = report.model_dump()
    for edit in plain["edits"]:
        _write_verdicts(edit)
        if extraction := edit["extraction"]:
            extraction["warnings"] = extraction_warnings(extraction)
            if selectivity := extraction["paired"].get("selectivity"):
                selectivity["definition"] = SELECTIVITY
        if audit := edit["audit"]:
            for one in audit["attacks"]:
                one |= _find(one["name"]).description
            tried = [one["name"] for one in audit["attacks"] if one["edited"] is not None]
            audit["skipped"] = {name: _find(name).needs for name in audit["skipped"]}
            audit["not_tried"] = list_untried(tried)
    for point in plain["front"]:
        point["label"] = point["label"] if _FRONT.fullmatch(point["label"]) else ""
    return write_sentences(Report.model_validate(plain))


def _write_verdicts(edit: dict[str, Any]) -> None:
    compared = [edit["heldout"]]
    compared += [edit[key]["heldout"] for key in ("healed_base", "all_passages") if edit[key]]
    for task in edit["tasks"].values():
        compared += [task, *task["metrics"].values()]
    for one in filter(None, compared):
        interval = Interval(*(one["ci95"] if "ci95" in one else one["difference"]["ci95"]))
        one["verdict"] = describe_outcome(one["outcome"], interval, one["n"])


def _find(name: str) -> Attack:
    """One of our attacks. A report is data, so another's own attack is never imported."""
    try:
        return make_attack(name)
    except MeasurementError:
        what = f"holds an attack that is not part of attn-surgery, {name!r}"
        raise OutputError(what, fix="evaluate again without it") from None
