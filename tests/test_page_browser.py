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
from evals.evaluation.side_by_side import side_by_side
from example_report import bare, example

from evals.evaluation.page import side_by_side_pages, write_page
from evals.evaluation.report import read_report

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


def crowded() -> dict[str, Any]:
    """Names without a space to break at, and a model of many blocks and heads."""
    report = example()
    name = "organization/" + "a-very-long-model-name_" * 6
    edit = {
        **report["edit"],
        "num_blocks": 44,
        "num_heads": 64,
        "parts": [
            {"block": b, "heads": list(range(0, 64, 3)), "variant": "mean"} for b in range(40)
        ],
        "attention_free": {"43": "zero"},
        "drop_attn": ",".join(f"{block}.{head}" for block in range(20) for head in range(9)),
    }
    huge = {"base": 15_830.7, "edited": 1_278_185.2, "difference": 1_262_354.5}
    report["tasks"]["perplexity"] |= {**huge, "ci95": [622_932.4, 2_812_437.1]}
    report["tasks"] = {f"{name}{key}": value for key, value in report["tasks"].items()}
    return {**report, "models": {"base": name, "edited": name}, "edit": edit, "verdict": name * 3}


REPORTS = {"whole": example, "bare": bare, "crowded": crowded}


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
        folder = tmp_path_factory.mktemp(name)
        found[name] = write_page(report(), folder)[0]
    found["beside"] = tmp_path_factory.mktemp("beside") / "side-by-side.html"
    edits = [example(), {**crowded(), "tasks": example()["tasks"]}] * 2
    beside = side_by_side({f"{n}-x": read_report(report) for n, report in enumerate(edits)})
    found["beside"].write_text(side_by_side_pages(beside.to_dict())[0])
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
@pytest.mark.parametrize("name", [*REPORTS, "beside"])
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
    a4 = {"width": 680, "height": 960}  # what margins of 16 mm leave, in CSS pixels
    page = opened(browser, pages[name], log, viewport=a4, color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("document.documentElement.scrollWidth") <= a4["width"]
    assert page.evaluate(TOO_WIDE) == []
    paper = page.pdf(format="A4")
    assert paper.startswith(b"%PDF")
    assert len(paper) < 1_000_000
    assert log == [pages[name].as_uri()]
    page.context.close()


def test_without_scripts_and_without_a_network(browser, pages) -> None:
    log: list[str] = []
    page = opened(browser, pages["whole"], log, java_script_enabled=False, offline=True)
    assert page.get_by_role("heading", level=1).inner_text() == example()["verdict"]
    assert page.get_by_role("table").count() >= 6
    page.context.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_tables_stay_tables_for_those_who_listen(browser, pages, screen) -> None:
    """Also where a narrow screen shows them as lists: rows, headings and cells are still told."""
    size = {"width": SCREENS[screen], "height": 800}
    page = opened(browser, pages["whole"], [], viewport=size)
    table = page.get_by_role("table", name="Passages recited word for word")
    rows = 1 + len(example()["extraction"]["by_count"])
    assert table.get_by_role("rowheader").count() == rows
    assert table.get_by_role("columnheader").count() == 6
    assert table.get_by_role("row", name="held back").get_by_role("cell").count() == 5
    page.context.close()


def test_pictures_have_their_marks_where_the_numbers_are(browser, pages) -> None:
    """The edited model's dot stands left of the base's, by the share that the axis says."""
    report = example()
    page = opened(browser, pages["whole"], [], viewport={"width": 1280, "height": 800})
    row = page.locator("table.total tbody tr").first
    lines = row.locator("svg line.rule")
    boxes = [lines.nth(i).bounding_box() for i in (0, lines.count() - 1)]
    label = page.locator("table.total thead svg text").last.text_content()
    left, right = (box["x"] + box["width"] / 2 for box in boxes)
    high = float(label.rstrip("%")) / 100
    for kind, part in (
        ("base", report["extraction"]["baseline"]),
        ("edited", report["extraction"]),
    ):
        dot = row.locator(f"svg circle.{kind}").bounding_box()
        place = dot["x"] + dot["width"] / 2
        rate = part["exact_match"]["rate"]
        assert place == pytest.approx(left + (right - left) * rate / high, abs=1.5)
    page.context.close()
