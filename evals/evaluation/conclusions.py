"""The parts of a report that are not figures of one task."""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from evals.evaluation.comparing import RESOLUTION, describe_outcome, draw_conclusion, wilcoxon
from evals.evaluation.report import (
    EditReport,
    EditSummary,
    FrontPoint,
    HeldOut,
    Mean,
    MeanDifference,
    MeasuredModel,
    Relation,
)
from evals.memorization.comparison import ExtractionResults
from evals.memorization.summary import ControlLoss, list_rows
from evals.model_map import ModelMap
from evals.statistics import Interval, mean
from surgery.errors import MeasurementError
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import Manifest
from surgery.selection import format_selection
from surgery.untrusted import guard, parse_json, read_bytes

MOST_PASSAGES = 12
PASSAGE = (
    "id", "hash", "exact", "first_divergence", "next_token_accuracy", "memorization_score",
    "nll", "count", "member", "baseline",
)  # fmt: skip
"""The keys of a row that a report shows."""


def compare_heldout(before: ControlLoss | None, after: ControlLoss | None) -> HeldOut | None:
    """Compares the loss of the same windows under both models; None if there are none."""
    if before is None or after is None:
        return None
    rise = after.nll - before.nll
    change, p_value, n = mean(rise), wilcoxon(before.nll, after.nll), len(rise)
    interval = Interval(*change["ci95"])
    outcome = draw_conclusion(interval, p_value, RESOLUTION, n)
    return HeldOut(
        kind=before.kind,
        n=n,
        base=Mean(**mean(before.nll)),
        edited=Mean(**mean(after.nll)),
        difference=MeanDifference(**change, p_value=p_value, test="wilcoxon"),
        resolution=RESOLUTION,
        outcome=outcome,
        verdict=describe_outcome(outcome, interval, n),
    )


def summarize_edit(manifest: Manifest) -> EditSummary:
    """A manifest's latest edit, as the report shows it."""
    edit, record = manifest.edit, manifest.edit.model_dump(mode="json")
    alike = ("family", "num_blocks", "num_heads", "parts", "layout", "one_hot", "calibration")
    return EditSummary(
        **{key: record[key] for key in (*alike, "healing")},
        source=edit.source.model,
        drop_attn=format_selection(tuple(edit.parts), edit.num_heads),
        blocks=list(edit.blocks),
        variant=edit.variant,
        attention_free={str(block): name for block, name in manifest.attention_free.items()},
        earlier_edits=len(manifest.history),
    )


class _FrontEdit(BaseModel):
    spec: str
    variant: str
    exact_match: float
    exact_match_ci95: tuple[float, float] | None = None
    next_token_accuracy: float | None = None
    heldout_loss: float
    recovered: dict[str, float] = Field(default_factory=dict)


class _Base(BaseModel):
    heldout_loss: float


class _Search(BaseModel):
    base: _Base
    front: list[_FrontEdit]
    map: ModelMap | None = None


def read_search(path: Path) -> tuple[list[FrontPoint], ModelMap | None]:
    """Reads the front, and what each unit is worth, from the output of `search --json`.

    Raises `MeasurementError` for anything else.
    """
    with guard(MeasurementError, "is not the JSON of a search", path):
        search = _Search.model_validate(parse_json(read_bytes(path, MeasurementError)))
        front = [
            FrontPoint(
                label=f"{found.spec} {found.variant}",
                loss_increase=found.heldout_loss - search.base.heldout_loss,
                **found.model_dump(exclude={"spec", "variant"}),
            )
            for found in search.front
        ]
        return front, search.map


def choose_passages(
    before: ExtractionResults | None, after: ExtractionResults | None
) -> list[dict[str, Any]]:
    """At most `MOST_PASSAGES` rows: those that the base recites first, then by what is left."""
    if before is None or after is None:
        return []

    def rank(row: dict[str, Any]) -> tuple[bool, bool, int]:
        return not row["baseline"]["exact"], not row["exact"], row["first_divergence"] or 0

    found = sorted(list_rows(after.test, baseline=before.test), key=rank)
    return [{key: row[key] for key in PASSAGE if key in row} for row in found[:MOST_PASSAGES]]


def decode_passages(
    test: ExtractionResults | None, tokenizer: Any, hashes: Container[str]
) -> list[dict[str, Any]]:
    """`id`, `hash`, `prefix` and `suffix` (as text) of the passages with these hashes."""
    if test is None or tokenizer is None:
        return []
    shown = ("id", "hash", "prefix", "suffix")
    found = (row for row in list_rows(test.test, tokenizer=tokenizer) if row["hash"] in hashes)
    return [{key: row[key] for key in shown} for row in found]


def find_relation(manifest: Manifest | None, base: ResolvedModel) -> Relation:
    """Whether the base is a source of a manifest's edits, judged by its content."""
    if manifest is None:
        return "not recorded"
    if base.is_source_of(manifest):
        return "source"
    sources = [edit.source for edit in (*manifest.history, manifest.edit)]
    return "unrelated" if all(source.content for source in sources) else "not recorded"


def list_warnings(edit: EditReport, base: MeasuredModel, limit: float | None) -> list[str]:
    """What to know before you rely on a figure. `limit`: of the request."""
    found = ["memorization was not measured; to measure it, give passages with --samples"]
    if edit.extraction is not None:
        found = list(edit.extraction["warnings"])
    if edit.edit is not None and edit.edit.healing and edit.healed_base is None:
        found.append(
            "the model was healed, and part of what that gained may be what the text teaches any "
            "model; to compare with the base healed the same way, give the text with --heal"
        )
    if limit is not None:
        found.append(
            "only a part of each benchmark was measured (--limit), so the model card leaves these "
            "figures out; evaluate without --limit before you publish"
        )
    if edit.chose.warning:
        found.append(edit.chose.warning)
    tokenizers = {model.provenance.get("tokenizer_sha256") for model in (base, edit)}
    if len(tokenizers) > 1:
        found.append("the base and the edited model have different tokenizers")
    return found
