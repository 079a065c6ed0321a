"""Several edits beside each other: a row for each figure, a column for each edit."""

from __future__ import annotations

from typing import Any

from evals.evaluation.page.drawings import chart
from evals.evaluation.page.figures import Figure, Interval, Node
from evals.evaluation.page.measured import digits_of


def beside_of(record: dict[str, Any]) -> dict[str, Any]:
    """`record`: that of `evals.evaluation.side_by_side.SideBySide`."""
    root, points = Node(record), record["points"]
    names = ["base", *map(str, range(1, len(points)))]
    return {
        "beside": root,
        "columns": list(root["columns"]),
        "rows": [_row(row) for row in root["rows"]],
        "chart": chart(points, names) if points else None,
    }


def _row(row: Node) -> dict[str, Any]:
    unit, values = row.value["unit"], [row["base"], *(cell["value"] for cell in row["edits"])]
    kind, change = ("rate", "points") if unit == "share" else ("number", "signed")
    digits = (digits_of(*values),) if unit == "score" else ()

    def shown(node: Node, show: str) -> Figure:
        figure: Figure = getattr(node, show)(*digits)
        return figure

    return {
        "name": row["name"],
        "n": row["n"],
        "base": shown(row["base"], kind),
        "cells": [
            (
                shown(cell["value"], kind),
                Interval(
                    shown(cell["difference"], change), *(shown(end, change) for end in cell["ci95"])
                ),
            )
            for cell in row["edits"]
        ],
    }
