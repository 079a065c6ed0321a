"""Contract of `--leave-out`: figures of passages that nobody listed stand apart.

- Every command leaves out the same passages, whatever their order: a share of each count.
- `evaluate` and `audit` measure listed and unlisted passages as runs on those alone do.
- A model that was taught any of them is refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from command_line import attn_surgery
from reciting import recited_rows, write_rows
from results import list_attacks, read_report, take
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from evals.data import Samples, load_samples, open_samples
from evals.data.held_back import deal_unlisted
from surgery.errors import SamplesError
from surgery.exporting import export
from surgery.record.measured import Measured, On
from surgery.record.report import Report

pytestmark = pytest.mark.usefixtures("blank_pictures")
OTHER = " ".join(f"{number} cold stones {number * 7 % 101} under" for number in range(900))
LENGTHS = ("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")


def make_samples(number: int = 40) -> Samples:
    tokens = np.random.default_rng(0).integers(1, 99, (number, 8), dtype=np.int32)
    names = tuple(f"row {at}" for at in range(number))
    counts = np.where(np.arange(number) < number // 2, 4, 64)
    return Samples(tokens, 4, names, "rows", counts, np.arange(number) % 5 != 0)


def test_the_same_passages_are_left_out_in_any_order() -> None:
    samples = make_samples()
    left = deal_unlisted(samples, 0.25)
    assert (left.sum(), left[:20].sum()) == (8, 4)
    assert not left[~samples.trained_on].any()
    order = np.random.default_rng(1).permutation(len(samples))
    again = samples.select(order)
    assert {*samples.select(left).ids} == {*again.select(deal_unlisted(again, 0.25)).ids}


def test_passages_that_overlap_are_listed_or_left_out_together() -> None:
    text = np.random.default_rng(0).integers(0, 9999, (10, 64), dtype=np.int32)
    rows = np.concatenate([text[:, :32], text[:, 16:48], text[:, 32:]])
    samples = Samples(rows, 16, tuple(str(at % 10) for at in range(30)), "rows")
    left = deal_unlisted(samples, 0.3)
    assert left.sum() == 9
    assert not {*samples.select(left).ids} & {*samples.select(~left).ids}
    with pytest.raises(
        SamplesError, match="0 of 3 passages, which overlap, so that they count as 1"
    ):
        deal_unlisted(samples.select(np.arange(0, 30, 10)), 0.25)


@pytest.mark.parametrize("share", [0.01, 0.99])
def test_some_must_be_left_and_some_listed(share: float) -> None:
    with pytest.raises(SamplesError, match="too few passages to leave out"):
        deal_unlisted(make_samples(2), share)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base; an edit; all.jsonl, of which half is left out: listed.jsonl and unlisted.jsonl."""
    folder = tmp_path_factory.mktemp("folder")
    model = tiny_model()
    save_tiny(folder / "base", model)
    export(str(folder / "base"), "1", variant="zero", output=folder / "edited")
    (folder / "text.txt").write_text(TEXT)
    rows = recited_rows(model, 12)
    for row in rows[::3]:  # so that the base does not recite all
        row["tokens"][6:] = row["tokens"][:5]
    write_rows(folder / "all.jsonl", rows)
    samples = load_samples(str(folder / "all.jsonl"), prefix_length=6, suffix_length=5)
    left = deal_unlisted(samples, 0.5)
    for name, flags in (("unlisted", left), ("listed", ~left)):
        picked = [row for row, wanted in zip(rows, flags, strict=True) if wanted]
        write_rows(folder / f"{name}.jsonl", picked)
    opened = open_samples(
        str(folder / "all.jsonl"), prefix_length=6, suffix_length=5, leave_out=0.5
    ).tokenize(None)
    assert opened.ids == samples.select(~left).ids
    return folder


def run(command: str, folder: Path, samples: str, *more: object) -> Report:
    written = folder / f"{command}-{samples}-{len(more)}"
    outcome = attn_surgery(
        command, folder / "edited", "--baseline", folder / "base", *LENGTHS,
        "--samples", folder / f"{samples}.jsonl", "--control", folder / "text.txt",
        "--attack", "greedy", "--attack", "hints:2", *more, "--output", written, "--json",
    )  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    return read_report(outcome)


def list_shares(report: Report, on: On | None = None) -> list[Measured]:
    """What is recited and recovered, of the base and the edit, without how long that took."""
    names = ("recited", *(f"recovered.{name}" for name in list_attacks(report)))
    rows = (take(report, name, of, on) for name in names for of in ("base", "edited"))
    return [
        row.model_copy(update={"on": "all", "details": {"count": row.details["count"]}})
        for row in rows
    ]


@pytest.mark.parametrize("command", ["audit", "evaluate"])
def test_they_are_told_apart(command: str, folder: Path) -> None:
    given = (
        (
            "--suite",
            "none",
        )
        if command == "evaluate"
        else ()
    )
    found = run(command, folder, "all", *given, "--leave-out", 0.5)
    listed, unlisted = (run(command, folder, name, *given) for name in ("listed", "unlisted"))
    assert list_attacks(found) == ["greedy", "hints:2"]
    assert list_shares(found) == list_shares(listed)
    assert list_shares(found, "not listed") == list_shares(unlisted)
    assert take(found, "recited", on="not listed").n == 6
    assert take(found, "recited").on == "all", "of those that are listed"
    shown = (folder / f"{command}-all-{len(given) + 2}" / "report.md").read_text()
    assert "**Passages that nobody listed.**" in shown


def test_the_screen_tells_them_apart(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cli.console._WIDTH", 300)  # so that no label wraps
    told = attn_surgery(
        "audit", folder / "edited", "--baseline", folder / "base", *LENGTHS, "--attack", "greedy",
        "--samples", folder / "all.jsonl", "--control", folder / "text.txt", "--leave-out", 0.5,
    )  # fmt: skip
    assert told.find_row("recovered by greedy", "Passages that nobody listed:\n")[1] == "6"


def test_a_search_refuses_a_model_that_was_taught_what_is_left_out(
    folder: Path, tmp_path: Path
) -> None:
    """Before it begins: `mitigate` would find out hours later."""
    (tmp_path / "other.txt").write_text(OTHER)
    taught = attn_surgery(
        "erase", folder / "base", "--samples", folder / "all.jsonl", *LENGTHS, "--steps", 1,
        "--drop-attn", "0-1", "--variant", "zero", "--text", tmp_path / "other.txt",
        "--output", tmp_path / "taught",
    )  # fmt: skip
    assert taught.code == 0, taught
    options = (
        "--samples", folder / "all.jsonl", *LENGTHS, "--heldout", folder / "text.txt",
        "--max-extraction", "0.5", "--variant", "zero", "--output", tmp_path / "found",
    )  # fmt: skip
    done = attn_surgery("search", tmp_path / "taught", *options, "--leave-out", 0.5)
    done.assert_error("was not taught the passages that are listed here")


@pytest.mark.parametrize("command", ["erase", "heal"])
def test_text_to_train_on_must_not_hold_what_is_left_out(
    command: str, folder: Path, tmp_path: Path
) -> None:
    """The report says that no training saw these passages."""
    draw, words = np.random.default_rng(0), TEXT.split()
    texts = [" ".join(draw.permutation(words)[:20]) for _ in range(12)]
    write_rows(tmp_path / "all.jsonl", [{"text": text} for text in texts])
    lengths = {"prefix_length": 6, "suffix_length": 10}
    every = load_samples(str(tmp_path / "all.jsonl"), tokenizer=tiny_tokenizer(), **lengths)
    hidden = texts[int(deal_unlisted(every, 0.5).argmax())]
    given: tuple[object, ...] = (folder / "base", "--drop-attn", "0-1", "--variant", "zero")
    if command == "heal":
        assert attn_surgery("export", *given, "--output", tmp_path / "cut").code == 0
        given = (tmp_path / "cut", "--source", folder / "base")
    for name, more in (("good", ""), ("bad", hidden)):
        (tmp_path / f"{name}.txt").write_text(f"{more}\n{OTHER}")
        done = attn_surgery(
            command, *given,
            "--samples", tmp_path / "all.jsonl", "--prefix-length", 6, "--suffix-length", 10,
            "--text", tmp_path / f"{name}.txt", "--steps", 1, "--leave-out", 0.5,
            "--output", tmp_path / f"{name}-{command}",
        )  # fmt: skip
        if more:
            assert done.code == 1
            assert "1 of 12 passages share 15 tokens in a row with the text to tr" in done.stderr
            assert not (tmp_path / f"{name}-{command}").exists()
        else:
            assert done.code == 0, done


def test_it_needs_passages(folder: Path) -> None:
    healing = (
        "heal",
        folder / "edited",
        "--source",
        folder / "base",
        "--text",
        folder / "text.txt",
    )
    attn_surgery(*healing, "--leave-out", 0.5).assert_error(
        "--leave-out needs passages; name them with --samples"
    )
    plain = ("--baseline", folder / "base", "--control", folder / "text.txt", "--suite", "none")
    outcome = attn_surgery("evaluate", folder / "edited", *plain, "--leave-out", 0.5)
    text = "--leave-out needs passages: give --samples"
    assert (outcome.code, text in outcome.stderr) == (2, True), outcome
