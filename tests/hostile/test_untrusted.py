"""Contract: one guard stands where foreign files are parsed.

JSON and YAML are taken as they are defined, and whatever a parser raises becomes the error that its
caller names, in one line.
"""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from tiny_tokenizer import tiny_tokenizer

from surgery.card.text import read_card
from surgery.editing.loading import load_tokenizer
from surgery.errors import SamplesError, SourceError
from surgery.untrusted import (
    copy_files,
    guard,
    parse_json,
    parse_yaml,
    read_bytes,
    read_lines,
)

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=20,
)


def test_a_tokenizer_names_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library would open it wherever it is, and read /dev/zero without end."""
    seen: list[dict[str, Any]] = []

    def load(copy: Path, **more: Any) -> Any:
        seen.append(json.loads((copy / "tokenizer_config.json").read_text()))
        return tiny_tokenizer()

    tiny_tokenizer().save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    given_ = json.loads(config.read_text())
    places = {"tokenizer_file": "/dev/zero", "vocab": "/dev/zero", "merges": "/dev/zero"}
    config.write_text(json.dumps(given_ | places))
    monkeypatch.setattr("surgery.editing.loading.AutoTokenizer.from_pretrained", load)
    load_tokenizer(tmp_path)
    assert seen == [given_]
    assert json.loads(config.read_text()) == given_ | places, "yours stays as it is"


@given(VALUES, st.booleans())
def test_json_is_read_as_the_library_reads_it(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert parse_json(text) == parse_json(text.encode()) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "Expecting value"),
        ("[1", "Expecting ',' delimiter"),
        ("[NaN]", "NaN is not a number"),
        ("[-Infinity]", "-Infinity is not a number"),
        ("[" + "9" * 5000 + "]", "Exceeds the limit"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "names 'c' twice"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        (b'"\xed\xa0\x80"', "can't decode"),
        ('{"a": 1}'.encode("utf-16"), "can't decode"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_json_that_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_json(text)


@pytest.mark.parametrize("as_typed", [False, True])
@pytest.mark.parametrize(
    ("text", "twice"),
    [
        ("variant: zero\nlayout: stock\nvariant: mean\n", "variant"),
        ("a: {b: [{c: 1, 'c': 2}]}", "c"),
        ("license: mit\n? license\n: apache-2.0", "license"),
    ],
)
def test_yaml_that_names_something_twice(text: str, twice: str, as_typed: bool) -> None:
    with pytest.raises(ValueError, match=f"names '{twice}' twice"):
        parse_yaml(text, as_typed=as_typed)


def test_yaml_with_one_name_in_two_places() -> None:
    assert parse_yaml("a: {b: 1}\nb: [{b: 1}, {b: 2}]") == {
        "a": {"b": 1},
        "b": [{"b": 1}, {"b": 2}],
    }


def test_a_reader_gets_copies_of_files_and_no_more(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 10)
    (tmp_path / "secret").write_bytes(b"y")
    files = {"a": tmp_path / "a", "more/b": tmp_path / "a"}
    with copy_files(files, SourceError) as copy:
        found = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
        assert found == {"a", "more/b"}
        assert (copy / "more/b").read_bytes() == b"x" * 10
        assert copy.stat().st_mode & 0o077 == 0, "private"
    assert not copy.exists()


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
        guard(SamplesError, "cannot be read", "file", fix="look"),
    ):
        raise problem
    assert str(caught.value) == f"file: cannot be read (got {got}); look"
    assert caught.value.__cause__ is problem


def test_a_schema_that_is_not_met() -> None:
    schema = TypeAdapter(dict[str, list[int]])
    with pytest.raises(SamplesError) as caught, guard(SamplesError, "no rows", "file"):
        schema.validate_python({"tokens": [1, "text"]})
    assert str(caught.value).startswith("file: no rows (got tokens.1: input should be a valid int")


@pytest.mark.parametrize("problem", [SourceError("ours"), KeyboardInterrupt(), SystemExit(2)])
def test_what_passes(problem: BaseException) -> None:
    with pytest.raises(type(problem)) as caught, guard(SamplesError, "cannot be read", "file"):
        raise problem
    assert caught.value is problem


def test_a_file_within_and_beyond_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert read_bytes(path, SourceError, limit=10) == b"x" * 10
    with pytest.raises(SourceError, match=r"file: is too large \(expected at most 9 bytes"):
        read_bytes(path, SourceError, limit=9)
    with path.open("wb") as file:
        file.truncate(2**40)  # a terabyte that takes no room
    with pytest.raises(SourceError, match=r"expected at most 67,108,864 bytes"):
        read_bytes(path, SourceError)


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


def test_a_card_of_gigabytes_is_refused_before_it_is_read(tmp_path) -> None:
    with (tmp_path / "README.md").open("wb") as file:
        file.truncate(64 << 30)
    with pytest.raises(SourceError, match=r"README\.md"):
        read_card(tmp_path)
