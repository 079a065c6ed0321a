"""report.json: everything an evaluation found, in one checked schema. docs/report.md explains it.

Numbers are plain floats and ints; a figure that could not be taken is null, never left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from evals.attacks.result import Audit, Shares
from evals.samples.held_back import Chose
from surgery.card.measured import Measured
from surgery.errors import MeasurementError
from surgery.record.manifest import Record, TextSource
from surgery.untrusted import guard, parse_json

Outcome = Literal["loss", "gain", "none", "inconclusive"]
Relation = Literal["source", "unrelated", "not recorded"]


class Names(Record):
    """What the two models are called: as typed, or as their manifest names them."""

    base: str
    edited: str


class Metric(Record):
    """One metric of one task, base and edited on the same documents.

    `resolution`: the width of `ci95` up to which no difference shown is a verdict.
    """

    base: float
    edited: float
    difference: float
    ci95: tuple[float, float]
    p_value: float
    test: str
    outcome: Outcome
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


class Task(Metric):
    """A task: its main metric's figures at the top, and those of all its metrics below."""

    metric: str
    metrics: dict[str, Metric]
    description: str | None = None
    num_fewshot: int
    batch_size: int
    version: str | None = None


class Mean(Record):
    mean: float
    ci95: tuple[float, float]


class Difference(Mean):
    p_value: float
    test: str


class HeldOut(Record):
    """Loss on text that was not trained on, in nats per token, lower being better."""

    kind: str
    n: int
    base: Mean
    edited: Mean
    difference: Difference
    resolution: float
    outcome: Outcome
    verdict: str


class AllPassages(Record):
    """Figures of all `n` passages and all windows, which flatter: some of them chose the edit.

    `recovered`: by attack.
    """

    n: int
    recited: Shares
    recovered: dict[str, Shares]
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


class Edit(Record):
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


class Size(Record):
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int


class Sizes(Record):
    base: Size
    edited: Size


class Point(Record):
    """One model in the trade-off picture. `exact_match` is a rate; losses are nats per token.

    `loss_increase`: of the held-out loss, over that of its own base on the same text.
    """

    label: str
    kind: Literal["base", "edited", "front"]
    exact_match: float
    exact_match_ci95: tuple[float, float] | None = None
    next_token_accuracy: float | None = None
    heldout_loss: float
    loss_increase: float


class TradeOff(Record):
    points: list[Point]
    note: str | None = None


class Settings(Record):
    """What was asked for, as data: with it the same can be measured again.

    Of files there are names and hashes, never paths. `controls`: held-out text, a lab model's name
    for its own; `batch_size` None: found for each task; `dtype`: as it was run; `attacks`: the
    names of those that were tried.
    """

    tasks: list[str]
    num_fewshot: int | None
    limit: int | float | None
    samples: str | None
    prefix_length: int | None
    suffix_length: int | None
    controls: list[TextSource]
    max_drop: dict[str, float]
    max_extraction: float | None
    attacks: list[str]
    max_recovered: dict[str, float]
    dtype: str
    batch_size: int | None


class Provenance(Record):
    """What the figures hang on: models by content, precision, device, sizes, seeds, versions."""

    base: dict[str, Any]
    edited: dict[str, Any]
    seeds: dict[str, int]
    versions: dict[str, str]
    baseline_from_cache: bool
    samples_sha256: str | None = None


class Report(Record):
    """`relation`: whether the base is a recorded source of the edited model.

    Figures of passages and of held-out text are of those that did not choose the edit; where any
    did, `all_passages` has those of all.
    """

    schema_version: Literal[3] = 3
    created: str
    verdict: str
    passed: bool | None
    models: Names
    relation: Relation
    chose: Chose
    tasks: dict[str, Task]
    extraction: dict[str, Any] | None
    audit: Audit | None
    heldout: HeldOut | None
    all_passages: AllPassages | None
    gates: list[Gate]
    edit: Edit | None
    sizes: Sizes
    speed: dict[str, Any] | None = None
    trade_off: TradeOff | None
    passages: list[dict[str, Any]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    settings: Settings
    provenance: Provenance
    commands: list[str]

    def to_dict(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    def measured(self) -> Measured | None:
        """What the model card shows; None where it holds for another model.

        Benchmarks that were measured in part are left out, as no one would take them for that.
        """
        if self.relation != "source":
            return None
        run, versions = self.provenance.edited, self.provenance.versions
        shown = [f"{key} {run[key]}" for key in ("dtype", "device") if run.get(key)]
        shown += [
            f"{key} {versions[key]}" for key in ("lm-eval", "transformers") if key in versions
        ]
        return Measured.model_validate(
            {
                **self.to_dict(),
                "tasks": self.to_dict()["tasks"] if self.settings.limit is None else {},
                "base": self.models.base,
                "attacks": [one.model_dump() for one in self.audit.rated] if self.audit else (),
                "settings": ", ".join(shown),
                "samples_sha256": self.provenance.samples_sha256,
            }
        )

    def to_text(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def read_report(report: str | Mapping[str, Any]) -> Report:
    """report.json, or what stands in it, as JSON takes it → the report.

    Raises `MeasurementError`, in one line, for what is no report of this schema.
    """
    with guard(MeasurementError, "is no report of this version of attn-surgery", "report.json"):
        text = report if isinstance(report, str) else json.dumps(report)
        return Report.model_validate(parse_json(text))
