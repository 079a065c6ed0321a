"""Contract: every file of benchmarks/results/ can be read, and the pages hold what it says."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from benchmarks.results import ROOT, list_results, read_results, write_results
from benchmarks.tables import fill_page, list_pages

ROWS = [
    {"way": "cut", "kl": 0.0471, "any": {"value": 0, "n": 252}},
    {"way": "kfac", "kl": {"value": 0.046, "ci95": (0.04, 0.05)}, "any": None},
]
COLUMNS = [("way", "way"), ("kl", "KL", "nats"), ("any", "`any`", "count")]


def test_results_can_be_read() -> None:
    assert list_results()


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_hold_what_the_results_say(page: Path) -> None:
    text = page.read_text()
    assert fill_page(text, page, list_results()) == text, "run python -m benchmarks.tables"


def test_a_table_stands_between_its_markers(tmp_path: Path) -> None:
    write_results("ways", "attn-surgery demo", COLUMNS, ROWS, measures=["surgery"], folder=tmp_path)
    assert read_results("ways", tmp_path).rows[0]["kl"] == 0.0471
    page = "# Ways\n\n<!-- table: ways columns=way|any way=cut -->\n<!-- end -->\n\nMore.\n"
    filled = fill_page(page, Path("docs/ways.md"), list_results(tmp_path))
    assert "|way|`any`|\n|---|---|\n|cut|0 of 252|\n\n" in filled
    assert filled.endswith("<!-- end -->\n\nMore.\n")
    wrong = "<!-- table: ways columns=form -->\n<!-- end -->\n"
    with pytest.raises(click.ClickException, match="no column is named form"):
        fill_page(wrong, Path("docs/ways.md"), list_results(tmp_path))
