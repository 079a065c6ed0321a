"""Keeps finished parts of a long command on disk: `keep(folder, question).get(part, compute)`.

Question and part are whatever decides the result: versions, code, model, data, options. Their
hashes name the files. Nobody lists what identifies a value: `identify` reads that off the value.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, singledispatch
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel

from surgery.privacy import expand_home
from surgery.processes import ALONE, by_one, current_processes, use_processes

Value = TypeVar("Value")
ASIDE = {"decides": False}
"""Metadata of the field of a dataclass that decides no result, or is identified by other fields."""
_BROKEN = (OSError, ValueError, LookupError, TypeError, RecursionError)


def find_cache() -> Path:
    """Returns $ATTN_SURGERY_CACHE, else attn-surgery in $XDG_CACHE_HOME or ~/.cache."""
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand_home(os.environ.get("ATTN_SURGERY_CACHE") or f"{general}/attn-surgery")


@dataclass(frozen=True)
class Store:
    """Finished parts of the answer to a question, in a folder; None keeps nothing.

    A missing, damaged, or foreign file, and a folder that cannot be written, only mean that work is
    done again.
    """

    folder: Path | None = None
    question: str = ""

    def narrow(self, *more: Any) -> Store:
        """Parts of the answer to a question that also has `more`. Every process must call this."""
        if self.folder is None:
            return self
        return replace(self, question=hash_question(self.question, *more))

    def get(self, part: Any, compute: Callable[[], Value], *kinds: type) -> Value:
        """What was kept of a part, else what `compute` returns, which is then kept.

        - `kinds`: the dataclasses that the value is made of, beside JSON, tuples, mappings, and
          arrays.

        The current processes compute together, and the main one reads and writes: each must call
        this.
        """
        if self.folder is None:
            return compute()
        processes = current_processes()
        known, file = None, Path()
        if processes.is_main:
            with use_processes(ALONE):
                file = self.folder / self.question / f"{hash_question(part)}.json"
            known = _read(file, kinds)
        if (known := processes.agree(known)) is not None:
            return known[0]  # type: ignore[no-any-return]
        value = compute()
        if processes.is_main:
            self.write(file, value)
        return value

    def write(self, file: Path, value: Any) -> None:
        """Writes a part, whole or not at all. Only you can read it: it may hold passages."""
        assert self.folder is not None
        text = json.dumps(_to_plain(value))
        with suppress(OSError):
            for folder in (self.folder, file.parent):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            with TemporaryDirectory(prefix=".", dir=file.parent) as hidden:
                made = Path(hidden, "new")
                made.write_text(text)
                made.replace(file)


KEEP_NOTHING = Store()


def keep(folder: Path | None, *question: Any) -> Store:
    """Parts of the answer to a question."""
    return Store(folder).narrow(*question)


@by_one
def hash_question(*parts: Any) -> str:
    """SHA-256 of all that identifies the parts. Every process must call this."""
    return hashlib.sha256(json.dumps(identify(parts), sort_keys=True).encode()).hexdigest()


@singledispatch
def identify(thing: Any) -> Any:
    """Turns what a piece of work takes into plain JSON: equal for equal work.

    Arrays become hashes, and dataclasses and records their fields, but for those that are `ASIDE`.
    Raises TypeError for what has no rule here or where it is defined.
    """
    match thing:
        case None | str() | int() | float():
            return thing
        case np.generic():
            return thing.item()
        case np.ndarray():
            content = np.ascontiguousarray(thing).tobytes()
            return [thing.dtype.str, list(thing.shape), hashlib.sha256(content).hexdigest()]
        case Mapping():
            return [[identify(key), identify(value)] for key, value in thing.items()]
        case list() | tuple():
            return [identify(one) for one in thing]
        case BaseModel():
            return {name: identify(value) for name, value in thing}
    if is_dataclass(thing):
        counting = (field for field in fields(thing) if field.metadata.get("decides", True))
        return {one.name: identify(getattr(thing, one.name)) for one in counting}
    raise TypeError(f"nothing says what identifies {type(thing).__name__}")


@cache
def hash_program() -> str:
    """SHA-256 of this program's own code, which may change while its version stays."""
    found = hashlib.sha256()
    for package in ("evals", "surgery"):
        root = Path(str(sys.modules[package].__file__)).parent
        for file in sorted(root.rglob("*.py")):
            found.update(f"{package}/{file.relative_to(root).as_posix()}\n".encode())
            found.update(hashlib.sha256(file.read_bytes()).digest())
    return found.hexdigest()


def _read(file: Path, kinds: tuple[type, ...]) -> tuple[Any] | None:
    """The one value in a file; None if there is none."""
    made = {kind.__name__: kind for kind in kinds}
    with suppress(*_BROKEN):
        return (json.loads(file.read_text(), object_hook=lambda plain: _from_plain(plain, made)),)
    return None


def _to_plain(thing: Any) -> Any:
    """JSON of a value, from which `_from_plain` makes it again."""
    match thing:
        case np.ndarray():
            content = base64.b64encode(thing.tobytes()).decode()
            return {"$array": [thing.dtype.str, list(thing.shape), content]}
        case np.generic():
            return thing.item()
        case Mapping():
            if all(isinstance(key, str) and not key.startswith("$") for key in thing):
                return {key: _to_plain(value) for key, value in thing.items()}
            return {"$pairs": [[_to_plain(key), _to_plain(value)] for key, value in thing.items()]}
        case tuple():
            return {"$tuple": [_to_plain(one) for one in thing]}
        case list():
            return [_to_plain(one) for one in thing]
    if is_dataclass(thing):
        values = {field.name: _to_plain(getattr(thing, field.name)) for field in fields(thing)}
        return {"$made": [type(thing).__name__, values]}
    return thing


def _from_plain(plain: dict[str, Any], kinds: Mapping[str, type]) -> Any:
    """The inverse of `_to_plain`, for one object of JSON. Makes nothing but `kinds`."""
    match plain:
        case {"$array": [kind, shape, content]}:
            return np.frombuffer(base64.b64decode(content), dtype=np.dtype(kind)).reshape(shape)
        case {"$made": [name, values]}:
            return kinds[name](**values)
        case {"$pairs": pairs}:
            return dict(pairs)
        case {"$tuple": values}:
            return tuple(values)
    return plain
