"""Input from other people: parsed strictly, as data, and refused in one line.

`reraise_as` turns any exception of a parser into one of our own errors.
"""

from __future__ import annotations

import itertools
import json
import tempfile
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

_YAML_NULL = "tag:yaml.org,2002:null"
_DEEPEST = 100
"""Lists and objects within each other. No file of a model or a result has more than twenty."""
_DEEP = "nested too deeply"


@contextmanager
def reraise_as(
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
        text = _DEEP
    else:
        system = getattr(problem, "strerror", None)  # of OSError, without number and path
        text = system.lower() if isinstance(system, str) else str(problem)
    lines = text.strip().splitlines() or [type(problem).__name__]
    return lines[0][:200]


def read_bytes(path: Path, error: type[SurgeryError]) -> bytes:
    """Reads a file. Raises `error` if it cannot be read."""
    with reraise_as(error, "cannot be read", path):
        return path.read_bytes()


@contextmanager
def copy_files(files: Mapping[str, Path], error: type[SurgeryError]) -> Iterator[Path]:
    """Yields a private folder of copies of `files`, by name, for a library that would read more of
    their own folder.

    Raises `error` as `read_bytes`, and `OutputError` if a copy cannot be written.
    """
    full, fix = "cannot write copies of files", "make room there, or set TMPDIR to another folder"
    with ExitStack() as stack:
        with reraise_as(OutputError, full, tempfile.gettempdir(), fix):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="attn-surgery-")))
            for name, path in files.items():
                (place / name).parent.mkdir(exist_ok=True)
                (place / name).write_bytes(read_bytes(path, error))
        yield place


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


def read_json(path: Path, *, needed: bool = False, as_typed: bool = False) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} if the file is missing and not `needed`.

    `as_typed`: as for `parse_json`.
    """
    if not path.exists():
        if not needed:
            return {}
        raise SourceError(f"{path.name} is missing", where=path.parent)
    with reraise_as(CheckpointError, "not valid JSON", path):
        value = parse_json(read_bytes(path, CheckpointError), as_typed=as_typed)
    if not isinstance(value, dict):
        raise CheckpointError("not a JSON object", where=path, got=type(value).__name__)
    return value


def parse_json(text: str | bytes, *, as_typed: bool = False) -> Any:
    """Parses JSON in UTF-8. `as_typed`: numbers stay text.

    Raises ValueError for invalid JSON (including NaN and infinities), for values nested too deeply,
    and for a name that stands twice in an object: parsers disagree on which counts.
    """
    typed = str if as_typed else None
    try:
        value = json.loads(
            text.decode() if isinstance(text, bytes) else text,
            object_pairs_hook=_make_object,
            parse_constant=_refuse_number,
            parse_int=typed,
            parse_float=typed,
        )
    except RecursionError:
        raise ValueError(_DEEP) from None
    return _check_depth(value)


def _check_depth(value: Any) -> Any:
    """Returns a value. Raises ValueError if it is nested too deeply for those who walk through it.

    How deep a parser goes depends on the version of Python.
    """
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(_DEEPEST):
        items = (one.values() if isinstance(one, dict) else one for one in level)
        level = [item for inside in items for item in inside if isinstance(item, dict | list)]
        if not level:
            return value
    raise ValueError(_DEEP)


def _make_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        _check_names(name for name, _ in pairs)
    return made


def _refuse_number(name: str) -> None:
    raise ValueError(f"{name} is not a number")


class _RefusedError(ValueError):
    """Valid syntax that is not taken."""


def _check_names(names: Iterable[str]) -> None:
    """Raises ValueError for a name that stands there twice."""
    seen = set[str]()
    for name in names:
        if name in seen:
            raise _RefusedError(f"names {name[:60]!r} twice")
        seen.add(name)


def parse_yaml(text: str, *, as_typed: bool = False) -> dict[str, Any]:
    """Returns values by name, or {} for an empty text. Raises ValueError for anything else.

    `as_typed`: values are text, such as 6.10, 0123, or no. Refuses a name that stands there twice,
    and values nested too deeply.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
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
    except RecursionError:
        raise ValueError(_DEEP) from None
    except Exception:  # PyYAML fails in many ways on values that do not fit their tag
        data = ""
    data = {} if data is None else data
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError("is not valid YAML")
    return _check_depth(data)  # type: ignore[no-any-return]
