"""Files that somebody else wrote: read within a limit, parsed strictly, refused in one line.

Everything that comes from outside passes here: `read_bytes` or `read_lines` bound what is held in
memory, `own_file` follows no link out of a model's folder, `parse_json` takes only what every later
step can handle, and `guard` turns whatever a parser raises into an error of ours.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import ValidationError

from surgery.errors import CheckpointError, SamplesError, SurgeryError

LIMIT = 2**26
"""Bytes of a file, or of a line of a larger one, that are held in memory: 64 MiB."""
_DEPTH = 64
_LARGE_NUMBER = re.compile(r"\d{19}|[eE]\+?\d{3}")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@contextmanager
def guard(
    error: type[SurgeryError], what: str, where: object, fix: str | None = None
) -> Iterator[None]:
    """Raises `error`, in one line, for whatever goes wrong inside; errors of ours pass.

    A text of the user's that is not UTF-8 gets a `fix` of its own.
    """
    try:
        yield
    except (SurgeryError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as problem:  # parsers in Rust raise PanicException, which is no Exception
        if isinstance(problem, UnicodeDecodeError) and issubclass(error, SamplesError):
            fix = "convert it to UTF-8, from Latin-1 for example: iconv -f latin1 -t utf-8"
        raise error(what, where=where, got=reason(problem), fix=fix) from problem


def reason(problem: BaseException) -> str:
    """What an exception says, in one line of at most 200 characters."""
    if isinstance(problem, ValidationError):
        first = problem.errors(include_url=False, include_input=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        text = f"{field}: {first['msg'].lower()}" if field else first["msg"].lower()
    elif isinstance(problem, KeyError):
        text = f"no {problem}"
    elif isinstance(problem, MemoryError):
        text = "more than memory holds"
    elif isinstance(problem, RecursionError):
        text = "nested too deeply"
    else:
        system = getattr(problem, "strerror", None)  # of OSError, without number and path
        text = system.lower() if isinstance(system, str) else str(problem)
    lines = text.strip().splitlines() or [type(problem).__name__]
    return lines[0][:200]


def own_file(path: Path, folder: Path) -> Path:
    """The path, if what it leads to is the folder's own.

    A link that stays in the folder is, and one to a blob of a Hub cache, whose client stores files
    as `models--O--N/blobs/HASH` and links to them from `models--O--N/snapshots/COMMIT/NAME`. Any
    other would bring in a file that is not of the model: whoever made the folder chooses which.

    **Raises:** `CheckpointError` for a link out of the folder that does not end in a Hub cache.
    """
    real, place = path.resolve(), folder.resolve()
    blobs = place.parent.parent / "blobs" if place.parent.name == "snapshots" else None
    if place in real.parents or real.parent == blobs or in_hub_cache(real):
        return path
    raise CheckpointError(
        "is a link out of the model's folder, which is not followed",
        where=path,
        fix="put the file itself there",
    )


def in_hub_cache(real: Path) -> bool:
    """Whether a path without links is a blob of this user's Hub cache."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return real.parent.name == "blobs" and Path(HF_HUB_CACHE).resolve() in real.parents


def read_bytes(path: Path, error: type[SurgeryError], *, limit: int = LIMIT) -> bytes:
    """A small file as a whole. Raises `error` for a pipe, device or folder, or beyond `limit`."""
    with guard(error, "cannot be read", path):
        # a pipe is opened without waiting for its other end
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
        with file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise error("is not a regular file", where=path)
            data = file.read(limit + 1)
    if len(data) > limit:
        raise error("is too large", where=path, expected=f"at most {limit:,} bytes")
    return data


def read_lines(
    file: BinaryIO, where: object, error: type[SurgeryError], *, limit: int = LIMIT
) -> Iterator[tuple[str, str]]:
    """The lines of an open file of UTF-8 text that are not blank: (where it is, the line)."""
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


def parse_json(text: str | bytes) -> Any:
    """A JSON value from text, strictly, so that nothing later stumbles over it.

    An integer beyond 64 bits becomes a float, as in most parsers.

    **Raises:** ValueError for what is not JSON (NaN and infinities included), names a key twice, is
    nested more than 64 deep, or holds a number beyond any float or half of a surrogate pair.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    large = _LARGE_NUMBER.search(text)
    try:
        value = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_float,
            parse_int=_integer if large else None,
            parse_float=_float if large else None,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if text.count("[") + text.count("{") > _DEPTH:
        _check_depth(value)
    if _SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"names {twice[:60]!r} twice")
    return found


def _integer(digits: str) -> int | float:
    number = int(digits) if len(digits) <= 20 else 2**64
    return number if -(2**63) <= number < 2**63 else _float(digits)


def _float(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:60]} is no number")
    return number


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(_DEPTH):
        level = [
            inner
            for item in level
            if isinstance(item, (dict, list))
            for inner in (item.values() if isinstance(item, dict) else item)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError(f"nested more than {_DEPTH} deep")


def parse_yaml(text: str) -> dict[str, Any]:
    """Values by name; of nothing, none. Raises ValueError for what is no such thing.

    Nor may it refer to parts of itself: a few lines would unfold to more than any memory holds.
    """
    import yaml

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise _AliasError
            return super().compose_node(parent, index)

    try:
        data = yaml.load(text, Loader=Loader)
    except _AliasError:
        raise ValueError("refers to parts of itself (what begins with *)") from None
    except Exception:  # PyYAML stumbles over values that are not of their tag
        data = ""
    data = {} if data is None else data
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise ValueError("is not valid YAML")
    return data


class _AliasError(Exception):
    """In YAML."""
