"""A map of the model: what each block, group, and head is worth, and what it costs.

Both are of editing it alone. A grid has a column for each block. Heads stand above groups of heads
that share keys and values, and these above whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evals.table.charts.chart import Chart
from evals.table.charts.grid import Grid, Scale, draw_grid
from surgery.record.report import Cells, ModelMap, UnitKind, Units
from surgery.selection import EditedHeads

_WORTH = {
    "estimated": "worth: margins moved, nats²",
    "measured": "worth: passages no longer recovered, %",
}
_COST = "cost: KL divergence, nats per token"


def make_map(
    units: Mapping[EditedHeads, tuple[float, float]],
    num_blocks: int,
    num_heads: int,
    *,
    measured: bool,
) -> ModelMap | None:
    """`units`: each with its worth and its cost. None for no units."""
    grids: dict[tuple[int, str], Units] = {}
    for part, values in sorted(units.items(), key=lambda one: -len(one[0].heads)):
        each = len(part.heads)
        if (each, part.variant) not in grids:
            empty: list[Cells] = [
                [[None] * num_blocks for _ in range(num_heads // each)] for _ in range(2)
            ]
            kind: UnitKind = "block" if each == num_heads else "head" if each == 1 else "group"
            grids[each, part.variant] = Units(
                kind=kind, variant=part.variant, worths=empty[0], costs=empty[1]
            )
        grid, row = grids[each, part.variant], part.heads[0] // each
        for cells, value in zip((grid.worths, grid.costs), values, strict=True):
            cells[row][part.block] = float(f"{value:.3g}")
    basis: Any = "measured" if measured else "estimated"
    found = ModelMap(
        basis=basis, num_blocks=num_blocks, num_heads=num_heads, grids=[*grids.values()]
    )
    return found if grids else None


def chart_map(found: ModelMap, chosen: Sequence[EditedHeads], title: str = "") -> Chart:
    """A row of two panels for each variant, worth and cost. `chosen`: parts to outline."""
    rows = {grid.kind: len(grid.worths) for grid in found.grids}
    rows = dict(sorted(rows.items(), key=lambda pair: pair[1]))  # whole blocks first

    def make_grid(variant: str, cells: Mapping[tuple[UnitKind, str], Cells]) -> Grid:
        missing: list[float | None] = [None] * found.num_blocks
        sections = [
            (
                kind if count == 1 else f"{kind}s 0–{count - 1}",
                cells.get((kind, variant), [missing] * count),
            )
            for kind, count in rows.items()
        ]
        some = [part for part in chosen if part.variant == variant]
        return Grid(variant, sections, [*_place(some, found.num_heads, list(rows.values()))])

    scales = []
    for label, name in ((_WORTH[found.basis], "worths"), (_COST, "costs")):
        cells = {(grid.kind, grid.variant): getattr(grid, name) for grid in found.grids}
        variants = dict.fromkeys(grid.variant for grid in found.grids)
        grids = [make_grid(variant, cells) for variant in variants]
        scales.append(Scale(label, grids, log=not label.endswith("%")))
    return draw_grid(title, scales)


def _place(
    chosen: Iterable[EditedHeads], num_heads: int, sections: Sequence[int]
) -> Iterator[tuple[int, int]]:
    """The cells (row, block) of parts, in the coarsest sections that can show them."""
    for part in chosen:
        left, start = set(part.heads), 0
        for rows in sections:
            each = num_heads // rows
            for row in range(rows):
                heads = set(range(row * each, (row + 1) * each))
                if heads <= left:
                    left -= heads
                    yield start + row, part.block
            start += rows
