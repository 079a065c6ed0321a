"""Keeps finished work on disk, under what it was made from, so that nothing is computed twice.

The name of a file is a hash of its key: the library versions and the code, the model, the data, and
whatever else a piece of work takes. Files hold key and value. Nobody lists what identifies a piece
of work: `identify` reads that off the values themselves.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, singledispatch
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from filelock import FileLock
from pydantic import BaseModel

from surgery.own_code import hash_code, is_path
from surgery.privacy import expand_home
from surgery.processes import ALONE, current_processes, use_processes

Value = TypeVar("Value")
ASIDE = {"decides": False}
"""Metadata of the field of a dataclass that decides no result, or is identified by other fields."""
_BROKEN = (OSError, EOFError, ValueError, RecursionError, LookupError, TypeError, zlib.error)


def find_cache() -> Path:
    """Returns $ATTN_SURGERY_CACHE, else attn-surgery in $XDG_CACHE_HOME or ~/.cache."""
    general = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expand_home(os.environ.get("ATTN_SURGERY_CACHE") or f"{general}/attn-surgery")


@dataclass(frozen=True)
class Store:
    """A folder of finished work, which commands and machines may share; None keeps nothing.

    - `given`: what the key of every piece of work has, as plain JSON or its hash.

    A file is written whole or not at all. A missing, damaged, or foreign file, and a folder that
    cannot be written, only mean that work is done again.
    """

    folder: Path | None = None
    given: tuple[Any, ...] = ()

    def narrow(self, *given: Any) -> Store:
        """A store of work that also takes `given`. Every process must call this."""
        if self.folder is None:
            return self
        digest = current_processes().once(lambda: _hash_json(identify(given)))
        return replace(self, given=(*self.given, digest))

    def get(self, key: Any, compute: Callable[[], Value], *kinds: type) -> Value:
        """What was kept under `key`, else what `compute` returns, which is then kept.

        - `key`: anything that `identify` takes. `kinds`: the dataclasses that the value is made of,
          beside JSON, tuples, mappings, and arrays.

        Waits while another command or machine computes the same. The current processes compute
        together, and the main one reads and writes: each must call this.
        """
        if self.folder is None:
            return compute()
        processes = current_processes()
        with contextlib.ExitStack() as stack:
            known = None
            if processes.is_main:
                with use_processes(ALONE):
                    plain = identify(key)
                stack.enter_context(_hold(self._locate(plain)))
                known = self.find(plain, *kinds)
            if (known := processes.agree(known)) is not None:
                return known[0]  # type: ignore[no-any-return]
            value = compute()
            if processes.is_main:
                self.keep(plain, value)
        return value

    def find(self, key: Any, *kinds: type) -> tuple[Any] | None:
        """The one value that is kept under a plain key, if any, without waiting for anyone."""
        made = {kind.__name__: kind for kind in kinds}
        if self.folder is not None:
            with contextlib.suppress(*_BROKEN), gzip.open(self._locate(key), "rt") as file:
                stored = json.load(file, object_hook=lambda plain: _from_plain(plain, made))
                if stored["key"] == self._complete(key):
                    return (stored["value"],)
        return None

    def keep(self, key: Any, value: Any) -> None:
        """Keeps a value under a plain key, if the folder can be written."""
        if self.folder is None:
            return
        place = self._locate(key)
        partial = place.with_suffix(".partial")
        text = json.dumps({"key": self._complete(key), "value": _to_plain(value)})
        try:
            _make_folders(place)
            partial.write_bytes(gzip.compress(text.encode(), compresslevel=1))
            partial.replace(place)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink()

    def name(self, key: Any) -> str:
        """SHA-256 of all that identifies a piece of work; `key` as for `get`. Every process must
        call this."""
        return current_processes().once(lambda: self._name(identify(key)))

    def _name(self, plain: Any) -> str:
        return _hash_json(self._complete(plain))

    def _complete(self, key: Any) -> Any:
        return [*self.given, key]

    def _locate(self, key: Any) -> Path:
        assert self.folder is not None
        name = self._name(key)
        return self.folder / name[:2] / f"{name}.json.gz"


KEEP_NOTHING = Store()


def _hash_json(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def _make_folders(place: Path) -> None:
    """Makes the folders of a file, which only you can read: it may hold passages."""
    for folder in (place.parent.parent, place.parent):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)


@contextlib.contextmanager
def _hold(place: Path) -> Iterator[None]:
    """Waits until no other process holds the place. A process that is killed holds nothing."""
    lock = FileLock(place.with_suffix(".lock"))
    with contextlib.suppress(OSError, NotImplementedError):  # where no lock can be made
        _make_folders(place)
        lock.acquire()
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):
                Path(lock.lock_file).unlink()
            lock.release()


@singledispatch
def identify(thing: Any) -> Any:
    """Turns what a piece of work takes into plain JSON: equal for equal work.

    Arrays and code of your own become hashes, and dataclasses and records their fields, but for
    those that are `ASIDE`. Raises TypeError for what has no rule here or where it is defined.
    """
    if is_dataclass(thing):
        counting = (field for field in fields(thing) if field.metadata.get("decides", True))
        return {one.name: identify(getattr(thing, one.name)) for one in counting}
    raise TypeError(f"nothing says what identifies {type(thing).__name__}")


@identify.register(int)
@identify.register(float)
@identify.register(type(None))
def _(thing: Any) -> Any:
    return thing


@identify.register
def _(thing: np.generic) -> Any:
    return thing.item()


@identify.register
def _(thing: str) -> Any:
    is_own = is_path(thing) and thing.partition(":")[0] in sys.modules
    return [thing, _hash_own(thing)] if is_own else thing


@identify.register
def _(thing: np.ndarray) -> Any:
    content = np.ascontiguousarray(thing).tobytes()
    return [thing.dtype.str, list(thing.shape), hashlib.sha256(content).hexdigest()]


@identify.register
def _(thing: Mapping) -> Any:  # type: ignore[type-arg]
    return [[identify(key), identify(value)] for key, value in thing.items()]


@identify.register(list)
@identify.register(tuple)
def _(thing: Any) -> Any:
    return [identify(one) for one in thing]


@identify.register
def _(thing: BaseModel) -> Any:
    return {name: identify(value) for name, value in thing}


_hash_own = cache(hash_code)


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


def _to_plain(thing: Any) -> Any:
    """JSON of a value, from which `_from_plain` makes it again."""
    if isinstance(thing, np.ndarray):
        content = base64.b64encode(thing.tobytes()).decode()
        return {"$array": [thing.dtype.str, list(thing.shape), content]}
    if isinstance(thing, np.generic):
        return thing.item()
    if is_dataclass(thing):
        values = {field.name: _to_plain(getattr(thing, field.name)) for field in fields(thing)}
        return {"$made": [type(thing).__name__, values]}
    if isinstance(thing, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in thing):
            return {key: _to_plain(value) for key, value in thing.items()}
        return {"$pairs": [[_to_plain(key), _to_plain(value)] for key, value in thing.items()]}
    if isinstance(thing, tuple):
        return {"$tuple": [_to_plain(one) for one in thing]}
    return [_to_plain(one) for one in thing] if isinstance(thing, list) else thing


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
