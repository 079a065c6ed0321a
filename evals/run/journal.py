"""Files for measurements: a journal, from which killed work continues, and arrays as JSON."""

from __future__ import annotations

import base64
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import numpy.typing as npt

from surgery.errors import SamplesError
from surgery.output import claim, create_parents, explain_os_errors
from surgery.untrusted import guard, parse_json, read_lines

Step = TypeVar("Step")
_REMOVE = "remove it to begin anew, or choose another `output`"


class Journal:
    """A file of JSON lines: first the settings of the work, then one line for each finished step.

    A step counts if its line is complete; an incomplete last line is cut off. `check` runs before
    each step and raises if the step must not be kept. Without a path it keeps nothing.
    """

    def __init__(
        self,
        path: Path | None = None,
        settings: Mapping[str, Any] | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._path, self._settings = path, json.loads(json.dumps(settings))
        self._check = check
        self._complete = 0
        self._file: IO[bytes] | None = None

    def read(self, parse: Callable[[Any], Step]) -> list[Step]:
        """Reads the finished steps of an earlier run, in order, each parsed by `parse`."""
        lines = []
        self._complete = 0
        if self._path is None:
            return []
        if self._path.is_file():
            with self._path.open("rb") as file:
                for where, line in read_lines(file, self._path, SamplesError):
                    if not line.endswith("\n"):
                        break
                    self._complete = file.tell()
                    with guard(SamplesError, "is damaged", where, fix=_REMOVE):
                        lines.append(parse_json(line))
        if len(lines) < 2:  # no finished step: nothing to continue or to protect
            self._complete = 0
        elif lines[0] != self._settings:
            what = "holds the progress of a run with other inputs, options, or code"
            raise SamplesError(what, where=self._path, fix=_REMOVE)
        with guard(SamplesError, "is damaged", self._path, fix=_REMOVE):
            return [parse(line) for line in lines[1:]]

    @property
    def earlier(self) -> dict[str, Any]:
        """The settings of the work that the file holds, if any. Raises `SamplesError`."""
        if self._path is None or not self._path.is_file():
            return {}
        with self._path.open("rb") as file, guard(SamplesError, "is damaged", self._path, _REMOVE):
            _, line = next(read_lines(file, self._path, SamplesError), ("", ""))
            return dict(parse_json(line)) if line.endswith("\n") else {}

    @property
    def continues(self) -> bool:
        """Whether the file holds work with the same settings, or none is there."""
        if self._path is None or not self._path.is_file():
            return True
        with self._path.open("rb") as file:
            begins = file.readline()
        return begins == json.dumps(self._settings).encode() + b"\n"

    @contextmanager
    def open_to_append(self) -> Iterator[None]:
        """Opens the file for `append`, after the steps that `read` found.

        Work that fails before its first step leaves no file. Raises `OutputError`, also if another
        process has it open.
        """
        if self._path is None:
            yield
            return
        with ExitStack() as stack:
            with explain_os_errors(self._path):
                stack.enter_context(create_parents(self._path))
                self._path.touch()
                stack.enter_context(claim(self._path))
                file = stack.enter_context(self._path.open("r+b"))
            self._file = file
            file.truncate(self._complete)
            file.seek(self._complete)
            if not self._complete:
                self.append(self._settings)
            begun = file.tell()
            try:
                yield
            except BaseException:
                if not self._complete and file.tell() == begun:
                    self.remove()
                raise

    def append(self, step: dict[str, Any]) -> None:
        """Records a step, inside `open_to_append`."""
        if self._path is None:
            return
        assert self._file is not None
        self._check()
        self._file.write(json.dumps(step).encode() + b"\n")
        self._file.flush()

    def remove(self) -> None:
        """Removes the file, because the work is done."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


KEEP_NOTHING = Journal()


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


def arrays_as_json(columns: Mapping[str, npt.NDArray[Any]]) -> dict[str, list[Any]]:
    """Turns name → array into name → its dtype, shape, and bytes in base 64."""
    return {
        name: [values.dtype.str, list(values.shape), base64.b64encode(values.tobytes()).decode()]
        for name, values in columns.items()
    }


def arrays_from_json(stored: Mapping[str, list[Any]]) -> dict[str, npt.NDArray[Any]]:
    """The inverse of `arrays_as_json`."""
    return {
        name: np.frombuffer(base64.b64decode(data), dtype=np.dtype(kind)).reshape(shape)
        for name, (kind, shape, data) in stored.items()
    }
