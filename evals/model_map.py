"""A picture of the model: what each block, group, and head is worth, and what it costs.

Both are of editing it alone. A grid has a column for each block. Heads stand above groups of heads
that share keys and values, and these above whole blocks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from evals.drawing import draw
from surgery.record.manifest import Record, Word
from surgery.selection import Part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Kind = Literal["block", "group", "head"]
Cells = list[list[float | None]]
"""[rows][blocks]; None where the model cannot hold the edit, or where it was not measured."""
_WORTH = {
    "estimated": "worth: margins moved, nats²",
    "measured": "worth: passages no longer recovered, %",
}
_COST = "cost: KL divergence, nats per token"
_COLORS = ("Blues", "Oranges")
_DECADES = 1e3  # what a logarithmic scale spans at most


class Grid(Record):
    """All blocks, groups, or heads in one variant: `worths` (`_WORTH`), and `costs` in nats."""

    kind: Kind
    variant: Word
    worths: Cells
    costs: Cells


class ModelMap(Record):
    """`basis`: whether worths and costs are first-order estimates or were measured."""

    basis: Literal["estimated", "measured"]
    num_blocks: int
    num_heads: int
    grids: list[Grid]


def make_map(
    units: Mapping[Part, tuple[float, float]], num_blocks: int, num_heads: int, *, measured: bool
) -> ModelMap | None:
    """`units`: each with its worth and its cost. None for no units."""
    grids: dict[tuple[int, str], Grid] = {}
    for part, values in sorted(units.items(), key=lambda one: -len(one[0].heads)):
        each = len(part.heads)
        if (each, part.variant) not in grids:
            empty: list[Cells] = [
                [[None] * num_blocks for _ in range(num_heads // each)] for _ in range(2)
            ]
            kind: Kind = "block" if each == num_heads else "head" if each == 1 else "group"
            grids[each, part.variant] = Grid(
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


def draw_map(found: ModelMap, chosen: Sequence[Part], folder: Path, title: str) -> list[Path]:
    """Draws model.png and model.svg. `chosen`: parts to outline."""
    return draw(
        lambda figure: paint_map(figure, found, chosen),
        folder,
        "model",
        title=title,
        size=(9.0, 0.9 + measure_height(found)),
    )


def measure_height(found: ModelMap, *, narrow: bool = False) -> float:
    """Inches for the panels of `paint_map`."""
    rows = sum(one for one, _ in _place_sections(found).values())
    panels = len(_list_variants(found)) * (2 if narrow else 1)
    return panels * (0.45 + 0.09 * min(rows, 48)) + 0.7


def paint_map(
    figure: Figure, found: ModelMap, chosen: Sequence[Part], *, narrow: bool = False
) -> None:
    """A row of two panels for each variant, worth and cost; one below the other if `narrow`."""
    from matplotlib.cm import ScalarMappable

    variants = _list_variants(found)
    shape = (2 * len(variants), 1) if narrow else (len(variants), 2)
    panels = figure.subplots(*shape, sharex=True, sharey=True, squeeze=False)
    columns = panels.reshape(2, -1) if narrow else panels.T
    labels, names = (_WORTH[found.basis], _COST), ("worths", "costs")
    for column, name, label, colors in zip(columns, names, labels, _COLORS, strict=True):
        cells = [getattr(grid, name) for grid in found.grids]
        norm = _choose_norm(
            [one for rows in cells for row in rows for one in row if one is not None],
            linear=label.endswith("%"),
        )
        for axes, variant in zip(column, variants, strict=True):
            for grid, values in zip(found.grids, cells, strict=True):
                if grid.variant == variant:
                    _paint_cells(axes, found, grid, values, norm, colors)
            _outline(axes, found, [part for part in chosen if part.variant == variant])
            axes.set_ylabel(variant)
            axes.label_outer()
        column[-1].set_xlabel("block")
        figure.colorbar(
            ScalarMappable(norm, colors), ax=list(column), label=label, location="top", aspect=40
        )
    _name_sections(panels.flat, found)


def _list_variants(found: ModelMap) -> list[str]:
    return list(dict.fromkeys(grid.variant for grid in found.grids))


def _place_sections(found: ModelMap) -> dict[Kind, tuple[int, int]]:
    """Kind → its rows, and the lowest of them in a panel; blocks first."""
    rows = {grid.kind: len(grid.worths) for grid in found.grids}
    sections: dict[Kind, tuple[int, int]] = {}
    start = 0
    for kind in sorted(rows, key=lambda one: rows[one]):
        sections[kind] = rows[kind], start
        start += rows[kind]
    return sections


def _choose_norm(values: Sequence[float], *, linear: bool) -> Any:
    from matplotlib.colors import LogNorm, Normalize

    most = max(*values, 1e-9)
    if linear:
        return Normalize(0, max(most, 1.0))
    return LogNorm(min(max(min(values), most / _DECADES), most / 10), most)


def _paint_cells(
    axes: Axes, found: ModelMap, grid: Grid, values: Cells, norm: Any, colors: str
) -> None:
    cells = np.maximum(np.array(values, dtype=float), norm.vmin)
    _, start = _place_sections(found)[grid.kind]
    edges = (np.arange(found.num_blocks + 1) - 0.5, start + np.arange(len(values) + 1))
    axes.pcolormesh(*edges, np.ma.masked_invalid(cells), norm=norm, cmap=colors)


def _name_sections(panels: Iterable[Axes], found: ModelMap) -> None:
    """Says what rows and columns are, for panels that share their axes."""
    from matplotlib.ticker import MaxNLocator

    sections = _place_sections(found).items()
    names = [kind if rows == 1 else f"{kind}s 0–{rows - 1}" for kind, (rows, _) in sections]
    for axes in panels:
        axes.set_yticks([start + rows / 2 for _, (rows, start) in sections], names)
        axes.set_ylim(0, max(start + rows for _, (rows, start) in sections))
        axes.set_xlim(-0.5, found.num_blocks - 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(axis="y", length=0)
        axes.set_facecolor("0.9")
        axes.grid(False)
        for _, (_, start) in sections:
            axes.axhline(start, color="white", linewidth=2)


def _outline(axes: Axes, found: ModelMap, chosen: Iterable[Part]) -> None:
    """Outlines parts in the coarsest rows that can show them: blocks, then groups, then heads."""
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    for part in chosen:
        left = set(part.heads)
        for rows, start in _place_sections(found).values():
            each = found.num_heads // rows
            for row in range(rows):
                heads = set(range(row * each, (row + 1) * each))
                if heads <= left:
                    left -= heads
                    corner = (part.block - 0.5, start + row)
                    axes.add_patch(
                        Rectangle(
                            corner, 1, 1, fill=False, linewidth=1.4, label="chosen", zorder=3,
                            clip_on=False, path_effects=[withStroke(linewidth=3, foreground="w")],
                        )
                    )  # fmt: skip
