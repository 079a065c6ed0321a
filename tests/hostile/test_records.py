"""Contract: samples, texts, plans and progress are taken only as what they are.

Nested without end, numbers beyond 64 bits, halves of surrogate pairs, mixed rows, headers and
frames that are broken off: each is one line that names the file and the place, and nothing is lost
in silence.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import attn_surgery, memory_below
from tiny_tokenizer import TEXT, tiny_tokenizer

from evals.data import load_samples
from hostile.victims import LENGTHS, commands, model, refuse
from surgery.errors import SamplesError
from surgery.reading.corpus import open_corpus, read_windows
from surgery.reading.corpus import read_documents as corpus_documents
from surgery.reading.sources import TextOrTable

DEEP = "[" * 100_000 + "]" * 100_000
SETTINGS = {"model": "some"}
TOKENS = f'"tokens": {list(range(16))}'
TEXTS = {
    "nested": DEEP,
    "an object without end": '{"a":' * 100_000,
    "half a surrogate pair": f'{{"text": "a\\ud800b", {TOKENS}}}',
    "not a number": f'{{"text": "some", {TOKENS}, "count": NaN}}',
    "digits without end": '{"text": "some", "tokens": [' + "9" * 5_000 + "]}",
    "twice": f'{{"text": "one", "text": "two", {TOKENS}}}',
    "no object": "[]",
    "broken off": '{"text": "so',
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model(tmp_path_factory.mktemp("source") / "model")


@pytest.mark.parametrize("case", TEXTS)
def test_lines_and_objects(tmp_path: Path, source: Path, case: str) -> None:
    """Samples and a corpus of which one line is bad; a plan, a search's result, a manifest."""
    path = tmp_path / "bad.jsonl"
    path.write_text(f'{{"text": "good", {TOKENS}}}\n{TEXTS[case]}\n')
    refuse(("extract", source, "--samples", path, *LENGTHS), "bad.jsonl line 2: ")
    outcome = attn_surgery(
        "collect", source, "--corpus", path, "--output", tmp_path / "o.jsonl", *LENGTHS
    )
    if case != "digits without end":  # a corpus has texts alone
        outcome.assert_error("bad.jsonl line 2: ")
    assert not (tmp_path / "o.jsonl").exists()

    path.write_text(TEXTS[case])
    refuse(("export", source, "--plan", path, "--output", tmp_path / "out"), "bad.jsonl: ")
    arguments = commands(source, tmp_path)["evaluate"]
    refuse((*arguments, "--front", path), "bad.jsonl: is not the JSON of a search")
    edited = model(tmp_path / "edited")
    (edited / "surgery.json").write_text(TEXTS[case])
    refuse(("inspect", edited), "surgery.json: ")
    (edited / "surgery.json").unlink()
    (edited / "tokenizer_config.json").write_text(TEXTS[case])
    if case not in ("half a surrogate pair", "digits without end", "not a number", "twice"):
        refuse(commands(edited, tmp_path)["extract"], "tokenizer_config.json: ")


# --- arrays


def npy(header: str, version: int = 1, data: bytes = bytes(200)) -> bytes:
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    return b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + data


SHAPE = "{'descr': '<i4', 'fortran_order': False, 'shape': %s}\n"
ARRAYS = {
    "no header": b"\x93NUMPY",
    "a header of ten thousand brackets": npy("(" * 10_000),
    "objects": npy("{'descr': '|O', 'fortran_order': False, 'shape': (2, 16)}\n"),
    "a negative size": npy(SHAPE % "(-2, 16)"),
    "sizes beyond 64 bits": npy(SHAPE % f"({2**62}, {2**62})"),
    "thousands of digits": npy(SHAPE % f"({'9' * 5_000}, 16)"),
    "more than there is": npy(SHAPE % "(1000000, 1000000)"),
    "a claimed header of 4 GB": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays(tmp_path: Path, source: Path, case: str) -> None:
    (tmp_path / "bad.npy").write_bytes(ARRAYS[case])
    refuse(
        ("extract", source, "--samples", tmp_path / "bad.npy", "--prefix-length", "8"),
        "bad.npy: cannot be read as an array of numbers",
    )


def holes(path: Path, rows: int, tokens: int) -> Path:
    """An array that takes no room on the disk."""
    header = npy(SHAPE % f"({rows}, {tokens})", data=b"")
    path.write_bytes(header)
    with path.open("r+b") as file:
        file.truncate(len(header) + rows * tokens * 4)
    return path


def test_an_array_is_cut_before_it_is_held(tmp_path: Path) -> None:
    """Of a terabyte in the file, only what the test is made of is read."""
    path = holes(tmp_path / "wide.npy", 8, 2**35)
    with memory_below(10_000_000):
        found = load_samples(str(path), prefix_length=8, suffix_length=8)
    assert found.tokens.shape == (1, 16), "of eight rows that are equal"
    pair = f"{path},{path}"  # whole prefixes and suffixes, since no length was asked for
    with pytest.raises(SamplesError, match=r"too many tokens to hold \(expected at most 1,073,741"):
        load_samples(pair)


def test_rows_without_end(tmp_path: Path) -> None:
    path = holes(tmp_path / "long.npy", 2**36, 4)
    with pytest.raises(SamplesError, match=r"too many rows \(expected at most 10,000,000\)"):
        load_samples(str(path), prefix_length=2, suffix_length=2)


@pytest.mark.parametrize(("name", "limit"), [("MOST_ROWS", 2), ("MOST_BYTES", 300)])
def test_samples_without_end(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch, name: str, limit: int
) -> None:
    """Told at the first row beyond the limit, and not when memory is gone."""
    monkeypatch.setattr(f"evals.data.tables.{name}", limit)
    path = tmp_path / "long.jsonl"
    path.write_text(f"{{{TOKENS}}}\n" * 4 + "no JSON, and never read\n")
    text = "long.jsonl line 3: cannot be used as samples (got more than "
    refuse(("extract", source, "--samples", path, *LENGTHS), text, f"{limit} ")


# --- tables


def invalid() -> pa.Array:
    """Text that is not UTF-8."""
    good = pa.array([b"\xff\xfe"] * 2)
    return pa.Array.from_buffers(pa.string(), 2, good.buffers())


PARQUET = "bad.parquet: cannot be read as parquet (got "
NO_TEXT = "bad.parquet row {}: no text in column 'text' (got {})"
NO_SAMPLES = "bad.parquet row {}: cannot be used as samples (got {})"
NO_ID = "bad.parquet: not a token id in row 1 ('0') (got {})"
COLUMNS: dict[str, tuple[list[pa.Array], str, str]] = {  # all are called "text"
    "invalid UTF-8": ([invalid()], *[f"{PARQUET}'utf-8' codec can't decode byte 0xff"] * 2),
    "structures": (
        [pa.array([{"a": 1}] * 2)],
        "bad.parquet: no passages (expected columns tokens, prefix and suffix, or text); columns "
        "found: text.a; name the one to use: FILE:COLUMN",
        NO_TEXT.format(1, "no such column") + "; columns found: text.a;",
    ),
    "nothing": ([pa.nulls(2)], *[f"{PARQUET}a column of type null)"] * 2),
    "some nothing": (
        [pa.array(["a", None])],
        NO_SAMPLES.format(2, "no 'text'"),
        NO_TEXT.format(2, "NoneType"),
    ),
    "lists of nothing": (
        [pa.array([[None] * 16, [1] * 16])],
        NO_SAMPLES.format(1, "'text' is a list with entries that are not token ids"),
        NO_TEXT.format(1, "list"),
    ),
    "lists of fractions": (
        [pa.array([[1.5] * 16] * 2)],
        *[f"{PARQUET}a column of type list<"] * 2,
    ),
    "lists beyond 32 bits": (
        [pa.array([[2**40] * 16] * 2)],
        NO_ID.format(2**40),
        NO_TEXT.format(1, "ndarray"),
    ),
    "lists beyond 63 bits": (
        [pa.array([[2**63] * 16] * 2, pa.list_(pa.uint64()))],
        NO_ID.format(2**63),
        NO_TEXT.format(1, "ndarray"),
    ),
    "two of one name": (
        [pa.array(["a b c"])] * 2,
        *[f"{PARQUET}two columns have the name 'text')"] * 2,
    ),
    "a text that is too long": (
        [pa.array(["a" * (2**26 + 1)])],
        *[f"{PARQUET}a text of 67,108,865 bytes, more than 67,"] * 2,
    ),
}
"""Columns, and what `extract` and `collect` say of them."""


@pytest.mark.parametrize("case", COLUMNS)
def test_parquet(tmp_path: Path, source: Path, case: str) -> None:
    path, (columns, of_samples, of_corpus) = tmp_path / "bad.parquet", COLUMNS[case]
    table = pa.table(columns, names=["text"] * len(columns))
    pq.write_table(table, path, compression="zstd")
    refuse(("extract", source, "--samples", path, *LENGTHS), of_samples)
    more = ("--corpus", path, "--output", tmp_path / "out.jsonl")
    refuse(("collect", source, *more, *LENGTHS), of_corpus)


POOLS: list[Any] = []
"""They outlive what was allocated from them."""
TEXT_ALONE = pa.schema([("text", pa.string())])


@contextmanager
def arrow_takes(limit: int) -> Iterator[None]:
    """Arrow has no more than `limit` bytes at any time."""
    default = pa.default_memory_pool()
    pool = pa.proxy_memory_pool(default)
    POOLS.append(pool)
    pa.set_memory_pool(pool)
    try:
        yield
        assert pool.max_memory() <= limit
    finally:
        pa.set_memory_pool(default)


PACKED: dict[str, dict[str, Any]] = {
    "once": {"dictionary_pagesize_limit": 2**30},
    "as what differs": {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}},
}


@pytest.mark.parametrize("case", PACKED)
def test_one_text_again_and_again(tmp_path: Path, case: str) -> None:
    """128 MiB out of three kilobytes, of which one text is held at a time."""
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, TEXT_ALONE, compression="zstd", **PACKED[case]) as file:
        file.write(pa.table({"text": ["a" * 2**23] * 16}))
    assert path.stat().st_size < 4_000
    with arrow_takes(2**26):
        assert (
            sum(len(piece) for pieces in corpus_documents(TextOrTable(path)) for piece in pieces)
            == 2**27
        )


def test_a_row_of_numbers_without_end(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of one number takes no room, however long it is."""
    monkeypatch.setattr("surgery.reading.rows._UNPACKED", 2**20)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"tokens": [[0] * 2**18]}), path)
    assert path.stat().st_size < 1_000
    with arrow_takes(2**16):
        refuse(
            ("extract", source, "--samples", path),
            "a.parquet: cannot be read as parquet (got a row group unpacks to 2,097,",
            " bytes, more than 1,048,576: write smaller ones)",
        )


# --- compressed text


def zst(text: str) -> bytes:
    return pa.compress(text.encode(), "zstd", asbytes=True)


def documents(path: Path) -> int:
    return len(
        {
            window.place.document
            for window in read_windows(open_corpus([path]), tiny_tokenizer(), 4, 4)
        }
    )


def rows(first: int, last: int) -> str:
    return "".join(json.dumps({"text": f"{n} {TEXT[:80]}"}) + "\n" for n in range(first, last))


def test_frames_one_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zst(rows(0, 3)) + zst(rows(3, 5)))
    assert documents(path) == 5


@pytest.mark.parametrize("cut", [1, 2, 10, 30])
def test_a_frame_that_is_half_written(tmp_path: Path, source: Path, cut: int) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes((zst(rows(0, 3)) + zst(rows(3, 5)))[:-cut])
    more = ("--corpus", path, "--output", tmp_path / "out.jsonl")
    lengths = ("--prefix-length", "2", "--suffix-length", "2")
    refuse(
        ("collect", source, *more, *lengths),
        "a.jsonl.zst: cannot be read (got Truncated compressed stream)",
    )
    assert not (tmp_path / "out.jsonl").exists()


def test_a_gigabyte_out_of_thirteen_kilobytes(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    with pa.OSFile(str(path), "wb") as raw, pa.CompressedOutputStream(raw, "zstd") as file:
        file.write(b'{"text": "')
        for _ in range(2**6):
            file.write(b"a" * 2**24)
        file.write(b'"}\n')
    assert path.stat().st_size < 150_000
    more = ("--corpus", path, "--output", tmp_path / "out.jsonl")
    text = "a.jsonl.zst line 1: is too long (expected at most 67,108,864 bytes)"
    with memory_below(2**28):
        refuse(("collect", source, *more), text)
