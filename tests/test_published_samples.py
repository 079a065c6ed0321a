"""Published passages: each short name reads files of the form in which its authors publish them."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_tokenizer import TEXT, tiny_tokenizer

from evals.data import load_samples
from surgery.errors import SamplesError


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_packed(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.mark.parametrize("nested", [False, True], ids=["beside", "in meta"])
def test_hubble_counts_are_duplicates_and_zero_is_the_control(place: Path, nested: bool) -> None:
    """The library reads a folder of that name as it reads the Hub's data set."""

    def row(at: int, times: int) -> dict[str, object]:
        count = {"duplicates": times}
        found = {"text": TEXT[at:], "meta": {"title": f"t{at}", **(count if nested else {})}}
        return found if nested else found | count

    folder = place / "allegrolab" / "passages_wikipedia"
    write_packed(folder / "train.jsonl.gz", [row(0, 1), row(7, 256)])
    write_packed(folder / "test.jsonl.gz", [row(20, 0)])
    samples = load_samples(
        "hubble:wikipedia", tokenizer=tiny_tokenizer(), prefix_length=8, suffix_length=8
    )
    assert samples.source == "hubble:wikipedia"
    assert samples.counts is not None
    assert samples.members is not None
    assert samples.counts.tolist() == [1, 256, 0]
    assert samples.members.tolist() == [True, True, False]


def test_pythia_evals_are_rows_of_ids(place: Path) -> None:
    rows = [{"index": at, "tokens": list(range(at, at + 64))} for at in range(3)]
    write_packed(place / "EleutherAI/pythia-memorized-evals/train.jsonl.gz", rows)
    samples = load_samples("pythia-evals:train")
    assert samples.tokens.tolist() == [row["tokens"] for row in rows]


def test_the_extraction_challenge_is_a_pair_of_arrays(place: Path) -> None:
    for part in ("prefix", "suffix"):
        np.save(place / f"train_{part}.npy", np.arange(100, dtype=np.uint16).reshape(2, 50))
    samples = load_samples("lm-extraction:.")
    assert (samples.prefix_length, samples.suffix_length) == (50, 50)
    for folder in (place, "."):
        assert load_samples(f"lm-extraction:{folder}").source == f"lm-extraction:{place.name}"


def test_sets_of_64_and_48_ids_need_their_lengths_only(place: Path) -> None:
    rows = [{"prefix": list(range(64)), "suffix": list(range(at, at + 48))} for at in range(2)]
    write_packed(place / "set.jsonl.gz", rows)
    samples = load_samples("set.jsonl.gz", prefix_length=64, suffix_length=48)
    assert samples.tokens.shape == (2, 112)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("hubble:books", "hubble:books: no such samples (expected hubble:gutenberg_popular, "),
        ("hubble:", "hubble:: no such samples (expected hubble:gutenberg_popular, "),
        ("pythia-evals:", "pythia-evals:: no such samples (expected hubble:SUBSET, "),
        ("lm-extraction:nowhere", "nowhere/train_prefix.npy: no such file"),
    ],
)
def test_unknown_sets_are_one_line(place: Path, name: str, expected: str) -> None:
    with pytest.raises(SamplesError) as error:
        load_samples(name)
    assert str(error.value).startswith(expected)
