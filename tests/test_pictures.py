"""Contract: a picture is saved as PNG and SVG, twice the same bytes, and names its axes."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from evals.table.charts.dots import Dot, draw_dots


def test_a_chart_is_saved_twice_the_same(tmp_path: Path) -> None:
    """Dollar signs of a name begin no formula, and its markup stays text."""
    hostile = "$\\frac{$ <b>&"
    chart = draw_dots(hostile, "shares", [hostile], {hostile: [Dot(0.5, (0.4, 0.6))]})
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        paths = chart.save(tmp_path / folder, "dots")
        assert {path.suffix for path in paths} == {".png", ".svg"}
    assert "shares" in (tmp_path / "one" / "dots.svg").read_text()
    ElementTree.parse(tmp_path / "one" / "dots.svg")
    for name in ("dots.png", "dots.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
