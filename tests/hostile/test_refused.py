"""Contract: what does not parse as documented is refused in one line.

Samples, texts, plans, progress, weights, and settings are taken only as what they are. JSON that is
none, mixed rows, headers and frames that are broken off: each is one line that names the file and
the place, and nothing is lost in silence.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from command_line import attn_surgery
from pydantic import TypeAdapter
from tiny_tokenizer import TEXT

from hostile.victims import LENGTHS, commands, model, refuse
from surgery.errors import SamplesError, SourceError
from surgery.torch_tensors import read_pickle
from surgery.untrusted import parse_json, parse_yaml, read_bytes, read_lines, reraise_as

DEEP = "[" * 100_000 + "]" * 100_000
SETTINGS = {"model": "some"}
TOKENS = f'"tokens": {list(range(16))}'
TEXTS = {
    "nested": DEEP,
    "an object without end": '{"a":' * 100_000,
    "digits without end": '{"text": "some", "tokens": [' + "9" * 5_000 + "]}",
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
    if case != "digits without end":
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
    "nothing": (
        [pa.nulls(2)],
        NO_SAMPLES.format(1, "no 'text'"),
        NO_TEXT.format(1, "NoneType"),
    ),
    "lists of fractions": (
        [pa.array([[1.5] * 16] * 2)],
        NO_SAMPLES.format(1, "'text' is a list with entries that are not token ids"),
        NO_TEXT.format(1, "list"),
    ),
    "lists beyond 32 bits": (
        [pa.array([[2**40] * 16] * 2)],
        NO_ID.format(2**40),
        NO_TEXT.format(1, "list"),
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


def rows(first: int, last: int) -> str:
    return "".join(json.dumps({"text": f"{n} {TEXT[:80]}"}) + "\n" for n in range(first, last))


def test_a_frame_that_is_half_written(tmp_path: Path, source: Path) -> None:
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes((zst(rows(0, 3)) + zst(rows(3, 5)))[:-10])
    more = ("--corpus", path, "--output", tmp_path / "out.jsonl")
    lengths = ("--prefix-length", "2", "--suffix-length", "2")
    refuse(
        ("collect", source, *more, *lengths),
        "a.jsonl.zst: cannot be read (got Truncated compressed stream)",
    )
    assert not (tmp_path / "out.jsonl").exists()


# --- weights and settings


@pytest.mark.parametrize("name", ["config.json", "surgery.json"])
def test_a_folder_in_place_of_a_file(tmp_path: Path, name: str) -> None:
    source = model(tmp_path / "model", num_shards=2)
    (source / name).unlink(missing_ok=True)
    (source / name).mkdir()
    refuse(commands(source, tmp_path)["export"], f"{name}: cannot be read (got is a directory)")


def test_tensors_that_share_their_numbers_are_read(tmp_path: Path) -> None:
    """Views of what is stored are as they were, whatever their strides."""
    whole = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": whole, "b": whole.T, "c": whole[1:], "d": whole[:1]}
    torch.save(tensors, tmp_path / "some.bin")
    found = {name: one.tolist() for name, one in read_pickle(tmp_path / "some.bin", ()).items()}
    assert found == {name: tensor.tolist() for name, tensor in tensors.items()}


def rewrite_header(path: Path, change_header: Callable[[dict], object]) -> None:
    data = path.read_bytes()
    size = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:size])
    change_header(header)
    text = json.dumps(header).replace('"@"', DIGITS).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[size:])


BIAS = "gpt_neox.final_layer_norm.bias"
DIGITS = "9" * 5_000
HEADERS: dict[str, tuple[Callable[[dict], object], str]] = {
    "a block of thousands of digits": (
        lambda header: header.update(
            {f"gpt_neox.layers.{DIGITS}.input_layernorm.bias": header.pop(BIAS)}
        ),
        "cannot be loaded",
    ),
    "a name of a hundred thousand letters": (
        lambda header: header.update({"x" * 100_000: header.pop(BIAS)}),
        "finds no weights for",
    ),
    "digits": (lambda header: header[BIAS].update(shape=["@"]), "not valid safetensors"),
    "beyond 64 bits": (lambda header: header[BIAS].update(shape=[2**70]), "not valid safetensors"),
    "a thousand dimensions": (
        lambda header: header[BIAS].update(shape=[64] + [1] * 1_000),
        "cannot be loaded",
    ),
    "no numbers": (lambda header: header[BIAS].update(shape=None), "not valid safetensors"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers(tmp_path: Path, case: str) -> None:
    source = model(tmp_path / "model")
    spoil, text = HEADERS[case]
    rewrite_header(source / "model.safetensors", spoil)
    outcome = refuse(commands(source, tmp_path)["extract"], text)
    assert len(outcome.stderr) < 5_000


# --- the guard


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1", "Expecting ',' delimiter"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (b'"\xed\xa0\x80"', "can't decode"),
    ],
)
def test_json_that_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize("text", ["[a", "a: !!int x", "a: *none", "- a", "1: a", "[" * 5_000])
def test_yaml_that_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not valid YAML"):
        parse_yaml(text)
    assert parse_yaml("") == {}


@pytest.mark.parametrize(
    ("problem", "got"),
    [
        (ValueError("one\ntwo"), "one"),
        (ValueError(), "ValueError"),
        (KeyError("name"), "no 'name'"),
        (RecursionError("maximum recursion depth exceeded"), "nested too deeply"),
        (MemoryError(), "out of memory"),
        (OverflowError("int too large"), "int too large"),
        (PermissionError(13, "Permission denied", "/x"), "permission denied"),
        (type("PanicException", (BaseException,), {})("range end"), "range end"),
        (AssertionError("x" * 500), "x" * 200),
    ],
)
def test_whatever_a_parser_raises(problem: BaseException, got: str) -> None:
    with (
        pytest.raises(SamplesError) as caught,
        reraise_as(SamplesError, "cannot be read", "file", fix="look"),
    ):
        raise problem
    assert str(caught.value) == f"file: cannot be read (got {got}); look"
    assert caught.value.__cause__ is problem


def test_a_schema_that_is_not_met() -> None:
    schema = TypeAdapter(dict[str, list[int]])
    with pytest.raises(SamplesError) as caught, reraise_as(SamplesError, "no rows", "file"):
        schema.validate_python({"tokens": [1, "text"]})
    assert str(caught.value).startswith("file: no rows (got tokens.1: input should be a valid int")


@pytest.mark.parametrize("problem", [SourceError("ours"), KeyboardInterrupt(), SystemExit(2)])
def test_what_passes(problem: BaseException) -> None:
    with pytest.raises(type(problem)) as caught, reraise_as(SamplesError, "cannot be read", "file"):
        raise problem
    assert caught.value is problem


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text in (("missing", "no such file"), (".", "is a directory")):
        with pytest.raises(SourceError, match=rf": cannot be read \(got {text}"):
            read_bytes(tmp_path / name, SourceError)


def lines_of(data: bytes) -> list[tuple[str, str]]:
    return list(read_lines(io.BytesIO(data), "file", SamplesError))


def test_lines() -> None:
    found = lines_of("a\r\n\n \n\u2028é".encode())
    assert found == [("file line 1", "a\r\n"), ("file line 4", "\u2028é")]
    with pytest.raises(SamplesError, match=r"file line 2: cannot be read \(got 'utf-8' codec"):
        lines_of(b"a\n\xff\n")
