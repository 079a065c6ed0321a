"""Contract: page and Markdown show the rows of the report, and nothing else.

One list of rows is made from a report. Every renderer shows every row's label and figures. Text of
the report is escaped. The page asks nothing of the network and runs no script. What was not
measured is left out, and no passage's text is shown unless the report holds it.
"""

from __future__ import annotations

import base64
import re
from functools import cache
from typing import Any
from xml.etree import ElementTree

import pytest
from evals.report.rows import (
    SHARE,
    Cell,
    Form,
    Row,
    make_cost_table,
    make_recital_table,
    make_size_table,
    make_tables,
)
from example_report import BASE, TWIN, audit, bare, example, several, task
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html as lxml_html

from evals.measure.verdicts import OK, settle
from evals.report.headline import summarize, write_verdict
from evals.report.model_map import make_map
from evals.report.page import render_html, render_pages
from evals.report.pictures import draw_model, draw_table, draw_trade_off
from evals.report.report import Report
from evals.run.lm_eval.tasks import SUITES, describe_task
from surgery.card.facts import as_line
from surgery.selection import Part

REPORTS = {
    "whole": example,
    "bare": bare,
    "several": lambda: several(example(), example()),
    "twin": lambda: example(twin=TWIN),
}


@cache
def pages_of(name: str) -> dict[str, str]:
    """The pages of one of `REPORTS`, drawn once: pictures take a second."""
    return render_pages(REPORTS[name]())


def parse(text: str) -> Any:
    return lxml_html.document_fromstring(text)


def rows_of(report: dict[str, Any]) -> list[Row]:
    read = Report.model_validate(report)
    return [row for table in (*make_tables(read), make_size_table(read)) for row in table.rows]


def texts(cell: Cell | None) -> list[str]:
    return [] if cell is None else [text for text in (cell.value, *cell.details) if text]


@pytest.mark.parametrize("name", REPORTS)
def test_every_renderer_shows_every_row_and_nothing_else(name) -> None:
    made, rows = pages_of(name), rows_of(REPORTS[name]())
    tables = parse(made["report.html"]).xpath("//table[not(contains(caption, 'come first'))]")
    shown = [list(tr) for table in tables for tr in table.xpath("tbody/tr")]
    lines = [line for line in made["report.md"].splitlines() if line.startswith("| ")]
    lines = [line for line in lines if not line.startswith("| | ")]
    assert len(rows) == len(shown) == len(lines)
    for row, (label, n, *cells), line in zip(rows, shown, lines, strict=True):
        assert label.text_content() == row.label + row.hint
        assert n.text_content() == ("" if row.n is None else f"{row.n:,}")
        of_line = re.split(r"(?<!\\)\|", line)[1:-1]
        assert as_line(row.label) in of_line[0]
        for cell, td, text in zip((row.base, *row.edits), cells, of_line[2:], strict=True):
            assert td.text_content().split() == " ".join(texts(cell)).split()
            assert text.strip() == as_line("; ".join(texts(cell)))


def test_rows_hold_the_reports_figures() -> None:
    """Of two edits, the figures of each stand in its own column."""
    other = example(tasks={**example()["edits"][0]["tasks"], "copy": task(0.934, 0.901)})
    report = several(example(), other)
    rows: dict[str, Row] = {}
    for row in rows_of(report):
        rows.setdefault(row.label, row)
    extraction, audit, heldout = (
        report["edits"][0][key] for key in ("extraction", "audit", "heldout")
    )
    exact, change = extraction["exact_match"], extraction["paired"]["exact_match_difference"]
    first = rows["recited word for word"].edits[0]
    assert first is not None
    assert (first.number, first.ci95) == (exact["rate"], exact["ci95"])
    assert (first.change, first.change_ci95) == (change["value"], change["ci95"])
    assert rows["recited word for word"].n == extraction["n"]
    for part in extraction["by_count"]:
        label = {"0": "never seen", "1": "seen once"}.get(part["count"])
        stratum = rows[label or f"seen {part['count']} times"].edits[1]
        assert stratum is not None
        assert stratum.number == part["exact_match"]["rate"]

    def numbers(label: str) -> list[float]:
        row = rows[label]
        return [cell.number for cell in (row.base, *row.edits) if cell is not None]

    greedy = audit["attacks"][0]
    assert numbers("recovered by greedy") == [
        greedy["base"]["rate"], greedy["edited"]["rate"], greedy["edited"]["rate"],
    ]  # fmt: skip
    assert numbers("by any, after 10 steps of relearn") == [0.9, 0.2, 0.2]
    assert numbers("membership by loss") == [0.97, 0.5125, 0.5125]
    assert numbers("copy, acc") == [0.934, 0.702, 0.901]
    assert numbers("parameters") == [2_183_680, 1_951_840, 1_951_840]
    assert numbers("loss on held-out text, nats per token")[0] == heldout["base"]["mean"]


def test_numbers_as_they_are_shown() -> None:
    assert Cell(SHARE, 0.2512, [0.2, 0.3]).value == "25.1%"
    assert Cell(SHARE, 0.2512, [0.2, 0.3]).interval == "[20.0, 30.0]"
    assert Cell(SHARE, 0.5, (), 0.0213, [-0.01, 0.05]).difference == "+2.1 [−1.0, +5.0]"
    assert Form(3).show(-0.00001, signed=True) == "0.000"
    assert Form(1).show(-1234.5, signed=True) == "−1,234.5"


def test_a_task_says_what_it_asks_and_how_it_is_scored() -> None:
    names = [name for suite in SUITES.values() for name in suite]
    known = {name: {**task(0.5, 0.4), "description": describe_task(name, {})} for name in names}
    report = example(tasks={**known, "other": {**task(0.5, 0.4), "metric": "its_own"}})
    report["edits"][0]["tasks"]["other"]["metrics"]["its_own"] = report["edits"][0]["tasks"][
        "other"
    ]["metrics"].pop("acc")
    page = parse(render_pages(report)["report.html"]).text_content()
    for name in names:
        asked = str(describe_task(name, {}))
        assert f"{asked.removesuffix('.')}; acc is the share of right answers" in page, name
    assert "its_own is" not in page
    assert describe_task("other", {"task_alias": "another name", "description": "a prompt"}) == (
        "another name"
    )
    assert describe_task("other", {"description": "a prompt"}) is None


HOSTILE = "</style><script>alert(1)</script><img/src=x/onerror=alert(2)>&\"'`|*_$"
LINES = f"{HOSTILE}\n# x"


def hostile() -> dict[str, Any]:
    plain = example()["edits"][0]
    report = example(
        name=HOSTILE,
        verdict=LINES,
        tasks={HOSTILE: {**task(0.5, 0.4), "metric": HOSTILE, "verdict": HOSTILE}},
        warnings=[LINES],
        commands=[LINES],
        gates=[gate(name=HOSTILE, description=HOSTILE)],
        edit={**plain["edit"], "source": HOSTILE, "drop_attn": HOSTILE},
        passages=[{**plain["passages"][0], "id": HOSTILE, "prefix": HOSTILE, "suffix": HOSTILE}],
    )
    report["provenance"]["versions"] = {HOSTILE: HOSTILE}
    report["base"]["name"] = HOSTILE
    for part in ("baseline", "paired"):
        report["edits"][0]["extraction"][part]["by_count"][0]["count"] = HOSTILE
    report["edits"][0]["extraction"]["by_count"][0]["count"] = HOSTILE
    return report


def gate(**changes: Any) -> dict[str, Any]:
    known = example()["edits"][0]["gates"][1]
    return {**known, "ok": True, "state": "kept", "value": 0.01} | changes


def test_names_are_escaped() -> None:
    made = render_pages(hostile())
    tree = parse(made["report.html"])
    assert not tree.xpath("//script | //@onerror")
    assert {src[:19] for src in tree.xpath("//@src")} == {"data:image/svg+xml;"}
    assert len(tree.xpath("//style")) == 1
    assert tree.xpath("//h1")[0].text_content() == f"{HOSTILE}, compared with {HOSTILE}"
    assert {figure.text_content() for figure in tree.xpath("//pre")} == {LINES}
    outside = re.sub(r"^    .*$", "", made["report.md"], flags=re.MULTILINE)  # code shows itself
    for markup in ("<script", "<img", "\n# x"):
        assert markup not in outside
    tables = re.findall(r"(?:^\|.*\n)+", made["report.md"], re.MULTILINE)
    assert tables
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@settings(max_examples=10, deadline=None)
@given(st.text(min_size=1))
def test_any_name_survives(name) -> None:
    printable = "".join(letter for letter in name if letter.isprintable()) or "x"
    report = bare()
    report["edits"][0]["name"] = report["edits"][0]["verdict"] = printable
    made = render_pages(report)
    title = f"{printable}, compared with {BASE}"
    assert parse(made["report.html"]).xpath("//h1")[0].text_content() == title
    assert made["report.md"].count("\n# ") == 0


def test_it_stands_alone_and_is_built_as_a_document() -> None:
    text = pages_of("several")["report.html"]
    tree = parse(text)
    assert not tree.xpath("//script | //link[@rel='stylesheet'] | //iframe")
    assert {link.get("href") for link in tree.xpath("//*[@href]")} == {"data:,"}
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in tree.xpath("//meta[@http-equiv]/@content")[0]
    assert tree.get("lang") == "en"
    assert tree.xpath("//title")[0].text
    assert len(tree.xpath("//h1")) == 1
    for table in tree.xpath("//table"):
        assert table.xpath("caption")
        assert all(head.get("scope") == "col" for head in table.xpath("thead//th"))
        assert table.xpath("tbody//th[@scope='row']")


def test_pictures_are_svg_with_a_text_alternative_and_the_same_each_time() -> None:
    made = render_pages(example())["report.html"]
    assert made == pages_of("whole")["report.html"]
    pictures = parse(made).xpath("//img")
    assert len(pictures) == 6  # recited, attacked, cost, all passages, trade-off, blocks
    for picture in pictures:
        assert len(picture.get("alt")) > 20
        (narrow,) = picture.xpath("ancestor::picture//source/@srcset")  # for a small screen
        for url in (picture.get("src"), narrow):
            svg = base64.b64decode(url.partition(",")[2])
            assert b"<dc:date>" not in svg
            assert ElementTree.fromstring(svg).tag.endswith("svg")  # our own
    assert b"found by the search" in b"".join(
        base64.b64decode(picture.get("src").partition(",")[2]) for picture in pictures
    )


def test_gates_are_told_in_words() -> None:
    """And in a color of each state: what is not decided looks like neither of the others."""
    unsure = gate(state="undecided", ok=None, n=77, lacks="77 documents are too few")
    missed = gate(state="missed", ok=False)
    for gates, words in (
        ([gate(), missed], "✕ Do not ship it: it misses max-drop copy."),
        ([gate()], "✓ It keeps every limit."),
        ([gate(), unsure], "? Not decided: max-drop copy: 77 documents are too few."),
        ([unsure, missed], "✕ Do not ship it: it misses max-drop copy."),
    ):
        state = settle(one["state"] for one in gates)
        made = render_pages(bare(gates=gates, state=state, passed=OK.get(state)))
        tree = parse(made["report.html"])
        assert words in tree.text_content()
        assert tree.xpath("//section/@class")[0] == f"verdict {state}"
        assert f".verdict.{state} .line" in made["report.html"]
        for text in (tree.text_content(), made["report.md"]):
            for word, one in ((": MISSED: ", missed), (": not decided: ", unsure)):
                assert text.count(word) == gates.count(one)


def test_a_limit_that_no_edit_kept_where_it_was_chosen_is_said_first() -> None:
    """By luck, the half held back may keep it."""
    edit = {**example()["edits"][0]["edit"], "missed": True}
    changes = {"edit": edit, "gates": [gate()], "state": "kept", "passed": True}
    (missed,) = Report.model_validate(example(**changes)).edits
    said = (
        "No edit of the search kept its limits on the half that it used; "
        "here, it keeps every limit."
    )
    assert summarize(missed).line == said
    assert said in write_verdict(missed)


def test_it_starts_with_one_line_and_three_points() -> None:
    """What is recited, the strongest attack and those not tried, and what it costs."""
    report = example()
    (edit,) = report["edits"]
    found, before = edit["extraction"]["exact_match"], edit["extraction"]["baseline"]["exact_match"]

    def points(made: dict[str, str]) -> tuple[str, list[str]]:
        (box,) = parse(made["report.html"]).xpath("//*[@class='line']/..")
        line, listed, *_ = box.xpath("p | ul")
        return line.text_content(), [one.text_content() for one in listed]

    line, (recited, attacked, cost) = points(pages_of("whole"))
    assert line == "✕ Do not ship it: it misses max-drop copy."
    assert recited.startswith(
        f"Recited. Recites {found['count']} of {edit['extraction']['n']} passages word for word; "
        f"the base recites {before['count']}. A search chose the edit on 24 of "
        f"{24 + edit['extraction']['n']} passages"
    )
    assert attacked.startswith("Strongest attack. The strongest of 2 attacks, relearn, recovers 6")
    _, _, left = attacked.partition("Not tried: ")
    assert left.rstrip(".").split(", ") == edit["audit"]["not_tried"]
    assert cost.startswith("Cost. Loss on ")
    assert "Held-out loss: " in cost
    (unlimited,) = Report.model_validate(example(gates=[], passed=None)).edits
    assert summarize(unlimited).line == (
        f"Recites {found['rate']:.1%} of the passages word for word instead of "
        f"{before['rate']:.1%}; no limit was set."
    )
    line, (recited, attacked, cost) = points(pages_of("bare"))
    assert line == "No limit was set, and memorization was not measured."
    assert (recited, attacked) == (
        "Recited. Memorization was not measured.", "Strongest attack. No attack was tried."
    )  # fmt: skip
    _, (_, _, cost) = points(render_pages(bare(tasks={})))
    assert cost == "Cost. Neither benchmarks nor held-out text were measured."
    (whole,) = Report.model_validate(example(audit={**audit(), "not_tried": []})).edits
    assert summarize(whole).attacked.endswith("Every attack that attn-surgery knows was tried.")


def test_how_far_an_edit_goes_toward_a_twin_is_no_share_of_passages() -> None:
    """It is a note beside the twin's own figure, and no point in the picture."""
    report = Report.model_validate(example(twin=TWIN))
    table = make_recital_table(report)
    (row,) = (row for row in table.rows if "twin" in row.label)
    assert [texts(cell) for cell in (row.base, *row.edits)] == [
        ["4.2%", "[0.7, 20.2]"], ["97% of the way to it"],
    ]  # fmt: skip
    drawn = draw_table(table, ["edited"])
    assert drawn is not None
    svg = base64.b64decode(drawn.wide.partition(",")[2]).decode()
    assert "recited word for word" in svg
    assert "twin" not in svg


def test_a_loss_below_one_nat_is_no_share() -> None:
    """Only scores of tasks are drawn in percentage points."""
    heldout = example()["edits"][0]["heldout"]
    heldout |= {
        key: {"mean": mean, "ci95": [0.1, 0.9]} for key, mean in (("base", 0.4), ("edited", 0.5))
    }
    alone, beside = (
        make_cost_table(Report.model_validate(bare(heldout=heldout, tasks=tasks)))
        for tasks in ({}, {"copy": task(0.934, 0.702)})
    )
    assert draw_table(alone, ["edited"]) is None
    drawn = draw_table(beside, ["edited"])
    assert drawn is not None
    svg = base64.b64decode(drawn.wide.partition(",")[2]).decode()
    assert ("copy" in svg, "nats" in svg) == (True, False)


def test_the_trade_off_shows_the_limited_attack_and_the_front_of_the_search() -> None:
    report = example()
    front = [{**point, "recovered": {"relearn": 0.5}} for point in report["front"]]

    def written(report: dict[str, Any]) -> str:
        drawn = draw_trade_off(Report.model_validate(report))
        assert drawn is not None
        return base64.b64decode(drawn.wide.partition(",")[2]).decode()

    assert "recovered by relearn" in written({**report, "front": front})
    assert "recited word for word" in written(report)  # the points do not know that attack


def test_the_half_that_did_not_choose_is_named_only_where_there_is_one() -> None:
    said = "stand where the other half puts them"
    assert said in pages_of("whole")["report.html"]
    by_hand = example(chose={"passages": None, "windows": 0}, all_passages=None)
    page = render_pages(by_hand)["report.html"]
    assert said not in page
    assert "The search measured its points on the half" in page


def test_a_search_draws_what_every_unit_is_worth() -> None:
    """In place of the picture that shows only which heads are edited."""
    units = {Part(b, (h,), v): (1.0, 0.1) for b in range(4) for h in range(4) for v in ("mean",)}
    found = make_map(units, 4, 4, measured=False)
    assert found is not None
    edit = example()["edits"][0]["edit"]
    report = Report.model_validate(bare(edit=edit, map=found.model_dump(mode="json")))
    (picture,) = parse(render_html(report)).xpath("//h2[text()='The edit']/..//img")
    assert "worth" in base64.b64decode(picture.get("src").partition(",")[2]).decode()
    assert "is outlined" in picture.get("alt")
    other = report.model_copy(update={"map": found.model_copy(update={"num_blocks": 5})})
    assert report.edits[0].edit is not None
    assert "4 blocks" in draw_model(other, report.edits[0].edit).alt  # the map of another model


def test_what_was_not_measured_is_left_out() -> None:
    made = pages_of("bare")
    page = parse(made["report.html"])
    headings = [heading.text for heading in page.xpath("//h2")]
    assert headings == ["What these figures do not say", "What it costs", "Size", "Provenance"]
    assert "None" not in page.text_content()
    assert "recite" not in made["report.md"].split("**What it costs", 1)[1].split("## The", 1)[0]


def test_limits_are_always_said() -> None:
    for name in REPORTS:
        for text in pages_of(name).values():
            assert "cannot show that a passage is gone" in text, "even if base and edit are alike"
            assert "not a privacy guarantee" in text


def test_text_of_passages_is_never_shown() -> None:
    row = {**example()["edits"][0]["passages"][0], "prefix": "my number is", "suffix": " 555-0100"}
    made = render_pages(bare(passages=[row]))
    assert "Their text is left out" in made["report.html"]
    for text in made.values():
        assert "my number is" not in text
        assert "555-0100" not in text
