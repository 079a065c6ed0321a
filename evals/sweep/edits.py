"""The edits of a sweep: every block alone, the last k together, every range, group, and head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evals.search.units import UnitKind, kind_of, list_heads
from evals.sweep.request import SweepRequest
from surgery.editing.in_memory import Editable
from surgery.selection import Part, Selection

Kind = Literal["block", "last", "range", "group", "head"]


def list_edits(
    num_blocks: int,
    num_heads: int,
    variants: Sequence[str],
    request: SweepRequest,
    num_groups: int | None = None,
) -> dict[Selection, Kind]:
    """Lists edits in the order of a report, each under the first kind it belongs to.

    Every block alone; with `last` the last 2, 3, … of them; with `ranges` every contiguous range;
    with `heads` every query head, and where several share one of `num_groups` key/value heads every
    such group. Each in every variant.
    """
    every, whole = range(num_blocks), tuple(range(num_heads))
    shapes: list[tuple[Kind, range, tuple[int, ...]]]
    shapes = [("block", every[block : block + 1], whole) for block in every]
    if request.last:
        shapes += [("last", every[first:], whole) for first in reversed(every)]
    if request.ranges:
        shapes += [
            ("range", every[first : end + 1], whole) for first in every for end in every[first:]
        ]
    if request.heads:
        pieces = list_heads(num_heads, num_groups)
        shapes += [
            (kind_of(Part(block, some, ""), num_heads), every[block : block + 1], some)
            for block in every
            for some in pieces
        ]
    found: dict[Selection, Kind] = {}
    for kind, blocks, some in shapes:
        for variant in variants:
            found.setdefault(tuple(Part(block, some, variant) for block in blocks), kind)
    return found


def drop_refused(
    editable: Editable, edits: dict[Selection, Kind]
) -> dict[tuple[UnitKind, str], str]:
    """Drops the groups and single heads that no layout holds. Returns kind, variant -> why.

    Raises `UnsupportedError` if no layout holds a whole block.
    """
    reasons: dict[tuple[UnitKind, str], str] = {}
    for selection, kind in list(edits.items()):
        error = editable.find_refusal(selection)
        if error is None:
            continue
        if kind != "group" and kind != "head":
            raise error
        reasons.setdefault((kind, selection[0].variant), str(error))
        del edits[selection]
    return reasons
