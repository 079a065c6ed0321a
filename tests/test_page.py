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
    BASE,
    TWIN,
    audit,
    bare,
    example,
    found,
    lacking,
    several,
    share,
    task,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import html as lxml_html

from evals.measure.attacks.names import ALL, ATTACKERS, CHEAP, find_attacker, make_attack
from evals.measure.verdicts import check_limit
from evals.report.headline import summarize, write_verdict
from evals.report.model_map import make_map
from evals.report.page import render_html, render_pages
from evals.report.pictures import draw_model, draw_table, draw_trade_off
from evals.run.lm_eval.tasks import SUITES, describe_task
from surgery.card.facts import as_line
from surgery.card.measurements import list_tables, show
from surgery.record.report import Change, EditValue, Figure, Limit, Report, Value
from surgery.selection import Part

REPORTS = {
    "whole": example,
    "bare": bare,
    "several": lambda: several(found(), found()),
    "twin": lambda: example(twin=TWIN),
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


def texts(figure: Figure, value: Value | None) -> list[str]:
    one = show(figure, value)
    return [] if one is None else [text for text in (one.value, *one.details) if text]


@pytest.mark.parametrize("name", REPORTS)
def test_every_renderer_shows_every_figure_and_nothing_else(name) -> None:
    made, report = pages_of(name), REPORTS[name]()
    figures = [figure for _, figures in list_tables(report) for figure in figures]
    tables = parse(made["report.html"]).xpath("//table[not(contains(caption, 'come first'))]")
    shown = [list(tr) for table in tables for tr in table.xpath("tbody/tr")]
    lines = [line for line in made["report.md"].splitlines() if line.startswith("| ")]
    lines = [line for line in lines if not line.startswith("| | ")]
    assert len(figures) == len(shown) == len(lines) > 1
    for figure, (label, n, *cells), line in zip(figures, shown, lines, strict=True):
        assert label.text_content() == figure.label + figure.hint
        assert n.text_content() == ("" if figure.n is None else f"{figure.n:,}")
        of_line = re.split(r"(?<!\\)\|", line)[1:-1]
        assert as_line(figure.label) in of_line[0]
        values = (figure.base, *figure.edits)
        for value, td, text in zip(values, cells, of_line[2:], strict=True):
            assert td.text_content().split() == " ".join(texts(figure, value)).split()
            assert text.strip() == as_line("; ".join(texts(figure, value)))


def test_figures_are_what_was_found() -> None:
    """Of two edits, the figures of each stand in its own column."""
    first = found()
    (edit,) = first.edits
    other = found(tasks={**edit.tasks, "copy": task(0.934, 0.901)})
    report = several(first, other)
    assert edit.extraction is not None
    exact, change = (
        edit.extraction["exact_match"], edit.extraction["paired"]["exact_match_difference"]
    )  # fmt: skip
    recited = report.find("recited")
    assert recited is not None
    assert recited.n == edit.extraction["n"]
    one = recited.edits[0]
    assert one is not None
    assert one.change is not None
    assert (one.value, one.ci95) == (exact["rate"], tuple(exact["ci95"]))
    assert (one.change.value, one.change.ci95) == (change["value"], tuple(change["ci95"]))

    def numbers(key: str) -> list[float | None]:
        figure = report.find(key)
        assert figure is not None
        return [value.value for value in (figure.base, *figure.edits) if value is not None]

    for part in edit.extraction["by_count"]:
        assert numbers(f"recited.{part['count']}")[2] == part["exact_match"]["rate"]
    assert edit.audit is not None
    greedy = edit.audit.rated[0]
    assert numbers("recovered.greedy") == [greedy.base.rate, *2 * [greedy.edited.rate]]
    assert numbers("recovered.relearn 10") == [0.9, 0.2, 0.2]
    assert numbers("membership.loss") == [0.97, 0.5125, 0.5125]
    assert numbers("task.copy") == [0.934, 0.702, 0.901]
    assert numbers("size.parameters") == [2_183_680, 1_951_840, 1_951_840]
    assert edit.heldout is not None
    assert numbers("heldout")[0] == edit.heldout.base.mean


def test_numbers_as_they_are_shown() -> None:
    def shown(form: Any, value: float, **more: Any) -> Any:
        one = EditValue(value=value, **more)
        about: dict[str, Any] = {"key": "key", "table": None, "label": "label", "form": form}
        return show(Figure(**about, base=None, edits=[one]), one)

    assert shown("share", 0.2512, ci95=(0.2, 0.3)).value == "25.1%"
    assert shown("share", 0.2512, ci95=(0.2, 0.3)).interval == "[20.0, 30.0]"
    change = Change(value=0.0213, ci95=(-0.01, 0.05))
    assert shown("share", 0.5, change=change).difference == "+2.1 [−1.0, +5.0]"
    assert shown("nats", 0.5, change=Change(value=-0.00001)).difference == "0.000"
    assert shown("number", -1234.5).value == "−1,234"
    assert [shown("number", one).value for one in (9.5, 24.3, 612)] == ["9.500", "24.30", "612.0"]
    assert shown("bytes", 7_680).value == "7.68 kB"


def test_a_task_says_what_it_asks_and_how_it_is_scored() -> None:
    names = [name for suite in SUITES.values() for name in suite]
    known = {name: {**task(0.5, 0.4), "description": describe_task(name, {})} for name in names}
    report = example(tasks={**known, "other": {**task(0.5, 0.4), "metric": "its_own"}})
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
            return {name: spoil(inner, name) for name, inner in value.items()}
        if isinstance(value, list):
            return [spoil(inner, key) for inner in value]
        free = ("name", "verdict", "line", "recited", "attacked", "cost", "label", "hint", "note")
        free += ("description", "warnings", "commands", "drop_attn", "source", "heading", "id")
        return HOSTILE if isinstance(value, str) and key in free else value

    return Report.model_validate(spoil(report))


def kept(name: str = "max-drop copy", value: float = 0.01, n: int = 1267) -> Limit:
    return check_limit(name, "drop of copy", 0.05, value, (value, value), n, needed=None, lacks="")


def test_names_are_escaped() -> None:
    made = render(hostile())
    tree = parse(made["report.html"])
    assert not tree.xpath("//script | //@onerror")
    assert {src[:19] for src in tree.xpath("//@src")} == {"data:image/svg+xml;"}
    assert len(tree.xpath("//style")) == 1
    assert tree.xpath("//h1")[0].text_content() == f"{HOSTILE}, compared with {HOSTILE}"
    assert {figure.text_content() for figure in tree.xpath("//pre")} == {HOSTILE}
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
    made = render_html(example())
    assert draw_trade_off(example()) == draw_trade_off(example())
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


def limited(edited: float, half: float = 0.001, **changes: Any) -> Report:
    """A bare report of a task that may lose 0.05 of 0.9."""
    limits = {**lacking().settings.model_dump(), "max_drop": {"copy": 0.05}}
    return bare(tasks={"copy": task(0.9, edited, half)}, settings=limits, **changes)


def test_gates_are_told_in_words() -> None:
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
    (edit,) = found().edits
    assert edit.audit is not None
    strongest = edit.audit.strongest
    assert strongest is not None
    assert strongest.name == "relearn"
    rate = strongest.edited.rate
    said = f"It keeps every limit, but none is set on relearn, which recovers {rate:.1%}."
    assert summarize(edit, [kept("max greedy", 0.0)]).line == said
    assert said in write_verdict(edit, [kept("max greedy", 0.0)])
    others = [kept("max greedy", 0.0), kept("max relearn", 0.0)]
    assert summarize(edit, others).line == "It keeps every limit."
    assert summarize(edit, [kept()]).line == (
        "It keeps every limit, but no limit was set on memorization: recites 3 of 18 passages word "
        "for word; the base recites 6."
    )


def test_a_limit_that_no_edit_kept_where_it_was_chosen_is_said_first() -> None:
    """By luck, the half held back may keep it."""
    edit = found().edits[0].edit
    assert edit is not None
    (missed,) = found(edit=edit.model_copy(update={"missed": True})).edits
    said = (
        "No edit of the search kept its limits on the passages that it used; "
        "here, it keeps every limit."
    )
    gates = [kept("max greedy", 0.0), kept("max relearn", 0.0)]
    assert summarize(missed, gates).line == said
    assert said in write_verdict(missed, gates)
    limits = {"max_drop": {"copy": 0.5}, "max_extraction": None, "max": {"relearn": 0.9}}
    settings = found().settings.model_copy(update=limits)
    changed = edit.model_copy(update={"missed": True})
    states = [example(settings=settings, edit=one).edits[0].state for one in (edit, changed)]
    assert states == ["kept", "missed"], "so that it is not published"


def test_it_starts_with_one_line_and_three_points() -> None:
    """What is recited, the strongest attack and those not tried, and what it costs."""
    (edit,) = found().edits
    assert edit.extraction is not None
    assert edit.audit is not None
    after, before = edit.extraction["exact_match"], edit.extraction["baseline"]["exact_match"]

    def points(made: dict[str, str]) -> tuple[str, list[str]]:
        page = parse(made["report.html"])
        (line,), (listed, *_) = page.xpath("//*[@class='line']"), page.xpath("//ul[@class='said']")
        return line.text_content(), [one.text_content() for one in listed[:3]]

    line, (recited, attacked, cost) = points(pages_of("whole"))
    assert line == "✕ Do not ship it: it misses max relearn, max-drop copy."
    assert recited.startswith(
        f"Recited. Recites {after['count']} of {edit.extraction['n']} passages word for word; "
        f"the base recites {before['count']}. A search used 24 of "
        f"{24 + edit.extraction['n']} passages"
    )
    assert attacked.startswith("Strongest attack. The strongest of 2 attacks, relearn, recovers 6")
    left = edit.audit.not_tried
    assert attacked.endswith(
        f"{len(left)} kinds of attack were not tried; the report's details name them."
    )
    for name in ("report.html", "report.md"):
        page = pages_of("whole")[name].replace("\\", "")
        assert page.count(", ".join(left)) == 1, "once, in the details"
    assert cost.startswith("Cost. Loss on ")
    assert "Held-out loss: " in cost
    assert summarize(edit).line == (
        f"Recites {after['count']} of {edit.extraction['n']} passages word for word; "
        f"the base recites {before['count']}; no limit was set."
    )
    line, (recited, attacked, cost) = points(pages_of("bare"))
    assert line == "No limit was set, and memorization was not measured."
    assert (recited, attacked) == (
        "Recited. Memorization was not measured.", "Strongest attack. No attack was tried."
    )  # fmt: skip
    _, (_, _, cost) = points(render(bare(tasks={})))
    assert cost == "Cost. Neither benchmarks nor held-out text were measured."
    (whole,) = found(audit={**audit(), "not_tried": []}).edits
    assert summarize(whole).attacked.endswith(
        "Every kind of attack that attn-surgery knows was tried."
    )


def read_first_page(report: Report) -> dict[str, list[str]]:
    """Heading → the sentences below."""
    (box,) = parse(render(report)["report.html"]).xpath("//*[@class='line']/..")
    return {h.text: [li.text_content() for li in h.getnext()] for h in box.xpath("h2")}


def test_the_first_page_tells_everyone_what_was_found() -> None:
    """Who could get what, what decides an open limit, and passages by the names that you gave."""
    said = read_first_page(example())
    assert said["What was asked"] == [
        "Does the model still give away passages that it was trained on? 18 were tested. It got "
        "the first 7 tokens of each, which are words or parts of words, and had to write the "
        "next 9.",
        "Limit: it may recite at most 25 % of the passages, word for word: not decided.",
        "Limit: the attack relearn, by someone who trains it further, may recover at most 20 % of "
        "the passages: missed.",
        "Limit: on the test copy, its score may fall by at most 0.05: missed.",
    ]
    longer = example()
    recited = longer.figures[0].model_copy(
        update={"details": longer.figures[0].details | {"longer": 3, "untested_tokens": 40}}
    )
    longer = longer.model_copy(update={"figures": [recited, *longer.figures[1:]]})
    rest = "3 of them go on after that, by up to 40 tokens, which were not tested."
    assert read_first_page(longer)["What was asked"][0].endswith(rest)
    asks, trains, others = said["Who could still get what"]
    assert asks == (
        "Someone who asks the model: 1 of 24 passages (likely at most 18.3 %), with greedy; before "
        "the edit, 21."
    )
    assert trains.startswith("Someone who trains it further: 6 of 22 passages (likely at most ")
    assert others == (
        "Not tried: someone who has its files and does not train, or trains a prompt for it, and "
        "not the model, or trains the parts that were cut, or holds a related model (the public "
        "one that it was trained from, or an earlier version)."
    )
    (edit,) = found().edits
    (row,) = edit.passages
    recited = row.model_copy(update={"exact": True, "id": "letter-17"})
    (text,) = read_first_page(example(passages=[recited]))["What it recites"]
    assert text.endswith("These are: letter-17 and 2 more.")
    unseen = recited.model_copy(update={"id": "control-7", "member": False})
    (text,) = read_first_page(example(passages=[unseen, recited]))["What it recites"]
    assert text.endswith("These are: letter-17 and 2 more."), "only what it was trained on"
    loss, tasks = said["The cost"]
    assert "that is +0.008 nats, the unit of a language model's loss; n = 16" in loss
    assert tasks.startswith("On 4 tests of what it can do (n = 1,267), it is worse on ")
    lacking, proof = said["To be sure"]
    assert lacking == "18 passages cannot support 25% with 16.67% recovered: that takes 81."
    assert proof.startswith("No test can show that a passage is gone")


def test_the_first_page_names_no_attack_of_several_that_tie() -> None:
    """But the most that any of them recovered before the edit, and what membership tells."""
    made: dict[str, Any] = audit()
    greedy, relearn, membership = made["attacks"]
    asked = [("greedy", 16, 0, 24), ("hints:4", 21, 0, 22)]

    def said(*counts: tuple[str, int, int, int], auc: float | None = None) -> str:
        attacks = [
            {**greedy, **make_attack(name).description, "base": share(before, n),
             "edited": share(after, n)}
            for name, before, after, n in counts
        ]  # fmt: skip
        area = {"auc": auc, "ci95": [0.9, 1.0], "overcorrected": False}
        score = {**membership, "edited": auc and {"loss": area}}
        found = {**made, "attacks": [*attacks, relearn, *([score] if auc else [])]}
        return read_first_page(example(audit=found))["Who could still get what"][0]

    asks = "Someone who asks the model: "
    assert said(*asked, auc=0.97) == (
        f"{asks}none of 22 to 24 passages (likely at most 12.8 %), with any of 2 attacks; before "
        "the edit, 21 with hints:4; a membership score still tells that they were trained on (AUC "
        "0.97 by loss; chance is 0.5)."
    )
    assert said(asked[0]) == (
        f"{asks}none of 24 passages (likely at most 11.8 %), with greedy; before the edit, 16; "
        "membership, which may still tell that they were trained on, was not tried."
    )
    some = [("greedy", 16, 2, 24), ("hints:4", 21, 2, 24), ("any", 22, 1, 24)]
    assert said(*some) == (
        f"{asks}2 of 24 passages (likely at most 24.0 %), with the strongest of 3 attacks, which "
        "tie: greedy, hints:4; before the edit, 21 with hints:4."
    )


def test_an_attack_on_fewer_passages_of_an_edit_says_of_how_many() -> None:
    """A figure has one n, of the first of several edits."""
    report = example()
    figures = list(report.figures)
    place = next(at for at, one in enumerate(figures) if one.key == "recovered.relearn")
    value = figures[place].edits[0]
    assert value is not None
    fewer = value.model_copy(update={"details": value.details | {"n": 20}})
    figures[place] = figures[place].model_copy(update={"edits": [fewer, *figures[place].edits[1:]]})
    said = read_first_page(report.model_copy(update={"figures": figures}))
    assert "further: 6 of 20 passages" in said["Who could still get what"][1]


def change_attack(report: Report, key: str, **edit: Any) -> dict[str, list[str]]:
    """The first page if the first edit has another value for an attack."""
    figures = list(report.figures)
    place = next(at for at, one in enumerate(figures) if one.key == key)
    value = figures[place].edits[0]
    assert value is not None
    edits = [value.model_copy(update=edit), *figures[place].edits[1:]]
    figures[place] = figures[place].model_copy(update={"edits": edits})
    return read_first_page(report.model_copy(update={"figures": figures}))


def test_what_counts_nothing_was_tried() -> None:
    said = change_attack(example(), "recovered.relearn", value=None)["Who could still get what"]
    assert said[1].endswith("further: no passage counts for what was tried (relearn).")


def test_without_attacks_asking_is_what_was_tested() -> None:
    report = example()
    asked = [one for one in report.figures if not one.key.startswith("recovered.")]
    said = read_first_page(report.model_copy(update={"figures": asked}))
    assert said["Who could still get what"][0] == (
        "Someone who asks the model: 3 of 18 passages, word for word. No more was tried."
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


def test_how_far_an_edit_goes_toward_a_twin_is_no_share_of_passages() -> None:
    """It is a note beside the twin's own figure, and no point in the picture."""
    report = example(twin=TWIN)
    table = [figure for figure in report.figures if figure.table == "recited"]
    (row,) = (figure for figure in table if "twin" in figure.label)
    assert [texts(row, value) for value in (row.base, *row.edits)] == [
        ["4.2%", "[0.7, 20.2]"], ["97% of the way to it"],
    ]  # fmt: skip
    drawn = draw_table(table, ["edited"])
    assert drawn is not None
    svg = base64.b64decode(drawn.wide.partition(",")[2]).decode()
    assert "recited word for word" in svg
    assert "twin" not in svg


def test_a_loss_below_one_nat_is_no_share() -> None:
    """Only scores of tasks are drawn in percentage points."""
    known = found().edits[0].heldout
    assert known is not None
    heldout = known.model_dump() | {
        key: {"mean": mean, "ci95": [0.1, 0.9]} for key, mean in (("base", 0.4), ("edited", 0.5))
    }
    alone, beside = (
        [one for one in bare(heldout=heldout, tasks=tasks).figures if one.table == "cost"]
        for tasks in ({}, {"copy": task(0.934, 0.702)})
    )
    assert draw_table(alone, ["edited"]) is None
    drawn = draw_table(beside, ["edited"])
    assert drawn is not None
    svg = base64.b64decode(drawn.wide.partition(",")[2]).decode()
    assert ("copy" in svg, "nats" in svg) == (True, False)


def test_the_trade_off_shows_the_limited_attack_and_the_front_of_the_search() -> None:
    def written(front: list[dict[str, Any]]) -> str:
        drawn = draw_trade_off(example(front=front))
        assert drawn is not None
        return base64.b64decode(drawn.wide.partition(",")[2]).decode()

    front = [point.model_dump() for point in found().front]
    known = [{**point, "recovered": {"relearn": 0.5}} for point in front]
    assert "recovered by relearn" in written(known)
    assert "recited word for word" in written(front)  # the points do not know that attack
    report = example(front=known)
    uncounted = [
        one.model_copy(update={"base": one.base.model_copy(update={"value": None})})
        if one.key == "recovered.relearn" and one.base
        else one
        for one in report.figures
    ]
    drawn = draw_trade_off(report.model_copy(update={"figures": uncounted}))
    assert drawn is not None
    assert "recited" in base64.b64decode(drawn.wide.partition(",")[2]).decode()


def test_the_half_that_did_not_choose_is_named_only_where_there_is_one() -> None:
    said = "stand where the other passages put them"
    assert said in pages_of("whole")["report.html"]
    by_hand = example(chose={"passages": None, "windows": 0}, all_passages=None)
    page = render(by_hand)["report.html"]
    assert said not in page
    assert "The search measured its points on those" in page


def test_a_search_draws_what_every_unit_is_worth() -> None:
    """In place of the picture that shows only which heads are edited."""
    units = {Part(b, (h,), v): (1.0, 0.1) for b in range(4) for h in range(4) for v in ("mean",)}
    worth = make_map(units, 4, 4, measured=False)
    assert worth is not None
    edit = found().edits[0].edit
    report = bare(edit=edit, map=worth)
    (picture,) = parse(render_html(report)).xpath("//h2[text()='The edit']/..//img")
    assert "worth" in base64.b64decode(picture.get("src").partition(",")[2]).decode()
    assert "is outlined" in picture.get("alt")
    other = report.model_copy(update={"map": worth.model_copy(update={"num_blocks": 5})})
    assert report.edits[0].edit is not None
    assert "4 blocks" in draw_model(other, report.edits[0].edit).alt  # the map of another model


def test_what_was_not_measured_is_left_out() -> None:
    made = pages_of("bare")
    page = parse(made["report.html"])
    headings = [heading.text for heading in page.xpath("//h2")]
    assert headings == [
        *("What was asked", "The cost", "To be sure", "Before you rely on it"),
        *("What a verdict means", "In sentences"),
        "What it costs",
        "Size",
        "Provenance",
    ]
    assert "None" not in page.text_content()
    assert "recite" not in made["report.md"].split("**What it costs", 1)[1].split("## The", 1)[0]


def test_limits_are_always_said() -> None:
    for name in REPORTS:
        for text in pages_of(name).values():
            assert "cannot show that a passage is gone" in text, "even if base and edit are alike"
            assert "not a privacy guarantee" in text
