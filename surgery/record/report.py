"""The JSON of `extract`, `audit`, and `evaluate`: what was found, as one list of figures.

The schema is closed. It takes numbers, hashes, names, and sentences of one line, and nothing else.
docs/report.md explains it. `surgery.json` records the SHA-256 of a `report.json`, and a report
names its edit by `Manifest.content`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from surgery.record.manifest import (
    History,
    Line,
    Record,
    Sha256,
    TextSource,
    Word,
)
from surgery.record.measured import (
    BASE,
    TWIN,
    Details,
    Limit,
    Measured,
    On,
    Scalar,
    State,
    Text,
    find,
)

Long = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*$", max_length=100_000)]
"""A command, or what it lists, in one line."""
Rate = Annotated[float, Field(ge=0, le=1)]
Setting = Scalar | list[Scalar] | dict[Word, Scalar]
Relation = Literal["source", "unrelated", "not recorded"]
UnitKind = Literal["block", "group", "head"]
"""[rows][blocks]; None where the model cannot hold the edit, or where it was not measured."""


SCHEMA: Literal[6] = 6


class Named(Record):
    """What a figure is called, and how it was measured.

    `hint`: what the label means. `main`: also in short tables. `details`: how it was measured.
    """

    label: Text
    hint: Text = ""
    main: bool = False
    details: Details = Field(default_factory=dict)


class Result(Record):
    """What `extract`, `audit`, `evaluate`, `sweep`, and `search` print and write as JSON.

    `names`: of all figures, in the order of the tables. `limits`: those that are to be kept.
    """

    schema_version: Literal[6] = SCHEMA
    command: Literal["extract", "audit", "evaluate", "sweep", "search"]
    names: dict[Text, Named]
    figures: list[Measured]
    limits: list[Limit] = Field(default_factory=list)

    @model_validator(mode="after")
    def _agree(self) -> Result:
        """Checks that every figure has a name, and that no two are the same."""
        keys = [one.key for one in self.figures]
        if len({*keys}) < len(keys):
            raise ValueError("two figures have the same name, model, and passages")
        for figure in (*self.figures, *self.limits):
            if figure.name not in self.names:
                raise ValueError(f"the figure {figure.name} is not among the names")
        return self

    def find(self, name: str, of: str, on: On | None = None) -> Measured | None:
        """As `surgery.record.measured.find`."""
        return find(self.figures, name, of, on)

    def list_limits(self, of: str) -> list[Limit]:
        """The limits of a model, in their order."""
        return [limit for limit in self.limits if limit.of == of]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


class Table(Record):
    """The heading and the explanation of some figures. `names`: of these figures.

    `on`: the passages that it is of; None: those of the main figures.
    """

    key: Word
    heading: Line
    text: Text = ""
    on: On | None = None
    names: list[Text]


class MeasuredModel(Record):
    """A measured model: its name as typed, its identity, and how it was run."""

    name: Line
    provenance: Details


class PassageScores(Record):
    exact: bool
    first_divergence: int | None
    next_token_accuracy: Rate
    nll: float | None
    memorization_score: float | None = None


class PassageRow(PassageScores):
    """What became of one passage. `id` None: its name is no single word."""

    id: Word | None
    hash: Sha256
    count: int | None = None
    member: bool | None = None
    baseline: PassageScores | None


class EditRecord(MeasuredModel):
    """`of`: its name in the figures.

    `relation`: whether the base is its recorded `source`; only then does a report go onto the card
    or to the Hub. `chose`: how many passages and windows a search used, and how many passages the
    edit was taught; None if that is not known. The figures leave these out, or, of an edit that was
    taught all of them, are of nothing else. `state`: of all limits together, None without any.
    `line`, `verdict`: the result in one line, and in a few sentences. `edit`: the `history` of
    surgery.json. `skipped`: attack that was asked for → what it needs and did not have.
    `passages`: a few, with hashes in place of text.
    """

    of: Word
    relation: Relation
    verdict: Text
    line: Text
    state: State | None = None
    chose: Mapping[Literal["passages", "windows", "taught"], int | None]
    not_tried: list[Word]
    skipped: dict[Word, Text] = Field(default_factory=dict)
    edit: History | None
    passages: list[PassageRow]
    warnings: list[Text]


class FrontPoint(Record):
    """An edit that a search found. `of`: its name in `Report.figures`."""

    of: Word
    label: Long


class Provenance(Record):
    """What the figures depend on besides the models.

    `controls`: the held-out text: files with their hashes, or the name of a lab. `sibling`: what
    attacks copied attention from.
    """

    seeds: dict[Word, int]
    versions: dict[Word, Line]
    baseline_from_cache: bool
    controls: list[TextSource] = Field(default_factory=list)
    sibling: Details | None = None


class SamplesRecord(Record):
    """The passages that were tested. `source`: a name without folders.

    `longer`: how many passages go on after the suffix, by `untested_tokens` at most. `secrets`:
    whether each suffix is a secret that was marked; `suffix_length` is then that of the longest.
    """

    source: Text
    sha256: Sha256
    rows: int
    left_out: int
    prefix_length: int
    suffix_length: int
    secrets: bool
    longer: int
    untested_tokens: int


class Report(Result):
    """Edited models, measured in the same way as the base, if there is one.

    `twin`: the model that never saw the passages. `attackers`: what someone may do, from who just
    asks the model on; attacks name theirs. `front`: edits that a search found. `samples`: the
    passages; `longer` of them go on after the suffix. `settings`: the request, with names instead
    of paths.
    """

    created: Word
    base: MeasuredModel | None
    twin: MeasuredModel | None = None
    edits: list[EditRecord] = Field(min_length=1)
    samples: SamplesRecord | None
    attackers: list[Text] = Field(default_factory=list)
    tables: list[Table]
    front: list[FrontPoint] = Field(default_factory=list)
    settings: dict[Word, Setting]
    provenance: Provenance

    @model_validator(mode="after")
    def _is_of_its_models(self) -> Report:
        known = {BASE} if self.base else set()
        known |= {edit.of for edit in self.edits} | {one.of for one in self.front}
        known |= {TWIN} if self.twin else set()
        if other := {figure.of for figure in (*self.figures, *self.limits)} - known:
            raise ValueError(f"a figure is of {min(other)}, which is no model here")
        return self
