"""What an evaluation found of a base and its edits, as it was measured, before it is a report.

A report keeps figures and sentences of it (`evals.report.report.make_report`).
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from evals.data.held_back import ChoiceCounts
from evals.measure.attacks.result import Audit, Share, SharePair
from evals.measure.differences import HeldOut, Metric
from evals.report.request import EvaluationRequest
from surgery.record.manifest import Line, Record, Word
from surgery.record.report import (
    EditSummary,
    FrontPoint,
    MeasuredModel,
    ModelMap,
    PassageRow,
    Provenance,
    Relation,
)


class TaskResult(Metric):
    """A task: the figures of its main metric, and in `metrics` those of all metrics."""

    metric: Word
    metrics: dict[Word, Metric]
    description: Line | None = None
    num_fewshot: int
    batch_size: int
    version: Word | None = None


class AllPassages(Record):
    """Figures of `n` passages, and of windows: of all, which flatter an edit chosen on them, or of
    the passages that are not listed.

    `recovered`: by attack.
    """

    n: int
    recited: SharePair
    recovered: dict[str, SharePair]
    heldout: HeldOut | None


class ModelSize(Record):
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int


class SizedModel(MeasuredModel):
    size: ModelSize


class TwinFigures(Record):
    """A model that never saw the passages, and how far the edit goes from the base toward it.

    `recited`: the share recited; `loss`: its mean loss on the suffixes, in nats per token.
    `toward_recited`, `toward_loss`: 0 as the base, 1 as the twin (`measure_way`).
    """

    name: Line
    recited: Share
    loss: float
    toward_recited: float | None
    toward_loss: float | None


class Finding(SizedModel):
    """One edited model, compared with the base.

    Figures of passages and held-out text leave out those on which an edit was chosen;
    `all_passages` then has the figures of all listed. `unlisted`: those of the passages that
    `leave_out` took as not listed. `extraction`: as of `report_extraction`.
    """

    relation: Relation
    chose: ChoiceCounts
    tasks: dict[Word, TaskResult]
    extraction: dict[str, Any] | None
    audit: Audit | None
    heldout: HeldOut | None
    twin: TwinFigures | None = None
    all_passages: AllPassages | None
    unlisted: AllPassages | None = None
    edit: EditSummary | None
    passages: list[PassageRow] = Field(default_factory=list)


class Findings(Record):
    """One base and its edits, all measured in the same way. `settings`: with names for paths."""

    created: Word
    base: SizedModel
    edits: list[Finding] = Field(min_length=1)
    front: list[FrontPoint] = Field(default_factory=list)
    map: ModelMap | None = None
    settings: EvaluationRequest
    provenance: Provenance
