"""Contract: `init` says of every row whether and why it can be used, and how many rows are needed.

Its counts are those of the commands that use the rows, and its needed numbers are the least for
which the product's own interval decides. No text is shown. With --dry-run, nothing is written.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import attn_surgery
from tiny_tokenizer import TEXT, save_tiny, tiny_tokenizer

from evals.data import load_samples
from evals.data.repeats import MERGED
from evals.data.windows import MOST_WINDOWS
from evals.measure.memorization.extraction import extract
from evals.run.models import open_model
from evals.run.statistics import bound_share, count_needed, wilson
from evals.table.limits import find_smallest, judge
from surgery.fitting.calibration import FEWEST_TOKENS
from surgery.record.measured import Measured

LENGTHS = ("--prefix-length", 4, "--suffix-length", 4)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rows of text: the second and the fourth are too short, the fifth repeats the first."""
    line = "the quick brown fox jumps over the lazy dog"
    texts = [line, "the", line[10:], "", line, line[5:]]
    rows = [{"id": f"row-{at}", "text": text, "member": at != 5} for at, text in enumerate(texts)]
    path = tmp_path_factory.mktemp("samples") / "s.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("limit", [0.5, 0.1, 0.05, 0.01, 0.005, 0.001])
def test_the_least_number_that_decides_a_limit(limit: float) -> None:
    n = count_needed(limit)
    assert n is not None
    assert judge(0, bound_share(0, n), limit, n) == "kept"
    assert n == 1 or judge(0, bound_share(0, n - 1), limit, n - 1) == "undecided"
    assert {0.01: 299, 0.05: 59}.get(limit, n) == n


def count(model: object, *arguments: object) -> Any:
    outcome = attn_surgery("init", model, *arguments, "--dry-run", "--json")
    assert outcome.code == 0, outcome
    assert "quick" not in outcome.stdout
    return outcome.json


def test_rows_by_what_becomes_of_them(
    model: Path, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    found = count(model, "--samples", samples, *LENGTHS)
    assert (found["n"], found["usable"], found["too_short"], found["duplicates"]) == (6, 3, 2, 1)
    assert (found["members"], found["non_members"]) == (2, 1)
    short = "it has fewer than 8 tokens (prefix 4 + suffix 4)"
    assert found["left_out"] == [
        {"row": 2, "id": "row-1", "reason": short},
        {"row": 4, "id": "row-3", "reason": short},
        {"row": 5, "id": "row-4", "reason": MERGED},
    ]
    sizes = [len(tiny_tokenizer()(json.loads(line)["text"])["input_ids"])
             for line in samples.read_text().splitlines()]  # fmt: skip
    assert found["length"] == {"min": 0, "median": np.median(sizes), "max": max(sizes)}
    assert found["needed"] == {"0.05": 59, "0.01": 299, "0.001": 2995}
    assert found["recited"]["n"] == 2
    assert found["corpus"] is None
    printed = attn_surgery("init", model, "--samples", samples, *LENGTHS, "--dry-run")
    for line in (r"too short +2\n", rf"left out: {re.escape(short)}: row 2, 4\n"):
        assert re.search(line, printed.stdout), printed.stdout
    assert "next:" not in printed.stdout
    assert not any(tmp_path.iterdir())
    written = attn_surgery("init", model, "--samples", samples, *LENGTHS, "--json")
    assert written.json == found
    assert [path.name for path in tmp_path.iterdir()] == ["mitigate.yaml"]


def test_text_needs_the_tokenizer_of_the_model(tmp_path: Path) -> None:
    folder = Path(save_tiny(tmp_path / "model"))
    for file in folder.glob("*token*"):
        file.unlink()
    rows = [{"tokens": [at] * 8} for at in range(2, 12)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "text.txt").write_text(TEXT * 9)
    given = (folder, "--samples", tmp_path / "rows.jsonl", *LENGTHS, "--dry-run")
    attn_surgery("init", *given, "--calibration", tmp_path / "text.txt").assert_error(
        "text needs a tokenizer (got a model without one)"
    )


def test_a_prefix_of_text_and_a_suffix_of_ids_is_one_line(model: Path, tmp_path: Path) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps({"prefix": "hello there", "suffix": [1, 2, 3]}))
    attn_surgery("init", model, "--samples", tmp_path / "s.jsonl", "--dry-run").assert_error(
        "s.jsonl: prefix and suffix must both be text or both be token ids"
    )


@pytest.mark.slow
def test_a_lab_model() -> None:
    """Its own texts; the pass tests 200 of the passages, as `extract` does."""
    found = count("lab:pythia", "--device", "cpu")
    samples = load_samples("lab:pythia")
    assert (found["n"], found["usable"]) == (len(samples), len(samples))
    assert (found["members"], found["non_members"]) == (336, 60)
    for split, some, rest in zip(found["splits"], (168, 84, 68), (168, 252, 268), strict=True):
        assert (split["chosen_on"], split["held_back"]) == (some, rest)
        assert split["chosen_on_limit"] == find_smallest(some)
        assert split["held_back_limit"] == find_smallest(rest)
    some = samples.spread(samples.trained_on, 200)
    exact = int(extract(open_model("lab:pythia", device="cpu").model, some).exact.sum())
    recited = Measured.model_validate(found["recited"])
    assert (recited.details["count"], recited.n, recited.of) == (exact, 200, "base")
    assert recited.ci95 == wilson(exact, 200)
    assert found["corpus"]["windows"] == found["corpus"]["wanted"] == MOST_WINDOWS
    assert found["calibration"]["wanted"] == FEWEST_TOKENS
    assert 0 < found["calibration"]["tokens"] <= FEWEST_TOKENS
    printed = attn_surgery("init", "lab:pythia", "--dry-run").stdout
    for line in (f"recited: {exact} of 200", "held-out text: 256 windows", "members"):
        assert line in printed
    assert re.search(r"0\.25.* 84: 3\.51% or more +252: 1\.19% or more", printed), printed


def test_texts_that_are_named(model: Path, samples: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 2)
    (tmp_path / "short.txt").write_text("a")
    call = (model, "--samples", samples, *LENGTHS, "--corpus")
    found = count(*call, tmp_path / "text.txt")
    length = len(tiny_tokenizer()(TEXT * 2)["input_ids"])
    assert found["corpus"] == {"characters": 2 * len(TEXT), "windows": length // 8, "wanted": 256}
    short = tmp_path / "short.txt"
    said = attn_surgery("init", *call, short, "--calibration", short, "--dry-run", "--json")
    assert said.code == 0, said
    assert said.json["corpus"] == {"characters": 1, "windows": 0, "wanted": 256}
    assert said.json["calibration"]["tokens"] == 0
    assert said.json["usable"] == found["usable"], "which is told all the same"
    for text in ("the held-out text is too short", "short.txt: too little text (expected at least"):
        assert f"warning: {text}" in said.stderr


def test_other_commands_leave_short_rows_out_on_request(
    model: Path, samples: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 20)
    rest = ("--samples", samples, *LENGTHS)
    short = "warning: 2 rows left out, the first 'row-1': it has fewer than 8 tokens"
    corpus = ("--corpus", tmp_path / "text.txt")
    report = ("--suite", "none", "--heldout", corpus[1], "--output", tmp_path / "report")
    goal = ("--max-extraction", 0.5, "--heldout", corpus[1], "--output", tmp_path / "found")
    for call in (
        ("evaluate", model, "--baseline", model, *rest, *report),
        ("search", model, *rest, *goal, "--grain", "blocks", "--variant", "zero"),
        ("extract", model, *rest),
        ("sweep", model, *rest, "--heldout", corpus[1]),
        ("audit", model, "--baseline", model, *rest, "--control", corpus[1], "--attack", "greedy"),
        ("compare", model, model, *rest),
    ):
        attn_surgery(*call).assert_error(
            "2 of 6 rows are too short, the first is row 2 ('row-1')", "out with --skip-short"
        )
        done = attn_surgery(*call, "--skip-short")
        assert done.code == (call[0] == "search"), done  # nothing is recited
        assert short in done.stderr
