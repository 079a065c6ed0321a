"""Contract: the page and its Markdown show the report's figures and nothing else.

Every figure carries its key and its value; value and shown text equal what stands in report.json
there; no cell shows a number without a key. Text of the report is escaped. The page asks nothing
of the network and runs no script. Sections without figures are left out, and no passage's text is
shown unless the report holds it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from command_line import attn_surgery
from example_report import bare, example, task
from hypothesis import given, settings
from hypothesis import strategies as st
from page_figures import assert_figures, parse

from evals.benchmarks.tasks import SUITES, asked
from evals.evaluation.page import html, markdown, write_page
from evals.evaluation.page.drawings import columns, nice_axis
from evals.evaluation.page.figures import Node
from surgery.errors import OutputError

NUMBER = r"[+−]?\d+(?:,\d{3})*(?:\.\d+)?(?:%| [kMG]?B\b)?"
REPORTS = {"whole": example, "bare": bare}


@pytest.mark.parametrize("report", REPORTS.values(), ids=list(REPORTS))
def test_every_figure_is_the_reports(report) -> None:
    assert assert_figures(html(report()), report()) > 30


@pytest.mark.slow
def test_a_real_evaluation(tmp_path) -> None:
    """The page of an edit of the lab model, as the command line makes it."""
    edited, output = tmp_path / "edited", tmp_path / "evaluation"
    assert attn_surgery("export", "lab:pythia", "--drop-attn", "5", "--output", edited).code == 0
    outcome = attn_surgery(
        "evaluate", edited, "--baseline", "lab:pythia", "--tasks", "lab_copy", "--limit", 8,
        "--max-extraction", 1, "--output", output, "--device", "cpu",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    report = json.loads((output / "report.json").read_text())
    page = (output / "report.html").read_text()
    assert assert_figures(page, report) > 100
    assert report["verdict"] in parse(page).text_content()
    assert (output / "report.md").read_text() == f"{markdown(report).rstrip()}\n"


def test_all_that_matters_is_shown() -> None:
    report = example()
    shown = {figure.get("data-key") for figure in parse(html(report)).xpath("//*[@data-key]")}

    def leaves(value: Any, key: str = "") -> Any:
        members = value.items() if isinstance(value, dict) else enumerate(value)
        for name, child in members:
            at = f"{key}/{str(name).replace('~', '~0').replace('/', '~1')}"
            if isinstance(child, dict | list):
                yield from leaves(child, at)
            elif child is not None:
                yield at

    words = {
        "ok",
        "kind",
        "test",
        "outcome",
        "conclusive",
        "exact_match_ci95",
        "heldout_loss",  # of a point: its rise is shown
        "next_token_accuracy",
        "resolution",
        "description",
    }
    for part in (
        "heldout",
        "gates",
        "sizes",
        "trade_off",
        "settings",
        "provenance",
        "commands",
        "warnings",
    ):
        keys = {key for key in leaves(report[part], f"/{part}") if not words & set(key.split("/"))}
        assert keys <= shown, keys - shown
    for name in report["tasks"]:
        place = f"/tasks/{name.replace('~', '~0').replace('/', '~1')}"
        for key in ("base", "edited", "difference", "ci95/0", "ci95/1", "verdict", "metric", "n"):
            assert f"{place}/{key}" in shown
    for index in range(len(report["extraction"]["by_count"])):
        for part in ("/extraction", "/extraction/baseline"):
            assert f"{part}/by_count/{index}/exact_match/rate" in shown
            assert f"{part}/by_count/{index}/exact_match/ci95/1" in shown


def test_no_cell_shows_a_number_of_its_own() -> None:
    tree = parse(html(example()))
    cells = tree.xpath("//td | //dd | //li | //h1")
    assert len(cells) > 60
    for cell in cells:
        for known in cell.xpath(".//*[@data-key]"):
            known.text = ""
        rest = cell.text_content().replace("float32", "").replace("above 104", "")
        assert not re.search(r"\d", rest), rest


@pytest.mark.parametrize("report", REPORTS.values(), ids=list(REPORTS))
def test_markdown_shows_the_same_figures(report) -> None:
    text = markdown(report())
    shown = {figure.text_content() for figure in parse(html(report())).xpath("//data")}
    shown |= set(re.findall(r"[\d.,]+", " ".join(figure.text_content() for figure in parse(
        html(report())).xpath("//span[@data-key]"))))  # fmt: skip
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows
    for row in rows:
        for cell in row.replace("\\|", "").split("|")[2:]:
            for number in re.findall(NUMBER, cell):
                assert number in shown, (number, row)


def test_every_row_of_a_markdown_table_has_its_cells() -> None:
    hostile = task(0.5, 0.4, verdict="a | b")
    for report in (example(), bare(), example(tasks={"a|b\nc": hostile})):
        tables = re.findall(r"(?:^\|.*\n)+", markdown(report), re.MULTILINE)
        assert tables
        for table in tables:
            heights = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
            assert len(heights) == 1, table


def test_a_task_says_what_it_asks_and_how_it_is_scored() -> None:
    names = [name for suite in SUITES.values() for name in suite]
    known = {name: {**task(0.5, 0.4), "description": asked(name, {})} for name in names}
    report = example(tasks={**known, "other": {**task(0.5, 0.4), "metric": "its_own"}})
    for text in (parse(html(report)).text_content(), markdown(report)):
        for name in names:
            assert str(asked(name, {})) in text
        assert re.search("acc`? is the share answered right", text)
        assert not re.search("its_?own is", text)
    assert (
        asked("other", {"task_alias": "another name", "description": "a prompt"}) == "another name"
    )
    assert asked("other", {"description": "a prompt"}) is None


def test_a_count_is_no_markup() -> None:
    report = example()
    for part in (report["extraction"], *(report["extraction"][k] for k in ("baseline", "paired"))):
        part["by_count"][0]["count"] = "<img src=x>|"
    assert "<img" not in markdown(report) + html(report)
    assert r"seen &lt;img src=x>\| times" in markdown(report)


HOSTILE = "</style><script>alert(1)</script><img src=x onerror=alert(2)>&\"'`|*_\n# x"


def test_names_are_escaped() -> None:
    plain = example()
    report = example(
        models={"base": HOSTILE, "edited": HOSTILE},
        verdict=HOSTILE,
        tasks={HOSTILE: {**task(0.5, 0.4), "metric": HOSTILE, "verdict": HOSTILE}},
        warnings=[HOSTILE],
        commands=[HOSTILE],
        gates=[gate(name=HOSTILE, description=HOSTILE)],
        edit={**plain["edit"], "source": HOSTILE, "drop_attn": HOSTILE},
        provenance={**plain["provenance"], "versions": {HOSTILE: HOSTILE}},
        passages=[{**plain["passages"][0], "id": HOSTILE, "prefix": HOSTILE, "suffix": HOSTILE}],
    )
    tree = parse(html(report))
    assert not tree.xpath("//script | //img | //@onerror")
    assert len(tree.xpath("//style")) == 1
    assert tree.xpath("//h1")[0].text_content() == HOSTILE
    assert {figure.text_content() for figure in tree.xpath("//pre")} == {HOSTILE}
    text = markdown(report)
    outside = re.sub(r"^    .*$", "", text, flags=re.MULTILINE)  # code shows what it is given
    assert "<script" not in outside
    assert "<img" not in outside
    assert "\n# x" not in outside


@settings(max_examples=30, deadline=None)
@given(st.text(min_size=1))
def test_any_name_survives(name) -> None:
    name = name.replace("\r", " ").replace("\x00", " ")
    printable = "".join(letter for letter in name if letter.isprintable()) or "x"
    report = bare()
    report["models"]["edited"] = report["verdict"] = printable
    assert parse(html(report)).xpath("//h1")[0].text_content() == printable
    assert markdown(report).count("\n# ") == 0


def test_it_stands_alone() -> None:
    text = html(example())
    tree = parse(text)
    assert not tree.xpath("//script | //link[@rel='stylesheet'] | //iframe | //@src")
    assert {link.get("href") for link in tree.xpath("//*[@href]")} == {"data:,"}
    assert "url(" not in text.replace("url(#", "")
    assert "@import" not in text
    assert "default-src 'none'" in tree.xpath("//meta[@http-equiv]/@content")[0]


def test_it_is_built_as_a_document() -> None:
    tree = parse(html(example()))
    assert tree.get("lang") == "en"
    assert tree.xpath("//title")[0].text
    assert len(tree.xpath("//h1")) == 1
    for table in tree.xpath("//table"):
        assert table.xpath("caption")
        assert all(head.get("scope") == "col" for head in table.xpath("thead//th"))
        assert table.xpath("tbody//th[@scope='row']")
    for svg in tree.xpath("//svg[not(ancestor::svg)]"):
        assert svg.get("aria-hidden") == "true" or svg.get("role") == "img"
    ids = tree.xpath("//@id")
    assert len(ids) == len(set(ids))
    references = [
        v for name in ("labelledby", "describedby") for v in tree.xpath(f"//@aria-{name}")
    ]
    assert set(references) <= set(ids)


def gate(**changes: Any) -> dict[str, Any]:
    return {**example()["gates"][1], "ok": True, "conclusive": True, "value": 0.01} | changes


def test_gates_are_told_in_words() -> None:
    unsure = gate(ci95=[-0.02, 0.0815], n=77, conclusive=False)
    for gates, words in (
        ([gate(), gate(ok=False)], "Failed: a gate was missed"),
        ([gate()], "Passed: every gate holds"),
        ([gate(), unsure], "Passed as measured, but a gate is inconclusive"),
        ([unsure, gate(ok=False)], "Failed: a gate was missed"),
    ):
        report = example(gates=gates)
        page = html(report)
        assert_figures(page, report)
        for text in (parse(page).text_content(), markdown(report)):
            assert words in text
            missed = sum(not one["ok"] for one in gates)
            assert text.count("✕ missed") + text.count("✕ **missed**") == missed
            says = ("inconclusive: n = 77, interval −0.020 to 0.082", "holds, inconclusive |")
            assert any(words in text for words in says) == (unsure in gates)


def test_too_little_is_called_so() -> None:
    few = task(0.5, 0.49, 0.2)
    report = example(tasks={"few": few, "enough": task(0.5, 0.4999)})
    for text in (parse(html(report)).text_content(), markdown(report)):
        assert "inconclusive (n = 1,267)" in text
        assert "no loss shown" in text
    assert "few, acc: inconclusive" in parse(html(report)).text_content()


def test_what_was_not_measured_is_left_out() -> None:
    text = html(bare())
    headings = [heading.text for heading in parse(text).xpath("//h2")]
    assert headings == ["What it can still do", "Size", "Limits", "Provenance"]
    assert "None" not in parse(text).text_content()
    assert "recites" not in markdown(bare()).split("## What it can", 1)[1].split("The edit", 1)[0]


def test_limits_are_always_said() -> None:
    for report in (example(), bare()):
        for text in (html(report), markdown(report)):
            assert "reduces verbatim recall under these tests" in text
            assert "not a privacy guarantee" in text


def test_text_of_passages_is_shown_only_where_the_report_holds_it() -> None:
    report = example()
    assert "Their text is left out" in html(report)
    row = {**report["passages"][0], "prefix": "my number is", "suffix": " 555-0100"}
    text = html({**report, "passages": [row]})
    assert "my number is" in text
    assert "Their text" not in text
    assert "555-0100" not in markdown({**report, "passages": [row]})


def test_files_are_written_whole_or_not_at_all(tmp_path) -> None:
    paths = write_page(example(), tmp_path)
    assert [path.name for path in paths] == ["report.html", "report.md"]
    assert [path.read_text() for path in paths] == [
        f"{text.rstrip()}\n" for text in (html(example()), markdown(example()))
    ]
    with pytest.raises(OutputError, match="cannot write"):
        write_page(example(), paths[0])
    assert sorted(Path(tmp_path).iterdir()) == sorted(paths)


@given(st.lists(st.floats(-1e4, 1e4), min_size=1), st.booleans())
def test_a_scale_holds_its_values(values, centered) -> None:
    axis = nice_axis(values, about=0.0 if centered else None)
    slack = 1e-6 * (axis.high - axis.low)
    assert axis.low <= min(values) + slack
    assert max(values) <= axis.high + slack
    assert 2 <= len(axis.ticks) <= 8
    places = [axis.x(value) for value in sorted(values)]
    assert places == sorted(places)
    assert all(0 <= place <= 100 for place in places)
    labels = [f"{tick:.{axis.digits}f}" for tick in axis.ticks]
    assert len(set(labels)) == len(labels)
    if centered:
        assert axis.low == -axis.high


def test_the_blocks_that_were_edited() -> None:
    drawn = columns(example()["edit"])
    assert [column.runs for column in drawn] == [
        (),
        ((0, 4, "identity"),),
        ((0, 2, "mean"), (3, 1, "mean")),
        ((0, 4, "linear"),),
    ]
    assert sum(column.width for column in drawn) == pytest.approx(100)


def test_numbers_as_they_are_shown() -> None:
    def node(value: Any) -> Node:
        return Node(value)

    assert node(0.2512).rate().text == "25.1%"
    assert node(-0.00001).signed().text == "0.000"
    assert node(-1234.5).signed(1).text == "−1,234.5"
    assert node(0.0213).points().text == "+2.1"
    assert node(3e-9).probability().text == "< 0.0001"
    assert node(0.3141).probability().text == "0.31"
    assert [node(n).size().text for n in (999, 1_500, 2_500_000, 5.68e9)] == [
        "999 bytes",
        "1.50 kB",
        "2.50 MB",
        "5.68 GB",
    ]
    assert node({"a/b": {"~": [1, 2]}})["a/b"]["~"][1].key == "/a~1b/~0/1"
