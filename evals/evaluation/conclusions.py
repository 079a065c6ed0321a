"""What an evaluation found, in the parts of its report that are not figures of one task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from evals.attacks.names import shorten_names
from evals.evaluation.comparing import RESOLUTION, concluded, outcome_of, verdict_of, wilcoxon
from evals.evaluation.report import (
    Difference,
    Edit,
    HeldOut,
    Mean,
    Names,
    Point,
    Relation,
    Settings,
    TradeOff,
)
from evals.memorization.comparison import Measured
from evals.memorization.summary import Control, rows
from evals.samples.held_back import Chose
from evals.statistics import Interval, mean
from surgery.errors import MeasurementError
from surgery.hub.embedded import PREFIX
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import Manifest
from surgery.selection import format_selection
from surgery.untrusted import guard, parse_json, read_bytes

MOST_PASSAGES = 12
PASSAGE = (
    "id", "hash", "exact", "first_divergence", "next_token_accuracy", "memorization_score",
    "nll", "count", "member", "baseline",
)  # fmt: skip
"""What a report shows of a row, and what is published of it."""


def heldout_of(before: Control | None, after: Control | None) -> HeldOut | None:
    """Loss of the same windows under both models; None where there are none."""
    if before is None or after is None:
        return None
    rise = after.nll - before.nll
    change, p_value, n = mean(rise), wilcoxon(before.nll, after.nll), len(rise)
    interval = Interval(*change["ci95"])
    outcome = outcome_of(interval, p_value, higher_is_better=False)
    outcome = concluded(outcome, interval, RESOLUTION, n=n)
    return HeldOut(
        kind=before.kind,
        n=n,
        base=Mean(**mean(before.nll)),
        edited=Mean(**mean(after.nll)),
        difference=Difference(**change, p_value=p_value, test="wilcoxon"),
        resolution=RESOLUTION,
        outcome=outcome,
        verdict=verdict_of(outcome, interval, n),
    )


def edit_of(manifest: Manifest) -> Edit:
    """The latest edit of a manifest, as the report shows it."""
    edit, record = manifest.edit, manifest.edit.model_dump(mode="json")
    alike = ("family", "num_blocks", "num_heads", "parts", "layout", "one_hot", "calibration")
    return Edit(
        **{key: record[key] for key in alike},
        source=edit.source.model,
        drop_attn=format_selection(tuple(edit.parts), edit.num_heads),
        blocks=list(edit.blocks),
        variant=edit.variant,
        attention_free={str(block): name for block, name in manifest.attention_free.items()},
        earlier_edits=len(manifest.history),
    )


def export_command(edit: Edit | None) -> list[str]:
    """The command that made the edit; empty where no single one did."""
    if edit is None or edit.variant == "mixed" or edit.earlier_edits:
        return []
    command = ["attn-surgery", "export", edit.source, "--drop-attn", edit.drop_attn]
    command += ["--variant", edit.variant, "--layout", edit.layout]
    for source in (edit.calibration or {}).get("sources", ()):
        if source.get("sha256"):
            command += ["--calibration", source["name"]]
    return [shlex.join([*command, "--output", "OUT"])]


class _Found(BaseModel):
    spec: str
    variant: str
    exact_match: float
    exact_match_ci95: tuple[float, float] | None = None
    next_token_accuracy: float | None = None
    heldout_loss: float


class _Base(BaseModel):
    heldout_loss: float


class _Search(BaseModel):
    base: _Base
    front: list[_Found]


def read_front(path: Path) -> list[Point]:
    """The front of a file that `search --json` printed. Raises `MeasurementError` for any other."""
    with guard(MeasurementError, "is no result of a search", path):
        search = _Search.model_validate(parse_json(read_bytes(path, MeasurementError)))
        return [
            Point(
                label=f"{found.spec} {found.variant}",
                kind="front",
                loss_increase=found.heldout_loss - search.base.heldout_loss,
                **found.model_dump(exclude={"spec", "variant"}),
            )
            for found in search.front
        ]


def evaluate_command(models: Names, revision: str | None, settings: Settings) -> str:
    """The command for people to type where the files are: they are named without their paths."""
    controls = [text.name for text in settings.controls]
    options: list[tuple[str, object]] = [
        ("--baseline", models.base),
        ("--revision", revision),
        ("--tasks", ",".join(settings.tasks) or None),
        ("--num-fewshot", settings.num_fewshot),
        ("--limit", settings.limit),
        ("--samples", settings.samples),
        ("--prefix-length", settings.prefix_length),
        ("--suffix-length", settings.suffix_length),
        *(("--control", name) for name in controls if not name.startswith(PREFIX)),
        *(("--max-drop", f"{task}={limit:g}") for task, limit in settings.max_drop.items()),
        ("--max-extraction", settings.max_extraction),
        *(("--attack", name) for name in shorten_names(settings.attacks)),
        *(("--max", f"{name}={limit:g}") for name, limit in settings.max_recovered.items()),
        ("--dtype", settings.dtype),
        ("--batch-size", settings.batch_size),
    ]
    given = [word for name, value in options if value is not None for word in (name, str(value))]
    return shlex.join(["attn-surgery", "evaluate", models.edited, *given])


def trade_off_of(
    models: Names,
    extraction: dict[str, Any] | None,
    heldout: HeldOut | None,
    front: Sequence[Point],
) -> TradeOff | None:
    """Points of recitation against held-out loss; `front`: those of a search."""
    if extraction is None or heldout is None:
        return None

    def point(
        label: str, kind: Literal["base", "edited"], figures: Any, loss: Mean, rise: float
    ) -> Point:
        return Point(
            label=label,
            kind=kind,
            exact_match=figures["exact_match"]["rate"],
            exact_match_ci95=figures["exact_match"]["ci95"],
            next_token_accuracy=figures["next_token_accuracy"]["mean"],
            heldout_loss=loss.mean,
            loss_increase=rise,
        )

    before = point(models.base, "base", extraction["baseline"], heldout.base, 0.0)
    after = point(models.edited, "edited", extraction, heldout.edited, heldout.difference.mean)
    note = "the front was measured by the search, on the half that it chose on" if front else None
    return TradeOff(points=[before, after, *front], note=note)


def passages_of(
    before: Measured | None, after: Measured | None, tokenizer: Any = None
) -> list[dict[str, Any]]:
    """Rows that tell most: those the base recites, and of these the ones still recited, first.

    With `tokenizer` they hold their text.
    """
    if before is None or after is None:
        return []

    def recited(row: dict[str, Any]) -> tuple[bool, bool, int]:
        return not row["baseline"]["exact"], not row["exact"], row["first_divergence"] or 0

    found = sorted(rows(after.test, baseline=before.test, tokenizer=tokenizer), key=recited)
    shown = (*PASSAGE, "prefix", "suffix")
    return [{key: row[key] for key in shown if key in row} for row in found[:MOST_PASSAGES]]


def relation_of(manifest: Manifest | None, base: ResolvedModel) -> Relation:
    """Whether the base is a source of the edits of a manifest: by content."""
    if manifest is None:
        return "not recorded"
    if base.is_source_of(manifest):
        return "source"
    sources = [edit.source for edit in (*manifest.history, manifest.edit)]
    return "unrelated" if all(source.content for source in sources) else "not recorded"


def warnings_of(
    chose: Chose,
    limit: float | None,
    extraction: dict[str, Any] | None,
    base: Mapping[str, Any],
    edited: Mapping[str, Any],
) -> list[str]:
    """What to know before believing a figure. `base`, `edited`: the models, as of `Provenance`."""
    found = ["memorization was not measured: there were no passages (--samples)"]
    if extraction is not None:
        found = list(extraction["warnings"])
    if limit is not None:
        found.append(
            "the benchmarks were measured in part (--limit): the model card leaves them out, and "
            "report.json has them; evaluate without it before you publish"
        )
    if chose.warning:
        found.append(chose.warning)
    if base.get("tokenizer_sha256") != edited.get("tokenizer_sha256"):
        found.append("base and edited model have different tokenizers")
    return found
