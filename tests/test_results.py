"""Contract: every figure of a page comes from benchmarks/results/, and can be measured again.

Pages hold what the files say; commands of the files are as the programs take them; a change of the
code that a result measures is found.
"""

from __future__ import annotations

import json
import re
import shlex
from datetime import date
from pathlib import Path
from xml.etree import ElementTree

import click
import pytest
from example_report import example, twinned
from pydantic import ValidationError
from test_docs import ATTN_SURGERY, PYTHON, parse, parse_python

from benchmarks.pictures import DRAWN, draw_picture, is_drawn
from benchmarks.results import (
    ROOT,
    Cell,
    Column,
    Results,
    find_commit,
    list_results,
    make_column_rows,
    read_results,
    run_git,
    write_results,
)
from benchmarks.tables import fill_page, find_later_changes, list_pages, make_table, write_cell
from benchmarks.wanted import compare
from surgery.record.measured import EDITED

KNOWN = list_results()
COLUMNS = [("way", "way"), ("kl", "KL", "nats"), ("any", "`any`", "count")]
ROWS = [
    {"way": "cut", "kl": 0.0471, "any": {"value": 0, "n": 252}},
    {"way": "simnpo", "kl": {"value": 0.046, "ci95": (0.04, 0.05)}, "any": None},
]


@pytest.fixture
def written(tmp_path: Path) -> Path:
    return write_results(
        "ways", "attn-surgery demo", COLUMNS, ROWS, measures=["surgery"], folder=tmp_path
    )


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_hold_what_the_results_say(page: Path) -> None:
    text = page.read_text()
    assert fill_page(text, page, KNOWN) == text, "run python -m benchmarks.tables"


@pytest.mark.parametrize("name", KNOWN)
def test_commands_of_results_are_as_the_programs_take_them(name: str) -> None:
    for line in KNOWN[name].command:
        program, *arguments = shlex.split(line)
        if program in ATTN_SURGERY:
            parse(arguments, f"{name}: {line}")
        else:
            assert program in (*PYTHON, "lm_eval"), line
            if program in PYTHON:
                parse_python(arguments, f"{name}: {line}")


@pytest.mark.parametrize("name", KNOWN)
def test_what_results_measure_exists(name: str) -> None:
    assert [path for path in KNOWN[name].measures if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", KNOWN)
def test_a_page_shows_each_result(name: str) -> None:
    """A figure that nobody reads need not be kept."""
    pictures = [f"pictures/{drawn}.svg" for drawn, one in DRAWN.items() if name in one.of]
    shown = [f"table: {name} ", f"command: {name} ", *pictures]
    assert any(one in page.read_text() for page in list_pages() for one in shown)


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_shows_what_the_results_say(name: str) -> None:
    assert is_drawn(name, KNOWN), "run python -m benchmarks.tables"
    assert any(f"pictures/{name}.svg" in page.read_text() for page in list_pages())


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_can_be_read_on_dark_pages(name: str) -> None:
    """It stands on a white card, and a change of a figure changes it."""
    svg = draw_picture(name, KNOWN)
    card = next(
        element for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("path")
    )
    assert "fill: #ffffff" in card.attrib["style"]
    shown = KNOWN[DRAWN[name].of[0]]
    changed = shown.model_copy(update={"date": date(2020, 1, 1)})
    assert not is_drawn(name, {**KNOWN, DRAWN[name].of[0]: changed})


def test_results_say_how_they_were_measured(written: Path, tmp_path: Path) -> None:
    read = read_results("ways", tmp_path)
    assert read.date == date.today()
    assert read.commit == find_commit(["surgery"])
    assert {"python", "torch", "transformers", "attn-surgery"} <= {*read.versions}
    assert "cores" in read.machine
    assert read.rows[0]["any"] == Cell(value=0, n=252)
    assert read == Results.model_validate_json(read.to_text())
    assert json.loads(written.read_text())["rows"][1]["any"] is None


def test_a_table_stands_between_its_markers(written: Path, tmp_path: Path) -> None:
    page = "# Ways\n\n<!-- table: ways columns=way|any way=cut -->\n<!-- end -->\n\nMore.\n"
    known = list_results(tmp_path)
    filled = fill_page(page, Path("docs/ways.md"), known)
    commit = known["ways"].commit
    assert "|way|`any`|\n|---|---|\n|cut|0 of 252|\n\n[Mea" in filled
    assert f"results/ways.json) at {commit}, {date.today()}.\n<!-- end -->\n\nMore.\n" in filled
    assert fill_page(filled, Path("docs/ways.md"), known) == filled
    command = "<!-- command: ways -->\n<!-- end -->\n"
    assert "\n    attn-surgery demo\n" in fill_page(command, Path("docs/ways.md"), known)
    assert list(make_table(known["ways"], []))[3] == "|simnpo|0.046 [0.040, 0.050]||"


def test_what_was_wanted_is_compared_with_the_results_that_are_there() -> None:
    rows = [{key: cell for key, cell in row.items() if cell != ""} for row in compare()]
    assert rows
    read = [
        {key: cell for key, cell in row.items() if cell != ""}
        for row in read_results("wanted").rows
    ]
    assert read == rows


def test_a_report_becomes_a_table(tmp_path: Path) -> None:
    """A row for each figure and group of passages, a cell for each model, and the change."""
    report = example()
    columns, rows = make_column_rows(report)
    write_results("report", "attn-surgery demo", columns, rows, measures=["evals"], folder=tmp_path)
    read = read_results("report", tmp_path)
    assert len(read.rows) == len({(figure.name, figure.on) for figure in report.figures})
    figure = report.find("recited", EDITED)
    assert figure is not None
    assert figure.change is not None
    label = report.names["recited"].label
    row = next(row for row in read.rows if (row["name"], row["on"]) == (label, figure.on))
    assert row[EDITED] == Cell(value=figure.value, n=figure.n, ci95=figure.ci95, unit="share")
    change = row["change"]
    assert isinstance(change, Cell)
    assert (change.value, change.unit) == (figure.change.difference, "points")
    assert "above" not in {column.key for column in columns}


def test_a_table_tells_what_is_above_the_twin() -> None:
    report = twinned()
    columns, rows = make_column_rows(report)
    figure = next(one for one in report.figures if one.above_twin)
    row = next(row for row in rows if row.get("above"))
    assert columns[-1].key == "above"
    assert (row["above"].value, row["above"].unit) == (figure.above_twin.difference, "points")


@pytest.mark.parametrize(
    ("marker", "says"),
    [
        ("table: other", "there is no benchmarks/results/other.json"),
        ("table: ways columns=form", "no column is named form"),
        ("table: ways way=rmu", "no row has rmu as way"),
    ],
)
def test_a_marker_that_names_nothing_is_an_error(
    written: Path, tmp_path: Path, marker: str, says: str
) -> None:
    page = f"<!-- {marker} -->\n<!-- end -->\n"
    with pytest.raises(click.ClickException, match=says):
        fill_page(page, Path("docs/ways.md"), list_results(tmp_path))


@pytest.mark.parametrize("page", ["<!-- table: ways -->\n", "More.\n<!-- end -->\n"])
def test_a_marker_without_its_other_half_is_an_error(page: str) -> None:
    with pytest.raises(click.ClickException, match="do not pair up"):
        fill_page(page, Path("docs/ways.md"), {})


@pytest.mark.parametrize(
    ("cell", "unit", "shown"),
    [
        (0.4114, "share", "41.1%"),
        (Cell(value=-0.117, ci95=(-0.159, -0.072)), "points", "−11.7 [−15.9, −7.2]"),
        (0.0471, "rise", "+0.047"),
        (13, "count", "13"),
        (1250, "seconds", "1,250 s"),
        (Cell(value=0.5, unit="share"), "nats", "50.0%"),
        (Cell(value=None), "nats", ""),
    ],
)
def test_a_cell_shows_its_unit(cell: Cell | float, unit: str, shown: str) -> None:
    assert write_cell(cell, Column(key="a", heading="", unit=unit)) == shown  # type: ignore[arg-type]


def test_a_share_of_more_or_fewer_passages_tells_its_own_number(tmp_path: Path) -> None:
    sizes = (("a", 252), ("b", 252), ("c", 303))
    rows = [{"way": way, "any": Cell(value=0, n=n)} for way, n in sizes]
    columns = [("way", "way"), ("any", "`any`", "share")]
    write_results("sizes", "attn-surgery demo", columns, rows, measures=["evals"], folder=tmp_path)
    heading, _, *shown = make_table(read_results("sizes", tmp_path), [])
    assert heading == "|way|`any`, n=252|"
    assert shown == ["|a|0.0%|", "|b|0.0%|", "|c|0.0% (n=303)|"]


def test_digits_of_a_column_are_those_of_its_unit() -> None:
    column = Column(key="a", heading="", unit="nats", digits=2)
    assert write_cell(0.0471, column) == "0.05"
    assert write_cell(Cell(value=0.367, unit="share"), column) == "36.7%"


def test_a_row_has_only_known_columns(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="a row has other, which no column has"):
        write_results(
            "ways", "true", COLUMNS, [{"other": 1}], measures=["surgery"], folder=tmp_path
        )
    assert list(tmp_path.iterdir()) == []


def test_results_older_than_what_they_measure_are_found(written: Path, tmp_path: Path) -> None:
    read = read_results("ways", tmp_path)
    assert find_later_changes(read) is None
    first = run_git("rev-list", "--max-parents=0", "HEAD").splitlines()[-1][:8]
    later = find_later_changes(read.model_copy(update={"commit": first}))
    log = ["log", "--no-merges", "--format=%h, %s", f"{first}..HEAD", "--", "surgery"]
    if changes := run_git(*log).splitlines():  # a clone of the last commit alone has none
        assert later is not None
        assert later.startswith(changes[0])
        assert len(changes) == 1 or later.endswith(f"(and {len(changes) - 1} changes before that)")
    unknown = find_later_changes(read.model_copy(update={"commit": "0" * 8}))
    assert unknown is not None
    assert "is not in its history" in unknown


# --- figures in prose

EXCEPTIONS = (
    r"\b(19|20)\d\d\b|\b95 %|\bversion \d\S*|\bPython 3\.\d+|\bGemma 3\b|\btransformers before 5\b"
)
"""Years, the confidence of all intervals, and versions."""
NAMES = r"(?<=[^\W\d_])-?\d[\w./]*|\b\d+(-?[a-zA-Z]\w*)|\bblocks? \d[\d-]*|^ *\d\. "
"""Numbers that are parts of names: SmolLM2, bfloat16, OLMo-2/3, 4-bit, 270M, block 0; of items."""


def cut_to_prose(text: str) -> str:
    """A page without what is written between markers, code, links, headings, and HTML comments."""
    text = re.sub(r"<!-- (?:table|command): .*?<!-- end -->", "", text, flags=re.DOTALL)
    text = re.sub(r"<!-- reference: .*?<!-- /reference -->", "", text, flags=re.DOTALL)
    text = re.sub(r"^```.*?^```|^ {4}.*?$|^#.*?$|<!--.*?-->", "", text, flags=re.M | re.DOTALL)
    text = re.sub(r"`[^`]*`", "", text)
    return re.sub(r"!?\[[^\]]*\]\([^)]*\)|https?://\S+", "", text)


@pytest.mark.parametrize("page", list_pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_prose_holds_no_figure_of_its_own(page: Path) -> None:
    """It says what a table means. A figure in a sentence grows old, and nobody sees it."""
    prose = re.sub(EXCEPTIONS, "", cut_to_prose(page.read_text()))
    prose = re.sub(NAMES, "", prose, flags=re.MULTILINE)
    lines = [line for line in prose.split("\n") if re.search(r"\d", line)]
    assert not lines, lines
