"""Draws the pictures of the pages from benchmarks/results/, as SVG on a white card.

`python -m benchmarks.tables` calls it. A picture holds the hash of the results that it shows, so
that a check needs no drawing: other versions of matplotlib give other bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.results import ROOT, Cell, Results, Row
from evals.table.charts.chart import WIDE, Chart
from evals.table.charts.dots import Dot, draw_dots
from evals.table.charts.lines import LinePanel, draw_lines
from evals.table.charts.panels import Point, Series

PICTURES = ROOT / "docs" / "pictures"
TWIN = "twin"
ATTACKS = ("any", "hints:8", "in-context", "relearn", "relearn-strongest", "revive")
SHOWN = (
    "not edited",
    "cut",
    "erased by the cut",
    "erased by the cut, hardened",
    "erased by context:8, cut, healed",
)
_SHARES = (0, 1, 2, 5, 10, 20, 50, 100)
_NATS = (0, 0.1, 0.3, 1, 3, 10, 30)


@dataclass(frozen=True)
class Picture:
    """One file of docs/pictures. `of`: the results that it shows; `draw` gets the rows of all."""

    of: tuple[str, ...]
    draw: Callable[[Results], Chart]

    def find(self, known: Mapping[str, Results]) -> Results:
        every = [known[name] for name in self.of]
        return every[0].model_copy(update={"rows": [row for one in every for row in one.rows]})


def read_number(row: Row, key: str) -> float | None:
    """The number in a cell, with or without `n` and interval."""
    cell = row.get(key)
    number = cell.value if isinstance(cell, Cell) else cell
    return None if number is None or isinstance(number, str) else float(number)


def draw_frontier(results: Results) -> Chart:
    """A panel for each model, a curve for each way: what it costs, and what the best attack gets.

    Of each row, it reads `bed`, `way`, `form` and `cost` in nats, and `best`, a share. Rows of one
    way are points of its curve, in their order. A way named `twin` is a star.
    """
    beds = list(dict.fromkeys(str(row["bed"]) for row in results.rows))
    ways = list(dict.fromkeys(str(row["way"]) for row in results.rows))
    looks = dict(zip(ways, choose_way_looks(ways), strict=True))
    height = 1.6 + 2.5 * (1 + (len(beds) > 2))

    def paint(figure: Any, narrow: bool) -> None:
        columns = min(len(beds), 2)
        rows = -(-len(beds) // columns)
        axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for spare in axes.flat[len(beds) :]:
            spare.remove()
        for at, (bed, one) in enumerate(zip(beds, axes.flat, strict=False)):
            one.set_title(bed)
            one.set_xscale("symlog", linthresh=0.1, linscale=0.6)
            one.set_yscale("symlog", linthresh=1, linscale=0.6)
            one.set_xticks(_NATS, [f"{nats:g}" for nats in _NATS])
            one.set_yticks(_SHARES, [f"{share} %" for share in _SHARES])
            one.minorticks_off()
            one.set_ylim(-0.4, 130)
            for way in ways:
                points = list(_list_points(results, bed, way))
                if points:
                    one.plot(*zip(*points, strict=True), label=way, **looks[way])
            if at >= len(beds) - columns:
                one.tick_params(labelbottom=True)
                one.set_xlabel("cost (form or other text), nats")
            if at % columns == 0:
                one.set_ylabel("best attack")

    return Chart("What each way costs, and leaves", "", paint, lambda narrow: (WIDE, height))


def _list_points(results: Results, bed: str, way: str) -> Iterator[tuple[float, float]]:
    """The cost in nats, of the form or of other text, whichever is more; and percent recovered."""
    for row in results.rows:
        best = read_number(row, "best")
        costs = [read_number(row, key) for key in ("form", "cost")]
        known = [cost for cost in costs if cost is not None]
        if (row["bed"], row["way"]) == (bed, way) and best is not None and known:
            yield max(known), 100 * best


def choose_way_looks(ways: list[str]) -> Iterator[dict[str, Any]]:
    """Color and marker of each way; the twin is a star, and what was not edited a ring."""
    named = {
        TWIN: {"color": "#e69f00", "marker": "*", "markersize": 13, "markeredgecolor": "black"},
        "not edited": {"color": "#6a7077", "marker": "o", "markerfacecolor": "none"},
    }
    colors = ("#0b57b0", "#8f2d00", "#00754f", "#6b3fa0", "#8a5a00")
    markers = "osD^vP"
    others = [way for way in ways if way not in named]
    for way in ways:
        place = others.index(way) if way in others else 0
        own = {"color": colors[place % 5], "marker": markers[place % 6]}
        yield {"linestyle": "-", "markersize": 6, "alpha": 0.9, **named.get(way, own)}


def draw_strengths(results: Results) -> Chart:
    """What the best attack gets against each cost, in nats: a curve for each way, over its steps.

    Columns: `bed`, `way`, `best`, `form`, `cost`. Models that differ in the seed of their training,
    as in `gpt-neo-seed-1`, share a row of panels with the lab's own, and are dashed and hollow.
    """
    rows = results.rows
    labs = list(dict.fromkeys(_name_lab(row) for row in rows))
    ways = list(dict.fromkeys(str(row["way"]) for row in rows))
    looks = dict(zip(ways, choose_way_looks(ways), strict=True))
    costs = {"form": "form, nats", "cost": "KL on other text, nats"}

    def paint(figure: Any, narrow: bool) -> None:
        grid = figure.subplots(len(labs), 2, sharex="col", sharey=True, squeeze=False)
        for lab, axes in zip(labs, grid, strict=True):
            beds = dict.fromkeys(str(row["bed"]) for row in rows if _name_lab(row) == lab)
            for panel, (key, name) in zip(axes, costs.items(), strict=True):
                for (at, bed), way in product(enumerate(beds), ways):
                    points = list(_list_strengths(rows, bed, way, key))
                    if points:
                        other: dict[str, Any] = {"linestyle": "--", "markerfacecolor": "none"}
                        look = looks[way] | (other if at else {"label": way})
                        panel.plot(*zip(*points, strict=True), **look)
                panel.set_title(lab)
                panel.tick_params(labelbottom=True)
                panel.set_xlabel(name)
            axes[0].set_ylabel("best attack, %")

    height = 2.0 + 2.6 * len(labs)
    return Chart("The best attack, by steps of erasing", "", paint, lambda narrow: (WIDE, height))


def _name_lab(row: Row) -> str:
    """The model, or the lab model of which it is another seed."""
    name, seed, _ = str(row["bed"]).partition("-seed-")
    return f"lab:{name}" if seed else name


def _list_strengths(
    rows: list[Row], bed: str, way: str, cost: str
) -> Iterator[tuple[float, float]]:
    for row in rows:
        if (row["bed"], row["way"]) == (bed, way):
            yield read_number(row, cost) or 0.0, 100 * (read_number(row, "best") or 0.0)


def draw_before_after(results: Results) -> Chart:
    """What each attack recovers before and after. Of `benchmarks.attackers`, the rows `SHOWN`."""
    rows = {str(row["defense"]): row for row in results.rows}

    def list_dots(defense: str) -> list[Dot | None]:
        shares = [read_number(rows[defense], attack) for attack in ATTACKS]
        return [None if share is None else Dot(share) for share in shares]

    dots = {name: list_dots(name) for name in SHOWN}
    return draw_dots("Recovered by each attack, before and after", "recovered", [*ATTACKS], dots)


def draw_blocks(results: Results) -> Chart:
    """Each block cut alone. Columns: `block`, `variant`, `recited`, `rise`."""
    variants = list(dict.fromkeys(str(row["variant"]) for row in results.rows))

    def list_series(key: str, scale: float) -> list[Series]:
        return [
            Series(
                variant,
                [
                    Point(read_number(row, "block") or 0, scale * (read_number(row, key) or 0))
                    for row in results.rows
                    if row["variant"] == variant
                ],
            )
            for variant in variants
        ]

    left = LinePanel("block that is cut", "recited, %", list_series("recited", 100))
    right = LinePanel("block that is cut", "cost, nats per token", list_series("rise", 1))
    return draw_lines("Each block cut alone: what is left, and what it costs", [[left, right]])


DRAWN: Mapping[str, Picture] = {
    "today": Picture(
        ("attackers-private", "attackers-neo", "attackers-deep", "attackers-480"), draw_frontier
    ),
    "strengths": Picture(("strengths", "strengths-seeds", "ways-healed"), draw_strengths),
    "before-after": Picture(("attackers-neo",), draw_before_after),
    "blocks": Picture(("blocks",), draw_blocks),
}


def hash_results(results: Results) -> str:
    return hashlib.sha256(results.to_text().encode()).hexdigest()


def is_drawn(name: str, known: Mapping[str, Results], folder: Path = PICTURES) -> bool:
    """Whether the file of a picture shows these results."""
    file = folder / f"{name}.svg"
    return file.exists() and hash_results(DRAWN[name].find(known)) in file.read_text(
        encoding="utf-8"
    )


def draw_picture(name: str, known: Mapping[str, Results]) -> str:
    """The SVG. Letters are shapes, so that it looks the same everywhere."""
    results = DRAWN[name].find(known)
    chart, file = DRAWN[name].draw(results), StringIO()
    about = {"Title": chart.title, "Source": hash_results(results), "Date": None, "Creator": None}
    with chart.open(title=chart.title) as figure:
        figure.savefig(file, format="svg", metadata=about)
    return re.sub(r" +$", "", file.getvalue(), flags=re.MULTILINE)
