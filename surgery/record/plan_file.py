"""A choice of blocks, heads and variants in a file: what `search` writes and `export` takes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from surgery.errors import SourceError
from surgery.plan import LayoutChoice
from surgery.record.manifest import Choice, EditedModel, Record
from surgery.selection import Part, Selection, by_variant, format_selection, parse_selection
from surgery.untrusted import guard, parse_json, read_bytes

SCHEMA: Literal[1] = 1


class PlannedEdit(Record):
    """Blocks and heads, as they are typed, and the variant that they get."""

    drop_attn: str
    variant: str


class PlanFile(Record):
    """`model`: the one that the choice was made for; None: it says nothing of that. `chosen`: what
    a search chose it on. `provenance`: whatever the author of the choice wants to say about it.
    """

    schema_version: Literal[1] = SCHEMA
    model: EditedModel | None = None
    edits: list[PlannedEdit]
    layout: LayoutChoice = "auto"
    chosen: Choice | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)

    @staticmethod
    def of(
        selection: Iterable[Part],
        num_heads: int,
        *,
        layout: LayoutChoice = "auto",
        model: EditedModel | None = None,
        chosen: Choice | None = None,
        provenance: dict[str, Any] | None = None,
    ) -> PlanFile:
        """The file of a selection for a model with `num_heads` heads a block."""
        edits = [
            PlannedEdit(drop_attn=format_selection(parts, num_heads), variant=variant)
            for variant, parts in by_variant(selection).items()
        ]
        return PlanFile(
            edits=edits, layout=layout, model=model, chosen=chosen, provenance=provenance or {}
        )

    def selection(
        self, num_blocks: int, num_heads: int, num_groups: int | None = None
    ) -> Selection:
        """The selection for a model of that size. Raises `BlockSpecError`."""
        parts: list[Part] = []
        for edit in self.edits:
            parts += parse_selection(
                edit.drop_attn, edit.variant, num_blocks, num_heads, num_groups
            )
        return tuple(sorted(parts))


def read_plan_file(path: Path) -> PlanFile:
    """Raises `SourceError` for a file that is not there or no plan."""
    with guard(SourceError, "no plan", path):
        plan = PlanFile.model_validate(parse_json(read_bytes(path, SourceError)))
    if not plan.edits:
        raise SourceError("no plan: it edits nothing", where=path)
    return plan
