"""Plan files: blocks, heads and variants. `search` writes one, and `export` takes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surgery.errors import SourceError
from surgery.plan import LayoutChoice
from surgery.record.manifest import ChosenOn, EditedModel, Record
from surgery.selection import EditedHeads, Selection, by_variant, format_selection, parse_selection
from surgery.untrusted import parse_json, read_bytes, reraise_as

SCHEMA: Literal[1] = 1


class PlannedEdit(Record):
    """Blocks and heads, as for `--drop-attn`, and their variant."""

    drop_attn: str
    variant: str


def list_edits(selection: Iterable[EditedHeads], num_heads: int) -> list[PlannedEdit]:
    """The edits of a plan that makes this selection in a model with `num_heads` heads a block."""
    return [
        PlannedEdit(drop_attn=format_selection(parts, num_heads), variant=variant)
        for variant, parts in by_variant(selection).items()
    ]


class PlanFile(Record):
    """A plan. `model`: the model it was made for; None: any. `chosen`: what a search chose it on.
    `provenance`: free notes of its author.
    """

    schema_version: Literal[1] = SCHEMA
    model: EditedModel | None = None
    edits: list[PlannedEdit]
    layout: LayoutChoice = "auto"
    chosen: ChosenOn | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    def make_selection(self, num_blocks: int, num_heads: int) -> Selection:
        """Makes the selection for a model of this size."""
        parts: list[EditedHeads] = []
        for edit in self.edits:
            parts += parse_selection(edit.drop_attn, edit.variant, num_blocks, num_heads)
        return tuple(sorted(parts))


def read_plan_file(path: Path) -> PlanFile:
    """Reads a plan file."""
    with reraise_as(SourceError, "not a plan", path):
        plan = PlanFile.model_validate(parse_json(read_bytes(path, SourceError)))
    if not plan.edits:
        raise SourceError("not a plan: it edits nothing", where=path)
    return plan
