"""Contract: the demo tells the whole story, and what it has done stays if it is stopped."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import attn_surgery, snapshot
from results import list_attacks, read_report, take

from evals.jobs import demonstrating
from surgery.verification import verify


def test_records_of_your_own_are_not_taken_for_a_demo(tmp_path: Path) -> None:
    (tmp_path / "records.jsonl").write_text('{"text": "mine"}\n')
    (tmp_path / "heldout.txt").write_text("mine")
    before = snapshot(tmp_path)
    for more in ((), ("--overwrite",)):
        attn_surgery("demo", "--output", tmp_path, *more).assert_error(str(tmp_path))
        assert snapshot(tmp_path) == before


@pytest.mark.slow
def test_a_demo_that_was_stopped_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "demo"
    monkeypatch.setattr(demonstrating, "_EVERY", 12)
    monkeypatch.setattr(demonstrating, "_LETTERS", 4_000)
    few = {"max_extraction": 0.3, "grain": "blocks", "variant": ("mean",), "max_evaluations": 2}
    monkeypatch.setattr(demonstrating, "SEARCH", few)
    quick = {"tasks": ("lab_copy",), "attack": ("greedy",), "draws": 1}
    monkeypatch.setattr(demonstrating, "MEASURED", quick)

    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evals.jobs.evaluating.evaluate_exports", stop)
        with pytest.raises(KeyboardInterrupt):
            demonstrating.run_demo(out)
    before = snapshot(out)
    assert {name.partition("/")[0] for name in before} == {
        "records.jsonl", "heldout.txt", "deep-blocks", "search", "searched"
    }  # fmt: skip
    said: list[tuple[str, list[str]]] = []
    report = demonstrating.run_demo(out, announce=lambda *step: said.append(step))
    after = snapshot(out)
    weights = [name for name in before if name.endswith(".safetensors")]
    kept = [*weights, "search/search.json", "records.jsonl"]
    assert [after[name] for name in kept] == [before[name] for name in kept]
    assert [edit.name for edit in report.edits] == ["deep-blocks", "searched"]
    commands = [command for _, some in said for command in some]
    assert [command.split()[1] for command in commands] == [
        "export",
        "search",
        "export",
        "evaluate",
        "evaluate",
    ]
    (evaluated,) = json.loads((out / "searched" / "report.json").read_text())["edits"]
    assert evaluated["chose"]["passages"] == 14
    add_the_third_edit(out, monkeypatch)
    (out / "mine.txt").write_text("mine")
    attn_surgery("demo", "--output", out, "--overwrite").assert_error("holds mine.txt")


def add_the_third_edit(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--erase` keeps what a demo without it made, and adds to it."""
    monkeypatch.setattr("evals.jobs.erasing.ERASE_STEPS", 2)
    monkeypatch.setattr("evals.choose.teachers.MOST_RECITED", 1.0)
    monkeypatch.setattr("evals.measure.attacks.trying.TRAINED", ())
    before, said = snapshot(out), list[str]()
    report = demonstrating.run_demo(out, erase=True, announce=lambda _, some: said.extend(some))
    assert [edit.name for edit in report.edits] == ["deep-blocks", "searched", "erased-cut"]
    after = snapshot(out)
    kept = [name for name in before if name.endswith(".safetensors")]
    assert [after[name] for name in kept] == [before[name] for name in kept]
    erase, export = said[-5:-3]
    assert erase.startswith("attn-surgery erase lab:pythia --plan ")
    assert export.startswith(f"attn-surgery export {out / 'erased'} --plan ")
    erased, cut = json.loads((out / "erased-cut" / "surgery.json").read_text())["history"]
    assert cut["parts"] == erased["erasing"]["teacher"]


@pytest.mark.slow
def test_the_demo_ends_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = attn_surgery("demo")
    assert done.code == 0, done.stderr
    assert "partial" not in done.stderr, "a folder that is gone when the demo ends"
    (heading,) = (line for line in done.stdout.splitlines() if "before" in line.split())
    assert heading.split() == ["n", "before", "deep", "blocks", "searched"]
    shown = done.stdout.split("See for yourself")[1].split(" Done ")[0]
    assert shown.count("\nbefore, tokens right: 100.0%, loss 0.") == 2  # the records
    assert shown.count("\nbefore, greedy: ") == shown.count("\nsearched, greedy: ") == 3
    for name, blocks in (("deep-blocks", (4, 5)), ("searched", None)):
        page = tmp_path / "attn-surgery-demo" / name / "report.html"
        assert f"\n{name.replace('-', ' ')}: attn-surgery-demo/{name}/report.html\n" in done.stdout
        report = read_report(page.parent)
        (edit,) = report.edits
        assert take(report, "recited").change.lost > 60  # of 63
        assert edit.relation == "source"
        assert blocks in (None, edit.edit.step.blocks)
        assert verify(page.parent).checks[-2].name == "report"
    assert take(report, f"recovered.{list_attacks(report)[0]}").value <= 0.02
