"""Contract: `export --evaluate` is the whole job in one command: it exports, verifies, evaluates
base and result, writes report and card into the output, and returns the gates' exit code.

Mistakes in what is to be measured are found before anything is written.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import attn_surgery

EXPORT = ("export", "lab:pythia", "--drop-attn", "last:1", "--output")
QUICK = ("--tasks", "lab_copy", "--limit", "20")


@pytest.mark.slow
def test_the_whole_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "out"
    done = attn_surgery(*EXPORT, out, "--evaluate", *QUICK, "--max-extraction", "0.5", "--json")
    assert done.code == 0, done.stderr
    assert "verified: " in done.stderr
    report = json.loads((out / "report.json").read_text())
    assert done.json["evaluation"] == report
    assert set(report["tasks"]) == {"lab_copy"}
    assert report["passed"] is True
    assert 0 < report["extraction"]["exact_match"]["rate"] < 0.5
    for name in ("report.html", "report.md", "README.md"):
        assert (out / name).is_file()
    assert "Nothing yet" not in (out / "README.md").read_text(), "the card has the figures"
    assert attn_surgery("verify", out, "--source", "lab:pythia").code == 0
    assert not [path for path in out.iterdir() if path.name.startswith(".")]

    again = attn_surgery(
        "evaluate", out, "--baseline", "lab:pythia", *QUICK, "--output", tmp_path / "report"
    )
    assert again.code == 0, again.stderr
    assert "report and model card brought up to date" in again.stderr
    beside = (out / "report.json").read_bytes()
    assert beside == (tmp_path / "report" / "report.json").read_bytes(), "push finds this one"
    assert "Nothing yet" not in (out / "README.md").read_text()

    missed = attn_surgery(
        *EXPORT, out, "--overwrite", "--evaluate", *QUICK, "--max-extraction", "0.001",
        "--push-to-hub", "me/never",
    )  # fmt: skip
    assert missed.code == 3
    assert "gate failed: max-extraction" in missed.stderr
    assert "not pushed to me/never: a gate failed" in missed.stderr
    assert (out / "report.html").is_file(), "the report is written all the same"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (QUICK, "for use with --evaluate"),
        (("--evaluate", "--dry-run"), "exclude each other"),
        (("--evaluate", "--tasks", "lab_copy", "--suite", "lab"), "exclude each other"),
        (("--evaluate", "--tasks", "lab_copy", "--max-drop", "other=0.1"), "other"),
        (("--evaluate", "--max-drop", "0.1"), "is not TASK=X"),
    ],
)
def test_mistakes_come_first(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    done = attn_surgery(*EXPORT, tmp_path / "out", *arguments)
    assert done.code == 2
    assert text in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_demo_ends_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = attn_surgery("demo")
    assert done.code == 0, done.stderr
    page = tmp_path / "attn-surgery-demo" / "report.html"
    assert done.stdout.replace("\n", "").rstrip().endswith("attn-surgery-demo/report.html")
    assert page.is_file()
    assert "does not recite it" in done.stdout
    report = json.loads(page.with_suffix(".json").read_text())
    assert report["extraction"]["paired"]["forgotten"] > 200
