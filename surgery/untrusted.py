"""Input from other people: read within limits, parsed strictly, refused in one line.

`read_bytes` and `read_lines` limit memory. `parse_json` and `parse_yaml` accept only what every
later step can handle. `guard` turns any exception of a parser into one of our own errors.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from surgery.errors import (
    CheckpointError,
    OutputError,
    SamplesError,
    SourceError,
    SurgeryError,
)

LIMIT = 2**26
"""Most bytes of a file, or of one line of a larger file, to hold in memory: 64 MiB."""
_MOST_COPIED = 4 * LIMIT  # bytes of all files that a reader gets
_DEPTH = 64
_LARGE_NUMBER = re.compile(r"\d{19}|[eE]\+?\d{3}")
_YAML_NULL = "tag:yaml.org,2002:null"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def guard(
    error: type[SurgeryError],
    what: str,
    where: object,
    fix: str | None = None,
    *,
    writes: bool = False,
) -> Iterator[None]:
    """Turns any exception inside into a one-line `error`. Our own errors pass through.

    Text that is not UTF-8 gets its own `fix`. `writes`: the block also writes a file, so errors of
    the operating system pass, for `surgery.output.explain_os_errors` to name that file.
    """
    try:
        yield
    except (SurgeryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as problem:  # such as PanicException of Rust parsers
        if writes and isinstance(problem, OSError):
            raise
        if isinstance(problem, UnicodeDecodeError) and issubclass(error, SamplesError):
            fix = "convert it to UTF-8, from Latin-1 for example: iconv -f latin1 -t utf-8"
        raise error(what, where=where, got=describe_error(problem), fix=fix) from problem


def describe_error(problem: BaseException) -> str:
    """Describes an exception in one line of at most 200 characters."""
    if isinstance(problem, ValidationError):
        first = problem.errors(include_url=False, include_input=False)[0]
        field = " ".join(".".join(str(part) for part in first["loc"]).splitlines())
        said = first["msg"].removeprefix("Value error, ").lower()
        text = f"{field}: {said}" if field else said
    elif isinstance(problem, KeyError):
        text = f"no {problem}"
    elif isinstance(problem, MemoryError):
        text = "out of memory"
    elif isinstance(problem, RecursionError):
        text = "nested too deeply"
    else:
        system = getattr(problem, "strerror", None)  # of OSError, without number and path
        text = system.lower() if isinstance(system, str) else str(problem)
    lines = text.strip().splitlines() or [type(problem).__name__]
    return lines[0][:200]


def open_regular(path: Path, error: type[SurgeryError]) -> BinaryIO:
    """Opens a file to read. Raises `error` for a pipe, device or folder, and waits for none."""
    with guard(error, "cannot be read", path):
        # do not wait for the other end of a pipe
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise error("is not a regular file", where=path)
    return file


def read_bytes(path: Path, error: type[SurgeryError], *, limit: int = LIMIT) -> bytes:
    """Reads a small file. Raises as `open_regular`, and `error` above `limit` bytes."""
    with open_regular(path, error) as file, guard(error, "cannot be read", path):
        data = file.read(limit + 1)
    if len(data) > limit:
        raise error("is too large", where=path, expected=f"at most {limit:,} bytes")
    return data


@contextmanager
def copy_checked(files: Mapping[str, Path], error: type[SurgeryError]) -> Iterator[Path]:
    """Yields a private folder of copies of `files`, by name, for a reader that takes a folder.

    A library looks for more files than we know of, and would wait for a pipe or read without end.
    Raises `error` as `read_bytes`, for each file and for all of them together, and `OutputError` if
    a copy cannot be written.
    """
    full, fix = "cannot write copies of files", "make room there, or set TMPDIR to another folder"
    with ExitStack() as stack:
        with guard(OutputError, full, tempfile.gettempdir(), fix):
            made = tempfile.TemporaryDirectory(prefix="attn-surgery-")
            place, left = Path(stack.enter_context(made)), _MOST_COPIED
            for name, path in files.items():
                data = read_bytes(path, error, limit=min(left, LIMIT))
                left -= len(data)
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_bytes(data)
        yield place


def read_lines(
    file: BinaryIO, where: object, error: type[SurgeryError], *, limit: int = LIMIT
) -> Iterator[tuple[str, str]]:
    """Yields (place, line) for each line of UTF-8 text that is not blank."""
    for number in itertools.count(1):
        place = f"{where} line {number}"
        with guard(error, "cannot be read", place):
            line = file.readline(limit + 1)
            if len(line) > limit:
                raise error("is too long", where=place, expected=f"at most {limit:,} bytes")
            text = line.decode("utf-8")
        if not line:
            return
        if text.strip():
            yield place, text


def read_json(path: Path, *, needed: bool = False, as_typed: bool = False) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} if the file is missing and not `needed`.

    `as_typed`: as for `parse_json`.
    """
    if not path.exists():
        if not needed:
            return {}
        raise SourceError(f"{path.name} is missing", where=path.parent)
    with guard(CheckpointError, "not valid JSON", path):
        value = parse_json(read_bytes(path, CheckpointError), as_typed=as_typed)
    if not isinstance(value, dict):
        raise CheckpointError("not a JSON object", where=path, got=type(value).__name__)
    return value


def parse_json(text: str | bytes, *, as_typed: bool = False) -> Any:
    """Parses JSON strictly, so that no later step fails on it. `as_typed`: numbers stay text.

    An integer beyond 64 bits becomes a float, as in most parsers. Raises ValueError for invalid
    JSON (including NaN and infinities), a duplicate key, nesting beyond 64 levels, a number too
    large for a float, or half a surrogate pair.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    large = _LARGE_NUMBER.search(text)
    numbers = (str, str) if as_typed else (_parse_integer, _parse_float) if large else (None, None)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_make_object,
            parse_constant=_parse_float,
            parse_int=numbers[0],
            parse_float=numbers[1],
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > _DEPTH:
        _check_depth(value)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        _check_names(name for name, _ in pairs)
    return found


class _RefusedError(ValueError):
    """Valid syntax that is not taken."""


def _check_names(names: Iterable[str]) -> None:
    """Raises ValueError for a name that stands there twice: parsers disagree on which counts."""
    name, count = next(iter(Counter(names).most_common(1)), ("", 0))
    if count > 1:
        raise _RefusedError(f"names {name[:60]!r} twice")


def _parse_integer(digits: str) -> int | float:
    number = int(digits) if len(digits) <= 20 else 2**64
    return number if -(2**63) <= number < 2**63 else _parse_float(digits)


def _parse_float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:60]} is not a number")
    return number


def _check_depth(value: Any, left: int = _DEPTH) -> None:
    if isinstance(value, dict | list):
        if left == 0:
            raise ValueError(f"nested more than {_DEPTH} deep")
        for inner in value.values() if isinstance(value, dict) else value:
            _check_depth(inner, left - 1)


def parse_yaml(text: str, *, as_typed: bool = False) -> dict[str, Any]:
    """Returns values by name, or {} for an empty text. Raises ValueError for anything else.

    `as_typed`: values are text, such as 6.10, 0123, or no. Refuses a name that stands there twice,
    and aliases: with them, a few lines can expand to more than memory can hold.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise _RefusedError("refers to parts of itself (aliases, which begin with *)")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            _check_names(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
            return super().construct_mapping(node, deep)

        def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
            tag = super().resolve(kind, value, implicit)
            plain = as_typed and kind is yaml.ScalarNode and tag != _YAML_NULL
            return self.DEFAULT_SCALAR_TAG if plain else tag

    try:
        data = yaml.load(text, Loader=Loader)
    except _RefusedError:
        raise
    except Exception:  # PyYAML fails in many ways on values that do not fit their tag
        data = ""
    data = {} if data is None else data
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError("is not valid YAML")
    return data
