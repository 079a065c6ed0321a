"""Contract: `evaluate --pdf` and `mitigate --pdf` print the page with a browser of this machine.

Without one, that is one line before any work. A browser that fails costs the PDF, not the
evaluation.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import attn_surgery

from evals.jobs.evaluating import PDF, print_pdf
from evals.jobs.printing import find_browser, print_page
from evals.run.console import Console, use_console
from surgery.errors import MeasurementError, OutputError

NONE = "no/such/model"


def make_browser(folder: Path, script: str) -> str:
    program = folder / "chromium"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def test_without_a_browser_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("evals.jobs.printing.BROWSERS", ("chromium",))
    given = ("--output", tmp_path / "out", "--pdf")
    text = ("--samples", "lab:pythia", "--heldout", __file__)
    calls = (
        ("evaluate", NONE, "--baseline", NONE, *given),
        ("mitigate", NONE, *text, *given),
    )
    for asked in calls:
        attn_surgery(*asked).assert_error("no browser that can print a PDF", "open report.html")
    made = make_browser(tmp_path, "")
    assert find_browser() == made
    for asked in calls:
        attn_surgery(*asked).assert_error(NONE)


def test_mitigate_prints_beside_its_result_and_replaces_nothing(tmp_path: Path) -> None:
    (tmp_path / "out.pdf").write_text("mine")
    given = ("mitigate", "lab:pythia", "--output", tmp_path / "out", "--pdf")
    attn_surgery(*given).assert_error("out.pdf", "--overwrite")
    assert [file.name for file in tmp_path.iterdir()] == ["out.pdf"]


def test_a_browser_that_prints_and_one_that_fails(tmp_path: Path) -> None:
    page, target = tmp_path / "report.html", tmp_path / "report.pdf"
    page.write_text("<p>a page")
    prints = 'for one; do case $one in --print-to-pdf=*) echo "$@" > "${one#*=}";; esac; done'
    print_page(make_browser(tmp_path, prints), page, target)
    assert target.read_text().splitlines()[-2].endswith(page.as_uri())
    target.unlink()
    said: list[str] = []
    for script in ("exit 3", "exit 0"):
        with pytest.raises(MeasurementError, match="printed no PDF"):
            print_page(make_browser(tmp_path, script), page, target)
        with use_console(Console(said.append)):
            print_pdf(str(tmp_path / "chromium"), tmp_path, tmp_path / PDF)
    assert len(said) == 2
    earlier = "of an earlier run\n%attn-surgery\n"
    target.write_text(earlier)
    with pytest.raises(MeasurementError, match="printed no PDF"):
        print_page(make_browser(tmp_path, "exit 0"), page, target, overwrite=True)
    assert target.read_text() == earlier
    for script in (prints + "; exit 3", "exit 0"):
        with pytest.raises(MeasurementError, match="printed no PDF"):
            print_page(make_browser(tmp_path, script), page, target, overwrite=True)
        found = {file.name for file in tmp_path.iterdir()}
        assert found == {"chromium", page.name, target.name}, "nothing that a next run finds"
    with pytest.raises(OutputError, match="already exists"):
        print_page(make_browser(tmp_path, prints), page, target)
    print_page(make_browser(tmp_path, prints), page, target, overwrite=True)
    assert target.read_text() != earlier
    target.write_text("mine")
    with pytest.raises(OutputError, match="is not a PDF that attn-surgery wrote"):
        print_page(make_browser(tmp_path, prints), page, target, overwrite=True)
    assert said[0].startswith("warning: ")
