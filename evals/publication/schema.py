"""What the open parts of a report may hold: numbers, hashes and names under known keys.

`Report` checks the rest, so a report has no place for a passage's text.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field, model_validator

from evals.attacks.result import Area, ControlKind
from evals.evaluation.report import Mean, Report
from evals.memorization.measures import MEASURES
from surgery.record.manifest import Line, Record, Sha256, Word

_MEASURES = {measure.name.partition(".")[0] for measure in MEASURES}


class RateFigure(Record):
    count: int
    rate: float
    ci95: tuple[float, float]


class CurvePoint(RateFigure):
    n: int
    p: float


class SampledFigure(Record):
    """Extraction by sampling."""

    curve: list[CurvePoint]
    top_k: int
    temperature: float


Figure = RateFigure | Mean | SampledFigure


class MeasureFigures(Record):
    """Measure → figures of `n` passages."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Figure | dict[Word, RateFigure]]

    n: int

    @model_validator(mode="after")
    def _of_known_measures(self) -> MeasureFigures:
        if unknown := sorted(set(self.__pydantic_extra__) - _MEASURES):
            raise ValueError(f"{unknown[0][:40]!r} is not a measure")
        return self


class Stratum(MeasureFigures):
    """Passages that were seen `count` times."""

    count: Word


class ControlFigures(ControlKind):
    nll: Mean
    sha256: Sha256


class ModelFigures(MeasureFigures):
    prefix_length: int
    suffix_length: int
    by_count: list[Stratum] = Field(default_factory=list)
    non_members: MeasureFigures | None = None
    membership: dict[Word, Area] = Field(default_factory=dict)
    control: ControlFigures | None = None


class ValueFigure(Record):
    value: float
    ci95: tuple[float, float]


class Selectivity(ValueFigure):
    definition: str


class PairedFigures(Record):
    """What the edit changed. `count`, `n`: of a stratum."""

    forgotten: int
    newly_extracted: int
    p_value: float
    exact_match_difference: ValueFigure
    count: Word | None = None
    n: int | None = None


class AllPairedFigures(PairedFigures):
    next_token_accuracy_difference: Mean
    suffix_nll_difference: Mean
    control_nll_difference: Mean | None = None
    selectivity: Selectivity | None = None
    by_count: list[PairedFigures] = Field(default_factory=list)


class RowReason(Record):
    """Why a row was left out, in our own words."""

    id: Word
    reason: Line


class SamplesFacts(Record):
    source: Line
    sha256: Sha256
    rows: int
    left_out: list[RowReason]
    reservations: list[RowReason]


class ModelIdentity(Record):
    """A model's identity, and how it was run."""

    model: Line
    revision: Word | None = None
    commit: Word | None = None
    content: Sha256 | None = None
    manifest_sha256: Sha256 | None = None
    config_sha256: Sha256 | None = None
    tokenizer_sha256: Sha256 | None = None
    dtype: Word
    device: Word
    attn_implementation: Word
    batch_size: int | None = None


class ExtractionProvenance(Record):
    model: ModelIdentity
    baseline: ModelIdentity
    samples_sha256: Sha256
    seeds: dict[Word, int]
    versions: dict[Word, Word]


class ExtractionFigures(ModelFigures):
    """The JSON of `extract --baseline`. Warnings follow from the rest."""

    metrics: Literal["exact", "full"]
    samples: SamplesFacts
    baseline: ModelFigures
    paired: AllPairedFigures
    warnings: list[str]
    provenance: ExtractionProvenance


class RowFigures(Record):
    exact: bool
    first_divergence: int | None
    next_token_accuracy: float
    memorization_score: float | None = None
    nll: float | None


class PassageRow(RowFigures):
    id: Word
    hash: Sha256
    count: int | None = None
    member: bool | None = None
    baseline: RowFigures


class EditParts(Record):
    """The open parts of one edit's report."""

    provenance: ModelIdentity
    extraction: ExtractionFigures | None
    passages: list[PassageRow]


class OpenParts(Record):
    """The open parts of a report."""

    provenance: ModelIdentity
    edits: list[EditParts]


def check_open_parts(report: Report) -> None:
    """Raises `pydantic.ValidationError` if an open part holds anything else."""
    edits = [{key: getattr(edit, key) for key in EditParts.model_fields} for edit in report.edits]
    OpenParts.model_validate({"provenance": report.base.provenance, "edits": edits})
