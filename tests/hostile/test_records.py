"""Contract: samples, texts, plans and progress are taken only as what they are.

JSON that is none, mixed rows, headers and frames that are broken off: each is one line that names
the file and the place, and nothing is lost in silence.
"""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import attn_surgery
from tiny_tokenizer import TEXT, tiny_tokenizer

from hostile.victims import LENGTHS, commands, model, refuse
from surgery.reading.corpus import open_corpus, read_windows

DEEP = "[" * 100_000 + "]" * 100_000
SETTINGS = {"model": "some"}
TOKENS = f'"tokens": {list(range(16))}'
TEXTS = {
    "nested": DEEP,
    "an object without end": '{"a":' * 100_000,
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
    if case not in ("digits without end", "not a number", "twice"):
        refuse(commands(edited, tmp_path)["extract"], "tokenizer_config.json: ")


def test_half_a_surrogate_pair(tmp_path: Path, source: Path) -> None:
    """As JSON may hold where a text was cut within a character."""
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "the quick \\ud83d"}\n' * 2)
    text = "a passage or text: holds what is no Unicode text (got "
    refuse(("extract", source, "--samples", path, *LENGTHS), text)
    corpus = ("--corpus", path, "--output", tmp_path / "o.jsonl")
    refuse(("collect", source, *corpus, *LENGTHS), text)


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
