"""`report.json`: what an evaluation found, as one flat list of figures (see docs/report.md).

The schema is closed. It takes numbers, hashes, names, and sentences of one line, and nothing else.
`surgery.json` records the SHA-256 of a report, and a report names its edit by `Manifest.content`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from surgery.layouts.one_hot import OneHot
from surgery.record.manifest import (
    CalibrationRecord,
    ErasingRecord,
    HealingRecord,
    Line,
    Manifest,
    Record,
    Sha256,
    TextSource,
    Word,
)
from surgery.selection import Part, format_selection

MOST_LETTERS = 4000
Text = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*$", max_length=MOST_LETTERS)]
"""A sentence, or some, in one line."""
Long = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f\u2028\u2029]*$", max_length=100_000)]
"""A command, or what it lists, in one line."""
Rate = Annotated[float, Field(ge=0, le=1)]
Ends = tuple[float, float]
Scalar = bool | int | float | Text | None
Details = Mapping[Word, Scalar]
Setting = Scalar | list[Scalar] | dict[Word, Scalar]
State = Literal["kept", "missed", "undecided"]
"""- `kept`: with 95 % confidence, the value is within the limit; of passages that the model was
  taught, the value itself is.
- `missed`: the measured value is above the limit, however little was measured.
- `undecided`: the value is within, but more is likely, too little was measured, the test shows
  nothing (it finds no more in the base, or an attack could not have found more), or what does not
  count (a setting of an attack) exceeds the limit."""
Relation = Literal["source", "unrelated", "not recorded"]
Form = Literal["share", "nats", "number", "count", "bytes"]
UnitKind = Literal["block", "group", "head"]
Cells = list[list[float | None]]
"""[rows][blocks]; None where the model cannot hold the edit, or where it was not measured."""


class Limit(Record):
    """A limit, and the value measured on `n` passages or documents.

    - `ok`: true if it is kept, false if it is missed, None if that is not decided.
    - `bound`: the most that the value may be, with 95 % confidence, which decides. Of shares, it is
      one-sided, so lower than the end of `ci95`. None: in a report of version 0.3.0.
    - `needed`: how many passages or documents would decide it; `lacks`: the same, or what else is
      open, in words. None if it is decided; `needed` also if no number would.
    - `whole`: these are the passages that the model was taught, all there are. The count alone
      decides, `ci95` is the value itself, and nothing is said about other passages.
    """

    name: Text
    ok: bool | None
    state: State
    limit: float
    value: float
    ci95: Ends
    bound: float | None = None
    n: int
    needed: int | None = None
    lacks: Text | None = None
    whole: bool = False
    description: Text


class Value(Record):
    """A figure of one model, in shares from 0 to 1, nats per token, or as `Figure.form` says.

    `value` None: no row counts for it, or there is only a note. `details`: more, for programs.
    """

    value: float | None
    ci95: Ends | None = None
    note: Text = ""
    details: Details = Field(default_factory=dict)


class Change(Record):
    """Edited minus base, on the same rows."""

    value: float
    ci95: Ends | None = None
    p_value: float | None = None


class EditValue(Value):
    """A figure of an edited model. `limit`: what it must keep, and whether it does."""

    change: Change | None = None
    limit: Limit | None = None


class Figure(Record):
    """One thing that was measured, of every model, on `n` rows.

    `key` is its name for programs. `table`: the one that shows it; None: none does. `main`: also in
    short tables. `hint`: what the label means. `details`: how it was measured. A model without the
    figure has None.
    """

    key: Text
    table: Word | None
    label: Text
    hint: Text = ""
    main: bool = True
    form: Form
    n: int | None = None
    base: Value | None
    edits: Sequence[EditValue | None]
    details: Details = Field(default_factory=dict)


class Table(Record):
    """The heading and the explanation of the figures with its key."""

    key: Word
    heading: Line
    text: Text = ""


class MeasuredModel(Record):
    """A measured model: its name as typed, its identity, and how it was run."""

    name: Line
    provenance: Details


class EditSummary(Record):
    """The edit, from the edited folder's manifest. `missed`: its search met no limits.
    `taught_by_choice`: as for `Edit`.
    """

    source: Text
    commit: Word | None = None
    family: Word
    num_blocks: int
    num_heads: int | None = None
    drop_attn: Long
    blocks: list[int]
    parts: list[Part]
    variant: Word
    layout: Literal["stock", "compact"]
    attention_free: dict[int, Word]
    one_hot: OneHot | None = None
    calibration: CalibrationRecord | None = None
    erasing: ErasingRecord | None = None
    healing: HealingRecord | None = None
    earlier_edits: int = 0
    max_shard_size: int | None = None
    missed: bool = False
    taught_by_choice: bool = False

    @property
    def missed_alone(self) -> bool:
        """Whether its search missed, and nothing but the cut was to make the model forget.

        A search says nothing of a model that was taught first.
        """
        return self.missed and self.erasing is None


class Summary(Record):
    """The result in one line, and in a paragraph each."""

    line: Text
    recited: Text
    attacked: Text
    cost: Text


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
    baseline: PassageScores


class EditRecord(MeasuredModel):
    """One edited model. Its figures stand in `Report.figures`.

    `relation`: whether the base is its recorded source. `chose`: how many passages and windows a
    search used, and how many passages the edit was taught; None if that is not known. The figures
    leave these out, or, of an edit that was taught all of them, are of nothing else. `state`: of
    all limits together, None without any; `passed`: true if kept, false if missed.
    """

    relation: Relation
    verdict: Text
    summary: Summary
    state: State | None = None
    passed: bool | None = None
    chose: Mapping[Literal["passages", "windows", "taught"], int | None]
    not_tried: list[Word]
    edit: EditSummary | None
    passages: list[PassageRow]
    warnings: list[Text]


class FrontPoint(Record):
    """An edit that a search found. `exact_match` is a rate; losses are in nats per token.

    `loss_increase`: the held-out loss minus that of the search's own base on the same text.
    `recovered`: attack → the share that it recovers.
    """

    label: Long
    exact_match: Rate
    exact_match_ci95: Ends | None = None
    next_token_accuracy: Rate | None = None
    heldout_loss: float
    loss_increase: float
    recovered: dict[Word, Rate] = Field(default_factory=dict)


class Units(Record):
    """All blocks, groups, or heads in one variant: their `worths`, and their `costs` in nats."""

    kind: UnitKind
    variant: Word
    worths: Cells
    costs: Cells


class ModelMap(Record):
    """What each unit is worth and costs. `basis`: first-order estimates, or measured."""

    basis: Literal["estimated", "measured"]
    num_blocks: int
    num_heads: int
    grids: list[Units]


class Provenance(Record):
    """What the figures depend on besides the models.

    `controls`: the held-out text: files with their hashes, or the name of a lab.
    """

    seeds: dict[Word, int]
    versions: dict[Word, Line]
    baseline_from_cache: bool
    samples_sha256: Sha256 | None = None
    controls: list[TextSource] = Field(default_factory=list)


class Report(Record):
    """One base and its edits, all measured in the same way.

    `front`, `map`: edits that a search found, and what each unit is worth and costs. `settings`:
    the request, with names instead of paths. `commands`: they make this report again.
    """

    schema_version: Literal[5] = 5
    created: Word
    base: MeasuredModel
    edits: list[EditRecord] = Field(min_length=1)
    tables: list[Table]
    figures: list[Figure]
    front: list[FrontPoint] = Field(default_factory=list)
    map: ModelMap | None = None
    settings: dict[Word, Setting]
    provenance: Provenance
    commands: list[Long]

    @model_validator(mode="after")
    def _agree(self) -> Report:
        """Checks that keys are unique, and that every figure has a table and a value an edit.

        `surgery.record.contradictions` looks at the figures, once a report is read: it loses no
        report that was measured for hours.
        """
        keys, tables = ([one.key for one in some] for some in (self.figures, self.tables))
        if len({*keys}) < len(keys) or len({*tables}) < len(tables):
            raise ValueError("two figures or tables have the same key")
        for figure in self.figures:
            if figure.table not in (None, *tables) or len(figure.edits) != len(self.edits):
                raise ValueError(f"the figure {figure.key} has no table, or not a value an edit")
        return self

    def find(self, key: str) -> Figure | None:
        """The figure with this key; None if it was not measured."""
        return next((figure for figure in self.figures if figure.key == key), None)

    def list_limits(self, place: int) -> list[Limit]:
        """The limits on the figures of the edit in this place, in the order of the figures."""
        values = (figure.edits[place] for figure in self.figures)
        return [value.limit for value in values if value is not None and value.limit is not None]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return self.model_dump(mode="json")

    def to_text(self) -> str:
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"


def summarize_edit(manifest: Manifest) -> EditSummary:
    """A manifest's latest edit, as the report shows it, and the last healing of any edit."""
    edit = manifest.edit
    alike = (
        *("family", "num_blocks", "num_heads", "parts", "layout"),
        *("one_hot", "calibration", "erasing", "max_shard_size"),
    )
    return EditSummary(
        **{key: getattr(edit, key) for key in alike},
        healing=manifest.healing,
        source=edit.source.model,
        commit=edit.source.commit,
        drop_attn=format_selection(tuple(edit.parts), edit.num_heads),
        blocks=list(edit.blocks),
        variant=edit.variant,
        attention_free=manifest.attention_free,
        earlier_edits=len(manifest.history),
        missed=edit.chosen is not None and not edit.chosen.met,
        taught_by_choice=edit.taught_by_choice,
    )
