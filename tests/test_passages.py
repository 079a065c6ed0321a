"""Contract: text comes from all over a corpus, the same at every reading, and what is not needed is
not read, however large the files are.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_tokenizer import tiny_tokenizer

from surgery.errors import SamplesError
from surgery.families import Dimensions
from surgery.fitting.calibration import open_calibration
from surgery.reading.corpus import open_corpus, read_documents
from surgery.reading.passages import SPACING, read_texts, spread_passages
from surgery.reading.sources import TextOrTable

SIZES = Dimensions(4, 2, 64, 400, 32, 2, 32)
LINES = 40_000


def lines(number: int = LINES) -> list[str]:
    return [f"line {index} of a file é" for index in range(number)]


@pytest.fixture(params=["a.txt", "a.jsonl", "a.parquet"])
def large(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """About a megabyte of numbered lines, one a document where there are documents."""
    path = tmp_path / str(request.param)
    if path.suffix == ".txt":
        path.write_text("\n".join(lines()) + "\n")
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines()))
    else:
        pq.write_table(pa.table({"text": lines()}), path, row_group_size=1000)
    return path


def numbers(found: list[str]) -> list[int]:
    return [int(line.split()[1]) for text in found for line in text.splitlines()]


def test_passages_are_spread_evenly_and_the_same_every_time(large: Path) -> None:
    places = spread_passages(TextOrTable(large), 8, 0)
    assert len(places) == 8
    read = [numbers(["".join(document) for document in place()]) for place in places]
    for stratum, found in enumerate(read):
        assert found == list(range(found[0], found[-1] + 1)), "whole lines, none left out"
        assert stratum / 8 - 0.01 <= found[0] / LINES < (stratum + 1) / 8
    assert all(one[-1] < other[0] for one, other in pairwise(read))
    begins = [found[0] for found in read]
    again = [next(iter(next(place()))) for place in spread_passages(TextOrTable(large), 8, 0)]
    assert [numbers([text])[0] for text in again] == begins
    other = [next(iter(next(place()))) for place in spread_passages(TextOrTable(large), 8, 1)]
    assert [numbers([text])[0] for text in other] != begins, "files are not read in step"


def test_what_has_no_places_is_read_from_its_start(tmp_path: Path) -> None:
    whole = "".join(json.dumps({"text": line}) + "\n" for line in lines()).encode()
    with pa.output_stream(str(tmp_path / "a.jsonl.zst"), compression="zstd") as file:
        file.write(whole)
    (tmp_path / "small.txt").write_text("\n".join(lines(2000)))
    assert (tmp_path / "small.txt").stat().st_size < 2 * SPACING
    for name in ("a.jsonl.zst", "small.txt"):
        (place,) = spread_passages(TextOrTable(tmp_path / name), 8, 0)
        assert next(next(place())) == next(next(read_documents(TextOrTable(tmp_path / name))))


@given(st.text("aé😀 \n", min_size=1, max_size=300), st.integers(0, 400), st.integers(1, 400))
def test_a_part_of_a_text_begins_and_ends_with_a_line(
    tmp_path_factory: pytest.TempPathFactory, text: str, start: int, length: int
) -> None:
    path = tmp_path_factory.mktemp("part") / "a.txt"
    path.write_text(text, newline="")
    found = "".join(
        "".join(pieces)
        for pieces in read_documents(TextOrTable(path), range(start, start + length))
    )
    begins, expected = 0, ""
    for line in text.splitlines(keepends=True):
        expected += line if start <= begins < start + length else ""
        begins += len(line.encode())
    assert found == expected


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("", "é", "one\ntwo\n", "\ufeff"):
        path.write_text(text, encoding="utf-8-sig")
        for part in (None, range(100)):
            (pieces,) = read_documents(TextOrTable(path), part)
            assert "".join(pieces) == text


def test_long_lines_are_begun_anywhere(tmp_path: Path) -> None:
    """Never within a character."""
    path = tmp_path / "a.txt"
    path.write_text("é😀" * 50_000)
    for start in range(1, 9):
        (pieces,) = read_documents(TextOrTable(path), range(start, start + 40_000))
        found = "".join(pieces)
        assert found in path.read_text()
        assert len(found) > 10_000


def test_texts_are_bounded_and_from_every_file(large: Path) -> None:
    small = large.with_name("small.txt")
    small.write_text("a few words\n")
    corpus = open_corpus([large, small])
    assert read_texts(corpus)[-1] == "a few words\n"
    found = read_texts(corpus, 100_000)
    assert found[-1] == "a few words\n"
    assert 50_000 <= sum(map(len, found)) <= 100_012
    if large.suffix == ".txt":
        assert len(found) == 4
        assert read_texts(open_corpus([large]), 10**7) == [large.read_text()], "all there is"


def test_documents_are_apart_and_files_as_they_are(tmp_path: Path) -> None:
    rows = [{"text": "The cat sat."}, {"text": "Dogs bark."}]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "b.txt").write_text("one\n" * 600_000)  # read in several pieces
    corpus = open_corpus([tmp_path / "a.jsonl", tmp_path / "b.txt"])
    found = ["The cat sat.\n\nDogs bark.", "one\n" * 600_000]
    assert read_texts(corpus, 10**7) == found
    for most in (12, 13, 15, 24, 30):
        assert read_texts(corpus[:1], most) == [found[0][:most]]


@pytest.mark.skipif(sys.platform != "linux", reason="what was read is counted by Linux")
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_gigabytes_are_not_read(tmp_path: Path, name: str) -> None:
    """2 GiB of a text, most of it a hole in the disk, and 40 MB of lines."""
    path = tmp_path / name
    with path.open("w") as file:
        if name == "a.txt":
            file.write("\n".join(lines()))
            file.truncate(2**31)
        else:
            file.writelines(["".join(json.dumps({"text": t}) + "\n" for t in lines())] * 20)

    def bytes_read() -> int:
        fields = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        return int(fields["rchar"])

    tokenizer, before = tiny_tokenizer(), bytes_read()
    found = open_calibration([path]).tokenize(tokenizer, SIZES, most_tokens=64 * 32)
    assert len(found.windows) == 64
    (source,) = found.sources
    assert source.size == path.stat().st_size
    read_texts(open_corpus([path]), 2**18)
    assert bytes_read() - before < 2**23


def test_what_was_read_is_recorded(large: Path) -> None:
    once, again = (
        open_calibration([large]).tokenize(tiny_tokenizer(), SIZES, most_tokens=4096)
        for _ in range(2)
    )
    assert once.sources == again.sources
    assert np.array_equal(once.windows, again.windows)
    record = once.record({})
    assert record.spread
    assert record.tokens == 4096
    assert record.sources[0].size == large.stat().st_size
    fewer = open_calibration([large]).tokenize(tiny_tokenizer(), SIZES, most_tokens=2048)
    assert fewer.sources[0].sha256 != once.sources[0].sha256, "of what was read alone"


def test_folders_inside_a_folder_of_texts_are_not_recorded(tmp_path: Path) -> None:
    """They may name people."""
    (tmp_path / "alice@corp").mkdir()
    (tmp_path / "alice@corp" / "inbox.txt").write_text("\n".join(lines(2000)))
    found = open_calibration([tmp_path]).tokenize(tiny_tokenizer(), SIZES, most_tokens=16 * 32)
    assert [source.name for source in found.sources] == ["inbox.txt"]


def test_files_that_gave_nothing_are_not_named(tmp_path: Path) -> None:
    """Of more files than windows, those that are read are from all over them."""
    for number in range(64):
        (tmp_path / f"{number:02}.txt").write_text("\n".join(lines(200)))
    found = open_calibration([tmp_path]).tokenize(tiny_tokenizer(), SIZES, most_tokens=16 * 32)
    names = [source.name for source in found.sources]
    assert names == [f"{number:02}.txt" for number in range(0, 64, 4)]


def test_mistakes_within_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = "".join(json.dumps({"text": line}) + "\n" for line in lines())
    path.write_text(good + "not json\n" * 40_000)
    text = open_calibration([path])
    with pytest.raises(SamplesError, match=r"a\.jsonl from byte [\d,]+ on, line 1: not JSON "):
        text.tokenize(tiny_tokenizer(), SIZES)
