"""What a sweep measures: every block alone, the last k together, every range, every head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from evals.sweep.request import SweepRequest
from surgery.editing.in_memory import Editable
from surgery.selection import Part, Selection

Kind = Literal["block", "last", "range", "head"]


def list_edits(
    num_blocks: int, num_heads: int, variants: Sequence[str], request: SweepRequest
) -> dict[Selection, Kind]:
    """Edits in the order of a report, each under the first kind that it is of.

    Every block alone; with `last` the last 2, 3, … of them; with `ranges` every contiguous range;
    with `heads` every head alone, and every one of `num_groups` key/value heads that are shared,
    with its query heads. Each with every variant.
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
    if heads:
        each = num_heads // (num_groups or num_heads)
        groups = [whole[head : head + each] for head in range(0, num_heads, each)]
        pieces = dict.fromkeys([*((head,) for head in whole), *groups])
        shapes += [("head", every[block : block + 1], some) for block in every for some in pieces]
    found: dict[Selection, Kind] = {}
    for kind, blocks, some in shapes:
        for variant in variants:
            found.setdefault(tuple(Part(block, some, variant) for block in blocks), kind)
    return found


def drop_refused(editable: Editable, edits: dict[Selection, Kind]) -> dict[str, str]:
    """Takes out the single heads that no layout holds. Returns variant -> why.

    Raises `UnsupportedError` where whole blocks cannot be edited.
    """
    reasons: dict[str, str] = {}
    for selection, kind in list(edits.items()):
        error = editable.refusal(selection)
        if error is None:
            continue
        if kind != "head":
            raise error
        reasons.setdefault(selection[0].variant, str(error))
        del edits[selection]
    return reasons
