"""Contract: `extract` and `audit` do not flatter an edit with the passages it was chosen on.

A model that records what a search chose it on is measured on the others: each figure is that of a
run on those alone. The result and the table say how many chose, and give the rates of all as well.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import attn_surgery
from example_report import STEP
from reciting import recited_rows, write_rows
from results import read_report, take
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from evals.data import Samples, hash_row, load_samples
from evals.data.held_back import (
    deal_passages,
    deal_unlisted,
    deal_windows,
    hold_back,
    warn_of_earlier_choice,
)
from evals.data.windows import cut_windows
from surgery.errors import SamplesError
from surgery.exporting import export
from surgery.record.manifest import ChosenOn, HealingRecord, History, PassagesRecord
from surgery.record.measured import Measured
from surgery.record.report import Report

pytestmark = pytest.mark.usefixtures("blank_pictures")
SEED = 3
LENGTHS = ("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")
EXTRA = {"extract": (), "audit": ("--attack", "greedy", "--attack", "any")}


def make_history(*steps: dict[str, Any]) -> History:
    """Steps with these fields, oldest first."""
    return History.model_validate({"history": [STEP | step for step in steps]})


@pytest.fixture(scope="module")
def searched(tmp_path_factory) -> Path:
    """A base, an edit that was chosen on half of twelve passages and of a text, and both halves."""
    folder = tmp_path_factory.mktemp("searched")
    tokenizer = tiny_tokenizer()
    model = tiny_model()
    save_tiny(folder / "base", model)
    export(str(folder / "base"), "1", variant="zero", output=folder / "edited")
    (folder / "text.txt").write_text(TEXT)
    rows = recited_rows(model, 12)
    one, other = (row["tokens"] for row in rows[:2])
    one[6:], other[6:] = other[6:], one[6:]  # so the base recites all but two
    write_rows(folder / "all.jsonl", rows)
    samples = load_samples(str(folder / "all.jsonl"), prefix_length=6, suffix_length=5)
    windows = cut_windows([TEXT], tokenizer, 11)
    half, other = deal_passages(samples, SEED)
    write_rows(folder / "others.jsonl", [rows[at] for at in other])
    manifest = json.loads((folder / "edited" / "surgery.json").read_text())
    manifest["history"][0]["chosen"] = {
        "seed": SEED,
        "passages": hash_row(samples.tokens[half]),
        "windows": hash_row(windows[deal_windows(windows, SEED)[0]]),
    }
    (folder / "edited" / "surgery.json").write_text(json.dumps(manifest))
    return folder


def run(command: str, folder: Path, samples: str, *more: object):
    outcome = attn_surgery(
        *(command, folder / "edited", "--baseline", folder / "base", *LENGTHS, *EXTRA[command]),
        *("--samples", folder / samples, "--control", folder / "text.txt", *more),
    )
    assert outcome.code == 0, outcome
    return outcome


def list_main(report: Report) -> dict[tuple[str, str], Measured]:
    """The main figures, without how long attacks took, and on which passages."""
    found: dict[tuple[str, str], Measured] = {}
    for row in report.figures:
        plain = {"on": None, "details": {**row.details, "seconds": None}}
        found.setdefault((row.name, row.of), row.model_copy(update=plain))
    return found


@pytest.mark.parametrize("command", EXTRA)
def test_figures_are_of_the_passages_that_did_not_choose(command, searched) -> None:
    found = read_report(run(command, searched, "all.jsonl", "--json"))
    (edit,) = found.edits
    recited = take(found, "recited")
    assert (recited.n, recited.on, edit.chose["passages"]) == (6, "held back", 6)
    assert edit.chose["windows"] > 1
    assert take(found, "recited", on="all").n == 12
    others = run(command, searched, "others.jsonl", "--json")
    alone = list_main(read_report(others))
    shares = {key: row for key, row in list_main(found).items() if key[0].startswith("rec")}
    assert len(shares) >= (2 if command == "extract" else 6)
    assert shares == {key: alone[key] for key in shares}
    chose = read_report(others).edits[0].chose
    assert chose["passages"] is None, "some of the passages may be among these"
    assert "warning: a search chose an edit here on other passages" in others.stderr


@pytest.mark.parametrize("command", [*EXTRA, "evaluate"])
def test_what_chose_a_baseline_does_not_flatter_it(command, searched, tmp_path) -> None:
    """An edit that a search chose may be what another one is compared with."""
    outcome = attn_surgery(
        *(command, searched / "base", "--baseline", searched / "edited", *LENGTHS),
        *("--samples", searched / "all.jsonl", "--heldout", searched / "text.txt", "--json"),
        *{**EXTRA, "evaluate": ("--suite", "none", "--output", tmp_path / "out")}[command],
    )
    assert outcome.code == 0, outcome
    report = read_report(outcome)
    assert report.edits[0].chose["passages"] == take(report, "recited").n == 6


@pytest.mark.parametrize("command", EXTRA)
def test_the_table_says_so(command, searched, monkeypatch) -> None:
    monkeypatch.setattr("cli.console._WIDTH", 300)  # so that no label wraps
    done = run(command, searched, "all.jsonl")
    printed = done.stdout
    assert "A search used 6 of 12 passages and " in printed
    assert " windows of held-out text; the figures leave these out." in printed
    name = {"extract": "recited word for word", "audit": "recovered by greedy"}[command]
    title = "All passages, including those that the search used:\n"
    n, base, edited = done.find_row(name, title)[1:4]
    assert (n, base[:5], edited[:4]) == ("12", "83.3%", "0.0%"), "10 of 12, and none"


def test_the_recorded_share_tells_which_passages_chose() -> None:
    tokens = np.arange(48, dtype=np.int32).reshape(12, 4)
    samples = Samples(tokens, 2, tuple("abcdefghijkl"), "made here")
    half = deal_passages(samples, SEED, 0.25)[0]
    chosen = ChosenOn(seed=SEED, share=0.25, passages=hash_row(tokens[half]), windows="0" * 64)
    manifest: Any = make_history({"chosen": chosen})
    found = hold_back([manifest], samples, None)
    assert (len(half), found.chose.passages, int(found.passages.sum())) == (3, 3, 9)
    assert not found.passages[half].any()


def test_an_edit_before_the_last_counts_as_well() -> None:
    tokens = np.arange(48, dtype=np.int32).reshape(12, 4)
    samples = Samples(tokens, 2, tuple("abcdefghijkl"), "made here")
    half = deal_passages(samples, SEED)[0]
    chosen = ChosenOn(seed=SEED, passages=hash_row(tokens[half]), windows="0" * 64)
    later = {"parts": [{"block": 0, "heads": [0], "variant": "zero"}]}
    manifest: Any = make_history({"chosen": chosen}, later)
    found = hold_back([manifest], samples, None)
    assert (found.chose.passages, int(found.passages.sum())) == (6, 6)
    assert not found.passages[half].any()
    assert warn_of_earlier_choice(manifest, samples.select(half)) == []
    (warning,) = warn_of_earlier_choice(manifest, samples)
    assert "a search chose an earlier edit of this model on other passages" in warning
    assert warn_of_earlier_choice(None, samples) == []


@pytest.mark.parametrize("later", [(), ({},)])
def test_what_guarded_a_healing_was_listed(later: tuple[dict[str, Any], ...]) -> None:
    """Also if a cut followed."""
    tokens = np.arange(96, dtype=np.int32).reshape(24, 4)
    samples = Samples(tokens, 2, tuple(map(str, range(24))), "made here")
    listed = samples.select(~deal_unlisted(samples, 0.25))
    for taught, fits in ((samples, False), (listed, True)):
        record = PassagesRecord(
            name="made here", sha256=taught.sha256, number=len(taught), prefix_length=2,
            suffix_length=2, rows=24,
        )  # fmt: skip
        healing = HealingRecord.model_construct(passages=record, steps=0, losses=[])
        manifest: Any = make_history({"parts": [], "healing": healing}, *later)
        if fits:
            hold_back([manifest], samples, None, 0.25)
        else:
            with pytest.raises(SamplesError, match="so those left out may not be unlisted"):
                hold_back([manifest], samples, None, 0.25)


def test_passages_that_chose_an_edit_are_not_unlisted() -> None:
    """A search of all of them saw those that are left out here; one of the listed did not."""
    tokens = np.arange(96, dtype=np.int32).reshape(24, 4)
    samples = Samples(tokens, 2, tuple(map(str, range(24))), "made here")
    listed = samples.select(~deal_unlisted(samples, 0.25))
    for some, fits in ((samples, False), (listed, True)):
        half = some.tokens[deal_passages(some, SEED)[0]]
        chosen = ChosenOn(seed=SEED, passages=hash_row(half), windows="0" * 64)
        manifest: Any = make_history({"chosen": chosen})
        if fits:
            assert hold_back([manifest], samples, None, 0.25).chose.passages == len(half)
        else:
            with pytest.raises(SamplesError, match="so they are not unlisted"):
                hold_back([manifest], samples, None, 0.25)


def test_passages_never_trained_on_are_none_to_measure_on() -> None:
    """Two edits chosen on one member each leave a non-member alone, which shows nothing."""
    tokens = np.arange(12, dtype=np.int32).reshape(3, 4)
    members = np.array([True, True, False])
    samples = Samples(tokens, 2, ("a", "b", "c"), "made here", members=members)
    halves = {int(deal_passages(samples, seed)[0][0]): seed for seed in range(20)}
    chosen = [
        ChosenOn(seed=seed, passages=hash_row(tokens[[row]]), windows=hash_row(tokens))
        for row, seed in halves.items()
    ]
    manifests: Any = [make_history({"chosen": one}) for one in chosen]
    assert hold_back(manifests[:1], samples, None).passages.sum() == 2
    with pytest.raises(SamplesError, match="searches chose these edits on all passages or windows"):
        hold_back(manifests, samples, None)


def test_nothing_is_left_out_of_an_edit_that_no_search_chose(searched) -> None:
    outcome = attn_surgery(
        *("extract", searched / "base", "--samples", searched / "all.jsonl", "--json"), *LENGTHS
    )
    report = read_report(outcome)
    assert report.edits[0].chose == {"passages": 0, "windows": 0, "taught": 0}
    assert {(row.n, row.on) for row in report.figures if row.name == "recited"} == {(12, "all")}
