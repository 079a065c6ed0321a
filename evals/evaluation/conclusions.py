"""What an evaluation found, in the parts of its report that are not figures of one task."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from evals.attacks.audit import shortened
from evals.attacks.result import Audit
from evals.evaluation.comparing import RESOLUTION, concluded, outcome_of, verdict_of, wilcoxon
from evals.evaluation.report import (
    Difference,
    Edit,
    Gate,
    HeldOut,
    Mean,
    Names,
    Point,
    Relation,
    Settings,
    Task,
    TradeOff,
)
from evals.evaluation.report_text import PASSAGE
from evals.memorization.comparison import Measured
from evals.memorization.summary import Control, rows
from evals.statistics import Interval, mean
from surgery.checkpoint.foreign import guard, parse_json, read_bytes
from surgery.errors import MeasurementError
from surgery.hub.embedded import PREFIX
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import Manifest
from surgery.selection import format_selection

MOST_PASSAGES = 12


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


def export_command(edit: Edit) -> list[str]:
    """The command that made the edit; empty where no single one did."""
    if edit.variant == "mixed" or edit.earlier_edits:
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
        *(("--attack", name) for name in shortened(settings.attacks)),
        *(("--max", f"{name}={limit:g}") for name, limit in settings.max_recovered.items()),
        ("--dtype", settings.dtype),
        ("--batch-size", settings.batch_size),
    ]
    given = [word for name, value in options if value is not None for word in (name, str(value))]
    return shlex.join(["attn-surgery", "evaluate", models.edited, *given])


def trade_off_of(
    base: str,
    edited: str,
    extraction: dict[str, Any] | None,
    heldout: HeldOut | None,
    front: Sequence[Point] = (),
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

    before = point(base, "base", extraction["baseline"], heldout.base, 0.0)
    after = point(edited, "edited", extraction, heldout.edited, heldout.difference.mean)
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


RELATIONS: dict[Relation, str] = {
    "unrelated": "the models are unrelated: the base is no recorded source of the edited model",
    "not recorded": "the relation of the models is not recorded",
}
"""What must be said first where it is not known that one model is an edit of the other."""


def verdict(
    tasks: Mapping[str, Task],
    extraction: dict[str, Any] | None,
    audit: Audit | None,
    heldout: HeldOut | None,
    gates: Sequence[Gate],
    *,
    relation: Relation = "source",
    limit: float | None = None,
) -> str:
    """The result in a few sentences, after what must be known first. `limit`: of `Settings`."""
    said = [RELATIONS[relation]] if relation in RELATIONS else []
    if limit is not None:
        said.append(f"of the benchmarks only a part was measured (--limit {limit:g})")
    said += _results(tasks, extraction, audit, heldout, gates)
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said)


def warnings_of(
    extraction: dict[str, Any] | None, base: Mapping[str, Any], edited: Mapping[str, Any]
) -> list[str]:
    """What to know before believing a figure. `base`, `edited`: the models, as of `Provenance`."""
    found = ["memorization was not measured: there were no passages (--samples)"]
    if extraction is not None:
        found = list(extraction["warnings"])
    if base.get("tokenizer_sha256") != edited.get("tokenizer_sha256"):
        found.append("base and edited model have different tokenizers")
    return found


def _results(
    tasks: Mapping[str, Task],
    extraction: dict[str, Any] | None,
    audit: Audit | None,
    heldout: HeldOut | None,
    gates: Sequence[Gate],
) -> list[str]:
    parts = []
    if extraction is None:
        parts.append("memorization was not measured")
    else:
        count, before = (
            part["exact_match"]["count"] for part in (extraction, extraction["baseline"])
        )
        parts.append(
            f"recites {count} of {extraction['n']:,} passages word for word, the base {before}"
        )
    if audit is not None and (worst := audit.strongest) is not None:
        of = worst.edited
        told = f"the strongest of {len(audit.rated)} attacks, {worst.name}, recovers {of.count} of "
        told += f"{of.n:,} passages, from the base {worst.base.count}"
        if worst.control is not None:
            told += f", of text never trained on {worst.control.count} of {worst.control.n:,}"
        parts.append(told)
    if tasks:
        parts.append(_of_tasks(tasks))
    if heldout is not None:
        changes = {"none": f"no rise shown (n = {heldout.n:,})", "inconclusive": heldout.verdict}
        shown = f"{heldout.difference.mean:+.3f} nats per token (n = {heldout.n:,})"
        parts.append(f"held-out loss: {changes.get(heldout.outcome, shown)}")
    return [*parts, _of_gates(gates)] if gates else parts


def _of_tasks(tasks: Mapping[str, Task]) -> str:
    """Losses and what is inconclusive, by name; without losses, on how many tasks none is shown."""
    losses = [
        f"{name} ({task.metric} {task.base:.3g} to {task.edited:.3g}, n = {task.n:,})"
        for name, task in tasks.items()
        if task.outcome == "loss"
    ]
    unsure = [
        f"{name} (n = {task.n:,})" for name, task in tasks.items() if task.outcome == "inconclusive"
    ]
    others = [task.n for task in tasks.values() if task.outcome in ("none", "gain")]
    every = "its task" if len(tasks) == 1 else f"any of {len(tasks)} tasks"
    parts = []
    if losses:
        parts.append(f"loss on {len(losses)} of {len(tasks)} tasks: {_first(losses)}")
    elif others:
        n = " to ".join(dict.fromkeys(f"{end(others):,}" for end in (min, max)))
        where = f"{len(others)} of {len(tasks)} tasks" if unsure else every
        parts.append(f"no loss shown on {where} (n = {n})")
    if unsure:
        parts.append(f"inconclusive on {len(unsure)} of {len(tasks)} tasks: {_first(unsure)}")
    return ", ".join(parts)


def _of_gates(gates: Sequence[Gate]) -> str:
    failed = [gate.name for gate in gates if not gate.ok]
    if failed:
        return f"it may not ship by its gates, failed: {_first(failed)}"
    unsure = [f"{gate.name} (n = {gate.n:,})" for gate in gates if not gate.conclusive]
    if unsure:
        return f"every gate holds as measured, but inconclusive: {_first(unsure)}"
    return "it may ship by its gates: every one holds"


def _first(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
