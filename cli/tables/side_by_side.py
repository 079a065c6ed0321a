"""Several edits of one base, as a table for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from evals.evaluation.side_by_side import SideBySide


def print_side_by_side(found: SideBySide) -> None:
    """A row for each figure, a column for each edit."""
    from rich.box import SIMPLE_HEAD
    from rich.measure import Measurement
    from rich.table import Table

    from cli.tables import console

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for name in ("base", *(column.folder for column in found.columns)):
        table.add_column(name, justify="right")
    for label, key in (("edited", "drop_attn"), ("variant", "variant")):
        table.add_row(label, "", *(getattr(column, key) or "" for column in found.columns))
    for row in found.rows:
        form = "{:.1%}" if row.unit == "share" else "{:.3f}"
        shown = (form.format(value) for value in (row.base, *(cell.value for cell in row.edits)))
        table.add_row(f"{row.name} (n = {row.n:,})", *shown)
    out = console()
    whole = Measurement.get(out, out.options.update(max_width=10_000), table).maximum
    out.width = max(out.width, whole)  # a figure is never cut
    out.print(table)
