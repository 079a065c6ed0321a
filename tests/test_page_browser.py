"""Contract: the page is right in a browser: wide and narrow, light and dark, and on paper.

It never scrolls sideways, nothing is cut off, axe finds no accessibility violation, it asks nothing
of the network from file://, logs no error, and needs no script. Runs in a headless Chromium.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from example_report import NAME, SOURCE, alone, bare, example, make_edit, several, task, tasks

from evals.table.page import render_pages
from surgery.record.report import Report

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser`")
axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs it too")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on this machine"),
]
SCREENS = {"wide": 1280, "middle": 760, "narrow": 360}
TOO_WIDE = """() => {
  const edge = document.documentElement.clientWidth;
  const isHidden = e =>
    e && (getComputedStyle(e).position === 'absolute' || isHidden(e.parentElement));
  return [...document.querySelectorAll('body, body *:not(svg *)')]
    .filter(e => !isHidden(e))
    .filter(e => e.getBoundingClientRect().right > edge + 0.5 || e.scrollWidth > e.clientWidth + 1
                 && getComputedStyle(e).display !== 'inline')
    .map(e => `${e.tagName} ${e.className} ${e.textContent.slice(0, 60)}`);
}"""
"""Elements that reach beyond the window, or hold more than fits in them."""


def crowded() -> Report:
    """Names without a space to break at, and a model of many blocks and heads."""
    name = "organization/" + "a-very-long-model-name_" * 4
    parts = [{"block": b, "heads": list(range(0, 64, 3)), "variant": "mean"} for b in range(40)]
    edit = make_edit(num_blocks=44, num_heads=64, parts=parts, calibration=None)
    huge = task(f"{name}perplexity", 15_830.7, 1_278_185.2, 1_094_752.5)
    named = [
        row.model_copy(update={"name": row.name.replace("task.", f"task.{name}")})
        for row in tasks()
        if row.name != "task.perplexity"
    ]
    report = example(name=name, edit=edit, tasks=[*named, *huge])
    assert report.base is not None
    base = report.base.model_copy(update={"name": name})
    long = report.edits[0].model_copy(update={"verdict": name * 3})
    return report.model_copy(update={"edits": [long], "base": base})


REPORTS = {
    "whole": example,
    "bare": bare,
    "crowded": crowded,
    "several": lambda: several(*[example()] * 4),
    "alone": alone,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    """Name → its page."""
    found = {}
    for name, report in REPORTS.items():
        found[name] = tmp_path_factory.mktemp(name) / "report.html"
        found[name].write_text(render_pages(report())["report.html"])
    return found


def opened(browser: Any, path: Path, log: list[str], **options: Any) -> Any:
    """The page in a context of its own; `log` gets every request and every message."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.on("request", lambda request: log.append(request.url))
    page.on("console", lambda message: log.append(message.text))
    page.on("pageerror", lambda error: log.append(str(error)))
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", SCREENS)
@pytest.mark.parametrize("name", REPORTS)
def test_on_screen(browser, pages, name, screen, scheme) -> None:
    log: list[str] = []
    size = {"width": SCREENS[screen], "height": 800}
    page = opened(
        browser, pages[name], log, viewport=size, color_scheme=scheme, bypass_csp=True
    )  # axe is put into the page, which the page itself forbids
    assert log == [pages[name].as_uri()]
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= SCREENS[screen]
    assert page.evaluate(TOO_WIDE) == []
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(253, 253, 251)") is (scheme == "light")
    violations = axe.Axe().run(page).response["violations"]
    assert [(v["id"], v["nodes"][0]["html"][:200]) for v in violations] == []
    page.context.close()


@pytest.mark.parametrize("name", REPORTS)
def test_on_paper(browser, pages, name) -> None:
    log: list[str] = []
    a4, letter = {"width": 680, "height": 960}, {"width": 695, "height": 935}
    """What margins of 16 mm leave, in CSS pixels."""
    page = opened(browser, pages[name], log, viewport=a4, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= a4["width"]
    assert page.evaluate(TOO_WIDE) == []
    if name != "several":  # what comes first fits on one page, which can go alone
        for sheet in (letter, a4):
            page.set_viewport_size(sheet)
            assert page.locator("header").bounding_box()["height"] < sheet["height"]
        assert page.get_by_text("they are not a privacy guarantee").count() == 1
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert len(paper) < 1_000_000
    assert log == [pages[name].as_uri()]
    page.context.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_the_first_page_uses_the_width(browser, pages, screen) -> None:
    """Three answers side by side where they fit, and bars as long as their shares."""
    size = {"width": SCREENS[screen], "height": 800}
    page = opened(browser, pages["whole"], [], viewport=size)
    answers = page.locator(".answer")
    boxes = [answers.nth(at).bounding_box() for at in range(answers.count())]
    assert len(boxes) == 3
    rows, columns = ({round(box[side]) for box in boxes} for side in ("y", "x"))
    wanted = {"wide": (1, 3), "narrow": (3, 1)}.get(screen)
    assert wanted in (None, (len(rows), len(columns)))
    verdict = page.locator(".verdict").bounding_box()
    picture = page.locator(".attackers").bounding_box()
    assert picture["width"] > 0.85 * verdict["width"]
    shares = page.evaluate(
        "[...document.querySelectorAll('.bar')].map(bar => bar.querySelector('b').clientWidth /"
        " bar.querySelector('.track').clientWidth)"
    )
    assert shares == pytest.approx([21 / 24, 1 / 24, 21 / 22, 6 / 22], abs=0.02)
    page.context.close()


def test_without_scripts_and_without_a_network(browser, pages) -> None:
    log: list[str] = []
    page = opened(browser, pages["whole"], log, java_script_enabled=False, offline=True)
    title = page.get_by_role("heading", level=1).inner_text()
    assert title == f"{NAME}, compared with {SOURCE}"
    assert page.get_by_role("table").count() >= 5
    page.context.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_tables_stay_tables_for_those_who_listen(browser, pages, screen) -> None:
    """Also where a narrow screen shows them as lists: rows, headings and cells are still told."""
    size = {"width": SCREENS[screen], "height": 800}
    page = opened(browser, pages["whole"], [], viewport=size)
    table = page.get_by_role("main").get_by_role("table").first
    assert table.get_by_role("columnheader").count() == 4
    row = table.get_by_role("row", name="recited word for word")
    assert row.get_by_role("rowheader").count() == 1
    assert row.get_by_role("cell").count() == 3
    page.context.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_pictures_keep_their_scale(browser, pages, screen) -> None:
    """A narrow screen gets pictures made for it, so that text and intervals stay readable."""
    size = {"width": SCREENS[screen], "height": 800}
    page = opened(browser, pages["whole"], [], viewport=size)
    scales = page.evaluate("[...document.images].map(one => one.width / one.naturalWidth)")
    assert len(scales) == 7
    assert min(scales) > 0.85
    page.context.close()
