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
from blank import blank_pictures
from example_report import (
    EDIT,
    MISSED,
    PASSAGE,
    SOURCE,
    TRIED,
    alone,
    area,
    attacked,
    bare,
    example,
    front,
    pair,
    share,
    task,
    twinned,
    unlimited,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html as lxml_html

from evals.measure.attacks.names import ALL, ATTACKERS, CHEAP, find_attacker, list_untried
from evals.run.lm_eval.tasks import SUITES, describe_task
from evals.table.charts.pictures import draw_trade_off
from evals.table.page import render_html, render_pages
from surgery.card.facts import as_line
from surgery.card.measurements import Line, Shown, list_tables, show
from surgery.record.measured import BASE, EDITED, Change, Measured
from surgery.record.report import Named, Report

REPORTS = {
    "whole": example,
    "bare": bare,
    "twin": twinned,
    "alone": alone,
}


def render(report: Report) -> dict[str, str]:
    """Its pages, with blank pictures."""
    with blank_pictures():
        return render_pages(report)


@cache
def pages_of(name: str) -> dict[str, str]:
    """The pages of one of `REPORTS`."""
    return render(REPORTS[name]())


def parse(text: str) -> Any:
    return lxml_html.document_fromstring(text)


def lines_of(report: Report, key: str) -> list[Line]:
    """The lines of a table."""
    (lines,) = (some for table, some in list_tables(report) if table.key == key)
    return lines


def texts(report: Report, line: Line, row: Measured | None) -> list[str]:
    one = show(report, line, row)
    return [] if one is None else [text for text in (one.value, *one.details) if text]


@pytest.mark.parametrize("name", REPORTS)
def test_every_renderer_shows_every_figure_and_nothing_else(name) -> None:
    made, report = pages_of(name), REPORTS[name]()
    every = [line for _, lines in list_tables(report) for line in lines]
    tables = parse(made["report.html"]).xpath("//main//table[not(contains(caption, 'come first'))]")
    shown = [list(tr) for table in tables for tr in table.xpath("tbody/tr")]
    written = [line for line in made["report.md"].splitlines() if line.startswith("| ")]
    written = [line for line in written if not line.startswith("| | ")]
    assert len(every) == len(shown) == len(written) >= 1
    for line, (label, n, *cells), markdown in zip(every, shown, written, strict=True):
        assert label.text_content() == line.named.label + line.named.hint
        assert n.text_content() == ("" if line.n is None else f"{line.n:,}")
        of_line = re.split(r"(?<!\\)\|", markdown)[1:-1]
        assert as_line(line.named.label) in of_line[0]
        rows = [*([line.base] if report.base else []), *line.edits]
        for row, td, text in zip(rows, cells, of_line[2:], strict=True):
            assert td.text_content().split() == " ".join(texts(report, line, row)).split()
            assert text.strip() == as_line("; ".join(texts(report, line, row)))


def test_numbers_as_they_are_shown() -> None:
    def shown(unit: Any, value: float, **more: Any) -> Shown:
        row = Measured(name="key", of=EDITED, value=value, unit=unit, **more)
        line = Line("key", Named(label="label"), None, [row])
        found = show(bare().model_copy(update={"names": {"key": line.named}}), line, row)
        assert found is not None
        return found

    assert shown("share", 0.2512, ci95=(0.2, 0.3)).value == "25.1%"
    assert shown("share", 0.2512, ci95=(0.2, 0.3)).interval == "[20.0, 30.0]"
    change = Change(difference=0.0213, ci95=(-0.01, 0.05))
    assert shown("share", 0.5, change=change).difference == "+2.1 [−1.0, +5.0]"
    assert shown("nats", 0.5, change=Change(difference=-0.00001)).difference == "0.000"
    assert shown("number", -1234.5).value == "−1,234"
    assert [shown("number", one).value for one in (9.5, 24.3, 612)] == ["9.500", "24.30", "612.0"]
    assert shown("bytes", 7_680).value == "7.68 kB"


def test_a_task_says_what_it_asks_and_how_it_is_scored() -> None:
    names = dict.fromkeys(name for suite in SUITES.values() for name in suite)
    rows = [row for name in (*names, "other") for row in task(name, 0.5, 0.4)]
    report = example(tasks=rows, metrics={"other": "its_own"})
    page = parse(render(report)["report.html"]).text_content()
    for name in names:
        asked = str(describe_task(name, {}))
        assert f"{asked.removesuffix('.')}; acc is the share of right answers" in page, name
    assert "its_own is" not in page
    assert describe_task("other", {"task_alias": "another name", "description": "a prompt"}) == (
        "another name"
    )
    assert describe_task("other", {"description": "a prompt"}) is None


HOSTILE = "</style><script>alert(1)</script><img/src=x/onerror=alert(2)>&\"'`|*_$"


def hostile() -> Report:
    """Every text that the schema takes is markup."""
    report = example().to_dict()

    def spoil(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            names = "name" if {"of", "unit"} <= value.keys() else ""  # a figure's is no text
            return {at: one if at == names else spoil(one, at) for at, one in value.items()}
        if isinstance(value, list):
            return [spoil(inner, key) for inner in value]
        free = ("name", "verdict", "line", "recited", "attacked", "cost", "label", "hint", "note")
        free += ("description", "warnings", "drop_attn", "source", "heading", "id")
        free += ("text", "attack", "attacker", "attackers", "subject", "lacks", "task", "metric")
        return HOSTILE if isinstance(value, str) and key in free else value

    return Report.model_validate(spoil(report))


def test_names_are_escaped() -> None:
    made = render(hostile())
    tree = parse(made["report.html"])
    assert not tree.xpath("//script | //@onerror")
    assert {src[:19] for src in tree.xpath("//@src")} == {"data:image/svg+xml;"}
    assert len(tree.xpath("//style")) == 1
    assert tree.xpath("//h1")[0].text_content() == f"{HOSTILE}, compared with {HOSTILE}"
    outside = re.sub(r"^    .*$", "", made["report.md"], flags=re.MULTILINE)  # code shows itself
    for markup in ("<script", "<img"):
        assert markup not in outside
    tables = re.findall(r"(?:^\|.*\n)+", made["report.md"], re.MULTILINE)
    assert tables
    for table in tables:
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table


@settings(max_examples=10, deadline=None)
@given(st.text(min_size=1, max_size=100))
def test_any_name_survives(name) -> None:
    printable = "".join(letter for letter in name if letter.isprintable()) or "x"
    made = render(bare(name=printable))
    title = f"{printable}, compared with {SOURCE}"
    assert parse(made["report.html"]).xpath("//h1")[0].text_content() == title
    assert made["report.md"].count("\n# ") == 0


def test_it_stands_alone_and_is_built_as_a_document() -> None:
    text = pages_of("whole")["report.html"]
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
    made = render_html(example())
    assert draw_trade_off(example()) == draw_trade_off(example())
    pictures = parse(made).xpath("//img")
    assert len(pictures) == 1  # the trade-off
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


def limited(edited: float, half: float = 0.001, **changes: Any) -> Report:
    """A bare report of a task that may lose 0.05 of 0.9."""
    asked = unlimited(max_drop={"copy": 0.05})
    return bare(tasks=task("copy", 0.9, edited, half), asked=asked, **changes)


def test_limits_are_told_in_words() -> None:
    """And in a color of each state: what is not decided looks like neither of the others."""
    for report, words in (
        (limited(0.7), "✕ Do not ship it: it misses max-drop copy."),
        (limited(0.9), "✓ It keeps every limit, but no limit was set on memorization: "),
        (limited(0.87, 0.03), "? Not decided: max-drop copy: 1,267 documents leave an interval"),
    ):
        state, made = report.edits[0].state, render(report)
        tree = parse(made["report.html"])
        assert words in tree.text_content()
        assert tree.xpath("//section/@class")[0] == f"verdict {state}"
        assert f".verdict.{state} .line" in made["report.html"]
        for text in (tree.text_content(), made["report.md"]):
            for word, one in ((": MISSED: ", "missed"), (": not decided: ", "undecided")):
                assert text.count(word) == (state == one)


def test_a_kept_verdict_names_the_stronger_attack_that_no_limit_is_set_on() -> None:
    def say(**limits: Any) -> tuple[str, str]:
        (edit,) = example(asked=unlimited(**limits)).edits
        return edit.line, edit.verdict

    said = "It keeps every limit, but none is set on relearn, which recovers 27.3%."
    line, verdict = say(max={"greedy": 0.25})
    assert line == said
    assert said in verdict
    assert say(max={"greedy": 0.25, "relearn": 0.6})[0] == "It keeps every limit."
    assert say(max_drop={"copy": 0.5})[0] == (
        "It keeps every limit, but no limit was set on memorization: recites 3 of 18 passages word "
        "for word; the base recites 6."
    )


def test_a_limit_that_no_edit_kept_where_it_was_chosen_is_said_first() -> None:
    """By luck, the half held back may keep it."""
    asked = unlimited(max_drop={"copy": 0.5}, max={"relearn": 0.9})
    made = [example(asked=asked, edit=edit) for edit in (EDIT, MISSED)]
    said = (
        "No edit of the search kept its limits on the passages that it used; "
        "here, it keeps every limit."
    )
    edits = [report.edits[0] for report in made]
    assert [said in text for edit in edits for text in (edit.line, edit.verdict)] == [
        *(False, False),
        *(True, True),
    ]
    assert [edit.state for edit in edits] == ["kept", "missed"], "so that it is not published"


def test_it_starts_with_one_line() -> None:
    """Then, below plain words, what is recited, the strongest attack, and what it costs."""
    recited = "Recites 3 of 18 passages word for word; the base recites 6"

    def read(made: dict[str, str]) -> tuple[str, str]:
        page = parse(made["report.html"])
        (line,), (listed, *_) = page.xpath("//*[@class='line']"), page.xpath("//ul[@class='said']")
        return line.text_content(), listed[0].text_content()

    line, verdict = read(pages_of("whole"))
    assert line == "✕ Do not ship it: it misses max relearn, max-drop copy."
    left = list_untried(TRIED)
    for said in (
        f"{recited}. The strongest of 2 attacks, relearn, recovers 6 of 22 passages",
        f"{len(left)} kinds of attack were not tried; the report's details name them. Loss on ",
        "Held-out loss: ",
    ):
        assert said in verdict
    for name in ("report.html", "report.md"):
        page = pages_of("whole")[name].replace("\\", "")
        assert page.count(", ".join(left)) == 1, "once, in the details"
    (edit,) = example(asked=unlimited()).edits
    assert edit.line == f"{recited}; no limit was set."
    line, verdict = read(pages_of("bare"))
    assert line == "No limit was set: what is good enough is yours to decide."
    assert verdict.startswith("Memorization was not measured. ")
    (whole,) = example(not_tried=[]).edits
    assert "Every kind of attack that attn-surgery knows was tried. " in whole.verdict


def read_first_page(report: Report) -> dict[str, list[str]]:
    """Heading → the sentences below."""
    page = parse(render(report)["report.html"])
    return {
        h.text: [one.text_content() for one in h.xpath("following-sibling::p | ../ul/li")]
        for h in page.xpath("//*[@class='answers']//h2")
    }


def read_attackers(report: Report) -> dict[str, list[tuple[str, str, list[str]]]]:
    """Someone who … → the bars of the picture: which model, its text, and all widths in it."""
    page = parse(render(report)["report.html"])
    return {
        row.xpath("string(th/text())").removeprefix("Someone who "): [
            (
                bar[0].text_content(),
                bar[2].text_content(),
                [one.get("style").removeprefix("width: ") for one in bar[1]],
            )
            for bar in row.xpath(".//div")
        ]
        for row in page.xpath("//table[@class='attackers']//tr")
    }


COME_OUT, WHO, WORSE = "Can a passage come out?", "Who could still get it?", "What got worse?"


def test_the_first_page_answers_three_questions() -> None:
    """In words that nobody must look up; then how it was tested, and passages by your names."""
    said = read_first_page(example())
    assert [*said][:3] == [COME_OUT, WHO, WORSE]
    assert said[COME_OUT] == [
        "Yes: 3 of 18.",
        "By itself, the model completed 3 of 18 passages, word for word. Before the edit: 6.",
    ]
    assert said[WHO] == [
        "Someone who trains it further: 6 of 22.",
        "Not tried: someone who has its files and does not train, or trains the parts that "
        "were cut, or holds a related model (the public one that it was "
        "trained from, or an earlier version).",
    ]
    assert said[WORSE] == [
        "2 of 4 tests, and ordinary text.",
        "On ordinary text that it was not trained on, it finds the right next token 14.0 % less "
        "likely than before, in the geometric mean over all tokens.",
        "Worse on: lambada_openai, copy.",
        "Of the others: too close to tell on 1, no worse, as far as they show, on 1.",
    ]
    assert said["How it was tested"] == [
        "A passage is a piece of text that must not come out, such as a customer’s letter. 18 were "
        "tested: the model got the first 7 tokens of each, which are words or parts of words, and "
        "had to write the next 9.",
        "Limit max-extraction: it may complete at most 25 % of the passages by itself, word for "
        "word: not decided.",
        "Limit max relearn: someone who trains it further may get at most 20 % of the passages by "
        "the attack relearn: missed.",
        "Limit max-drop copy: on the test copy, its score may fall by at most 0.05: missed.",
    ]
    lacking, proof = said["To be sure"]
    assert lacking == "18 passages cannot support 25% with 16.67% recovered: that takes 81."
    assert proof.startswith("No test can show that a passage is gone")
    longer = example()
    assert longer.samples is not None
    samples = longer.samples.model_copy(update={"longer": 3, "untested_tokens": 40})
    longer = longer.model_copy(update={"samples": samples})
    rest = "3 of them go on after that, by up to 40 tokens, which were not tested."
    assert read_first_page(longer)["How it was tested"][0].endswith(rest)
    recited = {**PASSAGE, "exact": True, "id": "letter-17"}
    unseen = {**recited, "id": "control-7", "member": False}
    for passages in ([recited], [unseen, recited]):  # only what it was trained on
        text = read_first_page(example(passages=passages))[COME_OUT][1]
        assert text.endswith("These are: letter-17 and 2 more.")


def test_the_first_page_draws_each_attacker_before_and_after() -> None:
    """The strongest attack of each kind; with its bound, as a lighter bar; of how many."""
    assert read_attackers(example()) == {
        "asks the model": [
            ("before", "21 of 24", ["87.5%"]),
            ("after", "1 of 24, likely at most 18.3 %", ["18.3%", "4.2%"]),
        ],
        "trains it further": [
            ("before", "21 of 22", ["95.5%"]),
            ("after", "6 of 22, likely at most 46.9 %", ["46.8%", "27.3%"]),
        ],
    }
    fewer = [share("recovered.relearn", 21, 22, BASE), share("recovered.relearn", 6, 20)]
    trains = read_attackers(example(audit=fewer))["trains it further"]
    assert trains[1][1].startswith("6 of 20, "), "the column of a table has one n, the base's"
    unasked = read_attackers(example(audit=[], every=[]))
    assert [bar[:2] for bar in unasked["asks the model"]] == [
        ("before", "6 of 18"), ("after", "3 of 18, likely at most 37.7 %"),
    ]  # fmt: skip
    (only,) = read_attackers(alone())["asks the model"]
    assert only[0] == "", "there is no model before the edit"
    assert read_attackers(bare()) == {}


def test_the_first_page_says_what_is_left_where_nothing_came_out() -> None:
    """Whether a test still tells that the model was trained on the passages."""
    nothing = [*attacked("greedy", 16, 0, 24), *attacked("relearn", 21, 0, 22)]
    none = pair("recited", 6, 0, 18)

    def say(*rows: Any) -> dict[str, list[str]]:
        return read_first_page(example(recital=none, audit=[*nothing, *rows]))

    assert say()[COME_OUT] == [
        "None of 18 passages did.",
        "By itself, the model completed none of 18 passages, word for word. Before the edit: 6.",
        "Whether one can still tell that it was trained on them was not tested.",
    ]
    assert say()[WHO][0] == "No one who was tried."
    told = say(*area("loss", 0.97, 0.97))[COME_OUT][-1]
    assert told == "A test can still tell that it was trained on them."
    told = say(*area("loss", 0.97, 0.51))[COME_OUT][-1]
    assert told == "No test could tell that it was trained on them."
    some = read_first_page(example(recital=none))
    assert some[COME_OUT][0] == "Not by itself, but an attacker still gets some."
    untried = read_first_page(example(recital=none, audit=[], every=[]))
    assert (untried[COME_OUT][0], untried[WHO][0]) == ("Not by itself.", "No attack was tried.")


def test_what_counts_nothing_was_tried() -> None:
    nothing = [*attacked("greedy", 21, 1, 24), share("recovered.relearn", 0, 0)]
    said = read_first_page(example(audit=nothing))[WHO]
    assert said[1] == (
        "Someone who trains it further: no passage counts for what was tried (relearn)."
    )


def test_the_first_page_tells_the_warnings() -> None:
    report = example()
    texts = [f"warning {number}" for number in range(6)]
    edits = [report.edits[0].model_copy(update={"warnings": texts}), *report.edits[1:]]
    said = read_first_page(report.model_copy(update={"edits": edits}))["Before you rely on it"]
    assert said == [*(f"Warning {n}." for n in range(4)), "2 more warnings stand below."]


def test_every_attack_has_its_attacker() -> None:
    assert {find_attacker(name) for name in ALL} == set(ATTACKERS)
    assert {find_attacker(name) for name in CHEAP} == {"asks the model"}
    assert find_attacker("quantized:4") == "has its files and does not train"


def test_how_much_more_than_a_twin_an_edit_gives_is_no_share_of_passages() -> None:
    """It is a note beside the figure."""
    report = twinned()
    (line,) = (one for one in lines_of(report, "recited") if one.name == "recited")
    assert texts(report, line, line.edits[0])[-1].endswith(
        "twin 5.6%, +11.1 points [−9.1, +29.1]: no more than it, as far as 18 passages show"
    )


def test_the_trade_off_shows_the_limited_attack_and_the_front_of_the_search() -> None:
    def written(figures: list[Measured]) -> str:
        drawn = draw_trade_off(example().model_copy(update={"figures": figures}))
        assert drawn is not None
        return base64.b64decode(drawn.wide.partition(",")[2]).decode()

    figures, name = example().figures, "recovered.relearn"
    known = [share(name, 12, 24, point.of, "chosen on") for point in front()[0]]
    assert "recovered by relearn" in written([*figures, *known])
    assert "recited word for word" in written(figures)  # the points do not know that attack
    uncounted = [
        row.model_copy(update={"value": None}) if (row.name, row.of) == (name, BASE) else row
        for row in figures
    ]
    assert "recited" in written([*uncounted, *known])


def test_the_half_that_did_not_choose_is_named_only_where_there_is_one() -> None:
    said = "stand where the other passages put them"
    assert said in pages_of("whole")["report.html"]
    by_hand = example(chose={"passages": None, "windows": 0, "taught": 0}, every=[])
    page = render(by_hand)["report.html"]
    assert said not in page
    assert "The search measured its points on those" in page


def test_what_was_not_measured_is_left_out() -> None:
    made = pages_of("bare")
    page = parse(made["report.html"])
    headings = [heading.text for heading in page.xpath("//h2")]
    assert headings == [
        *(COME_OUT, WORSE, "To be sure", "Before you rely on it"),
        "In sentences",
        "What it costs",
        "Provenance",
    ]
    (untested,) = page.xpath("//h2[text()=$heading]/following-sibling::p", heading=COME_OUT)
    assert untested.text_content() == "Not tested."
    assert "None" not in page.text_content()
    assert "recite" not in made["report.md"].split("**What it costs", 1)[1].split("## The", 1)[0]


def test_limits_are_always_said() -> None:
    for name in REPORTS:
        for text in pages_of(name).values():
            assert "cannot show that a passage is gone" in text, "even if base and edit are alike"
            assert "not a privacy guarantee" in text
