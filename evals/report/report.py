"""The schema of report.json, which holds everything an evaluation found (see docs/report.md).

Numbers are plain floats and ints. A figure that could not be measured is null, never missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from evals.data.held_back import ChoiceCounts
from evals.measure.attacks.result import Audit, Share, SharePair
from evals.measure.differences import HeldOut, Metric
from evals.measure.verdicts import Limit, State
from evals.report.model_map import ModelMap
from evals.report.request import EvaluationRequest
from surgery.record.manifest import Line, Manifest, Record, Sha256, TextSource, Word
from surgery.selection import format_selection

Relation = Literal["source", "unrelated", "not recorded"]


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


class EditSummary(Record):
    """The edit, from the edited folder's manifest. `missed`: its search met no limits."""

    source: str
    commit: str | None = None
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
    erasing: dict[str, Any] | None = None
    healing: dict[str, Any] | None = None
    earlier_edits: int = 0
    max_shard_size: int | None = None
    missed: bool = False


class ModelSize(Record):
    parameters: int
    weight_bytes: int
    cache_bytes_per_token: int


class FrontPoint(Record):
    """An edit that a search found. `exact_match` is a rate; losses are in nats per token.

    `loss_increase`: the held-out loss minus that of the search's own base on the same text.
    `recovered`: attack → the share that it recovers.
    """

    label: str
    exact_match: float
    exact_match_ci95: tuple[float, float] | None = None
    next_token_accuracy: float | None = None
    heldout_loss: float
    loss_increase: float
    recovered: dict[Word, float] = Field(default_factory=dict)


class MeasuredModel(Record):
    """A measured model: its name as typed, its size, its identity, and how it was run."""

    name: Line
    size: ModelSize
    provenance: dict[str, Any]


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


class EditReport(MeasuredModel):
    """One edited model, compared with the base.

    `relation`: whether the base is its recorded source. Figures of passages and held-out text
    leave out those on which an edit was chosen; `all_passages` then has the figures of all listed.
    `unlisted`: those of the passages that `leave_out` took as not listed.
    `state`: of all gates together, None without any; `passed`: true if kept, false if missed.
    """

    relation: Relation
    verdict: str = ""
    state: State | None = None
    passed: bool | None = None
    chose: ChoiceCounts
    tasks: dict[Word, TaskResult]
    extraction: dict[str, Any] | None
    audit: Audit | None
    heldout: HeldOut | None
    twin: TwinFigures | None = None
    all_passages: AllPassages | None
    unlisted: AllPassages | None = None
    gates: list[Limit] = Field(default_factory=list)
    edit: EditSummary | None
    passages: list[dict[str, Any]] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)


class Provenance(Record):
    """What the figures depend on besides the models.

    `controls`: the held-out text: files with their hashes, or the name of a lab.
    """

    seeds: dict[Word, int]
    versions: dict[Word, Word]
    baseline_from_cache: bool
    samples_sha256: Sha256 | None = None
    controls: list[TextSource] = Field(default_factory=list)


class Report(Record):
    """One base and its edits, all measured in the same way.

    `front`, `map`: edits that a search found, and what each unit is worth and costs. `settings`:
    the request, with names instead of paths. `commands`: they make this report again. `seal`: the
    hash of everything else.
    """

    schema_version: Literal[5] = 5
    created: Word
    base: MeasuredModel
    edits: list[EditReport] = Field(min_length=1)
    front: list[FrontPoint] = Field(default_factory=list)
    map: ModelMap | None = None
    settings: EvaluationRequest
    provenance: Provenance
    commands: list[str] = Field(default_factory=list)
    seal: Sha256 | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, sealed."""
        plain = self.model_dump(mode="json")
        return plain | {"seal": seal_report(plain)}

    def to_text(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def seal_report(report: Mapping[str, Any]) -> str:
    """SHA-256 of a report's JSON values without its seal. It shows careless changes."""
    rest = {key: value for key, value in report.items() if key != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def summarize_edit(manifest: Manifest) -> EditSummary:
    """A manifest's latest edit, as the report shows it, and the last healing of any edit."""
    edit, healing = manifest.edit, manifest.healing
    record = edit.model_dump(mode="json")
    alike = (
        "family",
        "num_blocks",
        "num_heads",
        "parts",
        "layout",
        "one_hot",
        "calibration",
        "erasing",
    )
    return EditSummary(
        **{key: record[key] for key in alike},
        healing=None if healing is None else healing.model_dump(mode="json"),
        source=edit.source.model,
        commit=edit.source.commit,
        drop_attn=format_selection(tuple(edit.parts), edit.num_heads),
        blocks=list(edit.blocks),
        variant=edit.variant,
        attention_free={str(block): name for block, name in manifest.attention_free.items()},
        earlier_edits=len(manifest.history),
        max_shard_size=edit.max_shard_size,
        missed=edit.chosen is not None and not edit.chosen.met,
    )
