"""Input from other people: parsed as data, and refused in one line.

`reraise_as` turns any exception of a parser into one of our own errors.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from surgery.errors import CheckpointError, OutputError, SamplesError, SourceError, SurgeryError


@contextmanager
def reraise_as(
    error: type[SurgeryError], what: str, where: object, fix: str | None = None
) -> Iterator[None]:
    """Turns any exception inside into a one-line `error`. Our own errors pass through.

    Text that is not UTF-8 gets its own `fix`.
    """
    try:
        yield
    except (SurgeryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as problem:  # such as PanicException of Rust parsers
        if isinstance(problem, UnicodeDecodeError) and issubclass(error, SamplesError):
            fix = "convert it to UTF-8, from Latin-1 for example: iconv -f latin1 -t utf-8"
        raise error(what, where=where, got=describe_error(problem), fix=fix) from problem


def describe_error(problem: BaseException) -> str:
    """Describes an exception in one line of at most 200 characters."""
    match problem:
        case ValidationError():
            first = problem.errors(include_url=False, include_input=False)[0]
            field = " ".join(".".join(str(part) for part in first["loc"]).splitlines())
            said = first["msg"].removeprefix("Value error, ").lower()
            text = f"{field}: {said}" if field else said
        case KeyError():
            text = f"no {problem}"
        case MemoryError():
            text = "out of memory"
        case RecursionError():
            text = "nested too deeply"
        case OSError(strerror=str(said)):  # without number and path
            text = said.lower()
        case _:
            text = str(problem)
    lines = text.strip().splitlines() or [type(problem).__name__]
    return lines[0][:200]


def read_bytes(path: Path, error: type[SurgeryError]) -> bytes:
    """Reads a file. Raises `error` if it cannot be read."""
    with reraise_as(error, "cannot be read", path):
        return path.read_bytes()


@contextmanager
def copy_files(files: Mapping[str, Path], error: type[SurgeryError]) -> Iterator[Path]:
    """Yields a private folder of copies of `files`, by name, for a library that would read more of
    their own folder. Raises `error` as `read_bytes`."""
    fix = "make room there, or set TMPDIR to another folder"
    with tempfile.TemporaryDirectory(prefix="attn-surgery-") as folder:
        for name, path in files.items():
            content, copy = read_bytes(path, error), Path(folder, name)
            with reraise_as(OutputError, "cannot write copies of files", folder, fix):
                copy.parent.mkdir(exist_ok=True)
                copy.write_bytes(content)
        yield Path(folder)


def read_lines(
    file: BinaryIO, where: object, error: type[SurgeryError]
) -> Iterator[tuple[str, str]]:
    """Yields (place, line) for each line of UTF-8 text that is not blank."""
    for number in itertools.count(1):
        place = f"{where} line {number}"
        with reraise_as(error, "cannot be read", place):
            text = file.readline().decode()
        if not text:
            return
        if text.strip():
            yield place, text


def read_json(path: Path, *, needed: bool = False) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} if the file is missing and not `needed`."""
    if not path.exists():
        if not needed:
            return {}
        raise SourceError(f"{path.name} is missing", where=path.parent)
    content = read_bytes(path, CheckpointError)
    with reraise_as(CheckpointError, "not valid JSON", path):
        value = parse_json(content)
    if not isinstance(value, dict):
        raise CheckpointError("not a JSON object", where=path, got=type(value).__name__)
    return value


def parse_json(text: str | bytes) -> Any:
    """Parses JSON in UTF-8. Raises ValueError for anything else."""
    try:
        return json.loads(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError("nested too deeply") from None


def parse_yaml(text: str, *, as_typed: bool = False) -> dict[str, Any]:
    """Returns values by name, or {} for an empty text. Raises ValueError for anything else.

    `as_typed`: every value is text, such as 6.10, 0123, or no.
    """
    import yaml

    try:
        data = yaml.load(text, Loader=yaml.BaseLoader if as_typed else yaml.SafeLoader)
    except Exception:  # PyYAML fails in many ways on values that do not fit their tag
        data = ""
    data = {} if data is None else data
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError("is not valid YAML")
    return data
