"""Contract: `audit MODEL` without a base says which passages come out of the model, by their ids.

It shows no text. A limit may be missed, but it is never kept: no base shows that the attacks work.
Attacks that need a base, a cut, or held-out text that is not there are skipped, and this is said.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import Outcome, attn_surgery
from reciting import recited_rows, write_rows
from results import count, list_attacks, read_report, take
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from evals.lab import samples_path

LENGTHS = ("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")


@pytest.fixture(scope="module")
def reciting(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, 24 passages that it recites, and text."""
    folder, model = tmp_path_factory.mktemp("alone"), tiny_model()
    save_tiny(folder / "model", model)
    write_rows(folder / "s.jsonl", recited_rows(model, 24))
    (folder / "text.txt").write_text(TEXT)
    return folder


def run(
    folder: Path, *more: object, attacks: tuple[str, ...] = ("greedy", "quantized:4")
) -> Outcome:
    named = [word for attack in attacks for word in ("--attack", attack)]
    samples = ("--samples", folder / "s.jsonl")
    return attn_surgery("audit", folder / "model", *samples, *LENGTHS, *named, *more)


def test_one_model_has_no_base(reciting: Path, tmp_path: Path) -> None:
    outcome = run(reciting, "--json", "--output", tmp_path / "out", "--rows", tmp_path / "rows")
    assert outcome.code == 0, outcome
    found = read_report(outcome)
    assert found.base is None
    assert list_attacks(found) == ["greedy", "quantized:4"]
    for name in list_attacks(found):
        (row,) = (row for row in found.figures if row.name == f"recovered.{name}")
        assert (row.of, row.n, row.change) == ("edited", 24, None), "no base, and no control"
    assert count(found, "greedy") == 24, "the model recites all of them"
    (edit,) = found.edits
    assert edit.state is None
    assert "base" not in edit.verdict
    assert edit.line.endswith("no limit was set. No attack that trains the model was run.")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"report.json", "report.html", "report.md", "config.yaml"}
    assert read_report(tmp_path / "out") == found
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert all(row["recovered"]["greedy"] == {"edited": True} for row in rows)
    assert "given_away" not in outcome.json, "no file of a result names passages"


def test_the_passages_that_come_out_are_named_on_screen(tmp_path: Path) -> None:
    """By their ids: those first that most attacks recover, at most twenty, and never their text."""
    known = [json.loads(line) for line in samples_path("pythia").read_text().splitlines()[:60]]
    samples = tmp_path / "s.jsonl"
    samples.write_text("".join(json.dumps(row) + "\n" for row in known))
    given = ("--samples", samples, "--attack", "greedy", "--attack", "hints:4", "--device", "cpu")
    outcome = attn_surgery("audit", "lab:pythia", *given, "--rows", tmp_path / "rows.jsonl")
    assert outcome.code == 0, outcome
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    by = {row["id"]: len(row["recovered_by"]) for row in rows if row["recovered_by"]}
    assert len(by) > 20
    before, _, listed = outcome.stdout.partition("recovered, and by how many of the 2 attacks:\n")
    lines = listed.splitlines()
    shown = [tuple(line.strip().rsplit(": ", 1)) for line in lines[:20]]
    assert shown == [
        (name, str(number)) for name, number in sorted(by.items(), key=lambda one: -one[1])[:20]
    ]
    more = f"  and {len(by) - 20} more; --rows FILE names all of them, and the attacks"
    assert lines[20:] == [more]
    assert "recovered by greedy " in before
    assert " base " not in before


def test_a_limit_is_missed_or_not_decided_but_never_kept(reciting: Path, tmp_path: Path) -> None:
    missed = run(reciting, "--max", "greedy=0.5")
    assert missed.code == 3, missed
    assert "without --baseline, a limit can be missed, but it cannot be kept\n" in missed.stderr
    model = tiny_model()
    reversed_rows = [{**row, "tokens": row["tokens"][::-1]} for row in recited_rows(model, 24)]
    write_rows(tmp_path / "s.jsonl", reversed_rows)
    save_tiny(tmp_path / "model", model)
    within = run(tmp_path, "--max", "greedy=0.9", "--json")
    assert within.code == 4, within
    (limit,) = read_report(within).limits
    assert (limit.state, limit.needed) == ("undecided", None)
    assert "no base shows that this test can find anything" in str(limit.lacks)
    assert "can support" not in within.stderr, "no number of passages would decide it"


def test_attacks_that_lack_something_are_skipped(reciting: Path) -> None:
    """Most do not: these lack a cut, and held-out text."""
    lacking = ("perturbed", "revive")
    outcome = run(reciting, "--json", attacks=("any", *lacking))
    report = read_report(outcome)
    assert list_attacks(report) == ["any"]
    assert report.edits[0].skipped == {
        "perturbed": "held-out text (`heldout`)",
        "revive": "blocks that were cut, and the model's files name none",
    }
    assert "skipped: perturbed needs held-out text (--heldout)\n" in outcome.stderr
    text = ("--heldout", reciting / "text.txt")
    beside = run(reciting, "--json", *text, attacks=("any", "perturbed"))
    report = read_report(beside)
    assert report.edits[0].skipped == {}
    assert take(report, "recovered.any", on="never trained on").n > 0
    limited = run(reciting, "--max", "perturbed=0.1")
    limited.assert_error("perturbed has a limit and cannot be tried", "(--heldout)")


def test_a_cut_model_alone_is_woken(reciting: Path, tmp_path: Path) -> None:
    attn_surgery("export", reciting / "model", "--drop-attn", "1", "--output", tmp_path / "model")
    (tmp_path / "s.jsonl").write_bytes((reciting / "s.jsonl").read_bytes())
    text = ("--heldout", reciting / "text.txt", "--draws", 1)
    outcome = run(tmp_path, "--json", *text, attacks=("any", "revive"))
    assert list_attacks(read_report(outcome)) == ["any", "revive"]


def test_a_twin_needs_a_base(reciting: Path) -> None:
    outcome = run(reciting, "--twin", reciting / "model")
    assert (outcome.code, "--twin needs --baseline" in outcome.stderr) == (2, True)


def test_a_model_that_is_compared_with_itself_is_told(reciting: Path) -> None:
    text = ("--heldout", reciting / "text.txt")
    outcome = run(reciting, "--baseline", reciting / "model", *text)
    assert "is compared with itself; leave out --baseline\n" in outcome.stderr
