"""Result files that are either complete or not there."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from surgery.errors import OutputError

__all__ = ["check_writable", "write_lines"]


def check_writable(path: Path) -> None:
    """Raises `OutputError` where `write_lines` could not write, before any work is done."""
    if not path.parent.is_dir():
        reason = "no such folder"
    elif not os.access(path.parent, os.W_OK):
        reason = "the folder is read-only"
    elif path.is_dir():
        reason = "is a folder"
    else:
        return
    raise OutputError("cannot be written", where=path, got=reason)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes lines (a newline is added to each) under `path` once all are written.

    Raises `OutputError` when that is not possible; an earlier file of the name then stays.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OutputError("cannot be written", where=path, got=error.strerror) from error
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in lines)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError as error:
        raise OutputError("cannot be written", where=path, got=error.strerror) from error
    finally:
        Path(temporary).unlink(missing_ok=True)
