"""report.json: everything an evaluation found, in one checked schema. docs/report.md explains it.

Numbers are plain floats and ints; a figure that could not be taken is null, never left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from evals.attacks.result import Audit, SharePair
from evals.evaluation.request import EvaluationRequest
from evals.samples.held_back import ChoiceCounts
from surgery.errors import MeasurementError
from surgery.record.manifest import Line, Record, Sha256, TextSource, Word
from surgery.untrusted import guard, parse_json

Conclusion = Literal["loss", "gain", "none", "inconclusive"]
Relation = Literal["source", "unrelated", "not recorded"]


class Metric(Record):
    """One metric of one task, base and edited on the same documents.

    `resolution`: the width of `ci95` up to which no difference shown is a verdict.
    """

    base: float
    edited: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    test: Literal["mcnemar", "wilcoxon", "bootstrap"]
    outcome: Conclusion
    verdict: str
    n: int
    resolution: float
    higher_is_better: bool
    drop: float
    drop_is_relative: bool

    @property
    def drop_ci95(self) -> tuple[float, float]:
        """The interval of `drop`."""
        unit = self.base if self.drop_is_relative else 1.0
        low, high = (end / unit for end in self.ci95)
        return (-high, -low) if self.higher_is_better else (low, high)


class TaskResult(Metric):
    """A task: its main metric's figures at the top, and those of all its metrics below."""

    metric: Word
    metrics: dict[Word, Metric]
    description: Line | None = None
    num_fewshot: int
    batch_size: int
    version: Word | None = None


class Mean(Record):
    mean: float
    ci95: tuple[float, float]


class MeanDifference(Mean):
    p_value: float
    test: Literal["mcnemar", "wilcoxon", "bootstrap"]


class HeldOut(Record):
    """Loss on text that was not trained on, in nats per token, lower being better."""

    kind: Literal["text", "non-members"]
    n: int
    base: Mean
    edited: Mean
    difference: MeanDifference
    resolution: float
    outcome: Conclusion
    verdict: str


class AllPassages(Record):
    """Figures of all `n` passages and all windows, which flatter: some of them chose the edit.

    `recovered`: by attack.
    """

    n: int
    recited: SharePair
    recovered: dict[str, SharePair]
    heldout: HeldOut | None


class Gate(Record):
    """A limit that was set, and what was measured on `n` documents or passages.

    `ok` if and only if value <= limit; `conclusive` where enough was measured for a verdict and all
    of the value's interval is on the same side of the limit.
    """

    name: str
    ok: bool
    limit: float
    value: float
    ci95: tuple[float, float]
    n: int
    conclusive: bool
    description: str


class EditSummary(Record):
    """What was done, from the edited folder's manifest."""

    source: str
    family: str
    num_blocks: int
    num_heads: int | None = None
    drop_attn: str
    blocks: list[int]
    parts: list[dict[str, Any]]
    variant: str
    layout: Literal["stock", "compact"]
    attention_free: dict[str, str]
    one_hot: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    earlier_edits: int = 0


class ModelSize(Record):
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int


class FrontPoint(Record):
    """An edit that a search found. `exact_match` is a rate; losses are in nats per token.

    `loss_increase`: the held-out loss, less that of the search's own base on the same text.
    """

    label: str
    exact_match: float
    exact_match_ci95: tuple[float, float] | None = None
    next_token_accuracy: float | None = None
    heldout_loss: float
    loss_increase: float


class MeasuredModel(Record):
    """A model that was measured: its name as typed, its content, and how it was run."""

    name: Line
    size: ModelSize
    provenance: dict[str, Any]


class EditReport(MeasuredModel):
    """One edited model, compared with the base.

    `relation`: whether the base is a recorded source of it. Figures of passages and of held-out
    text leave out those that chose an edit. Where any did, `all_passages` has those of all.
    """

    relation: Relation
    verdict: str
    passed: bool | None
    chose: ChoiceCounts
    tasks: dict[Word, TaskResult]
    extraction: dict[str, Any] | None
    audit: Audit | None
    heldout: HeldOut | None
    all_passages: AllPassages | None
    gates: list[Gate]
    edit: EditSummary | None
    passages: list[dict[str, Any]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class Provenance(Record):
    """What the figures depend on beside the models.

    `controls`: the held-out text, each file with its hash; a lab model's own by the lab's name.
    """

    seeds: dict[Word, int]
    versions: dict[Word, Word]
    baseline_from_cache: bool
    samples_sha256: Sha256 | None = None
    controls: list[TextSource] = Field(default_factory=list)


class Report(Record):
    """One base, and every edit of it that was measured in the same way.

    `front`: edits that a search found. `settings`: the request, with names in place of paths.
    `commands`: what makes this report again.
    """

    schema_version: Literal[4] = 4
    created: Word
    base: MeasuredModel
    edits: list[EditReport] = Field(min_length=1)
    front: list[FrontPoint] = Field(default_factory=list)
    settings: EvaluationRequest
    provenance: Provenance
    commands: list[str]

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def read_report(report: str | Mapping[str, Any]) -> Report:
    """report.json, or what stands in it, as JSON takes it → the report.

    Raises `MeasurementError`, in one line, for what is no report of this schema.
    """
    with guard(MeasurementError, "is no report of this version of attn-surgery", "report.json"):
        text = report if isinstance(report, str) else json.dumps(report)
        return Report.model_validate(parse_json(text))
