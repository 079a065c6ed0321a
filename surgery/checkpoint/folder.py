"""An output folder that appears under its name only when it is complete.

Everything is written into a hidden sibling, `.NAME.partial`, held by an advisory lock, and renamed
at the end. A killed run leaves only that sibling, which the next run removes.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from surgery.errors import OutputError

_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_CURRENT_FOLDER = -100  # AT_FDCWD
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def atomic_folder(target: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Yields a folder to write into; renames it to `target` when the block ends well.

    With `overwrite` an existing target stays untouched until the new one is whole, then the two
    change places at once and the old one is removed. Without it, an existing target is refused.

    **Raises:** `OutputError` when the target exists, cannot be written, or is being written by
    another process.
    """
    target = target.absolute()
    partial, _ = hidden_siblings(target)
    with writing(target):
        check_free(target, overwrite=overwrite)
        with _parents(target):
            partial.mkdir(exist_ok=True)
            with _locked(partial, target):
                try:
                    _empty(partial)
                    yield partial
                    _publish(partial, target, overwrite=overwrite)
                except BaseException:
                    shutil.rmtree(partial, ignore_errors=True)
                    raise


def hidden_siblings(target: Path) -> tuple[Path, Path]:
    """Where a folder is written before it is whole, and where an old one may step aside to."""
    return target.parent / f".{target.name}.partial", target.parent / f".{target.name}.old"


def check_free(target: Path, *, overwrite: bool) -> None:
    """Refuses a target that exists, before any work is done."""
    if not target.exists() and not target.is_symlink():
        return
    if not overwrite:
        raise OutputError(
            "already exists", where=target, fix="choose another `output` or give `overwrite=True`"
        )
    if not target.is_dir() or target.is_symlink():
        raise OutputError("is not a folder, so it is not overwritten", where=target)
    if any(target.iterdir()) and not (target / "config.json").is_file():
        raise OutputError(
            "holds no model, so `overwrite=True` does not replace it",
            where=target,
            fix="choose another `output`",
        )


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turns the operating system's refusals into one line about the target."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        if error.filename is not None and Path(os.fsdecode(error.filename)) != target:
            reason += f": {os.fsdecode(error.filename)}"
        fix = "nothing was left behind"
        if error.errno in _FULL:
            with contextlib.suppress(OSError):
                fix = f"{shutil.disk_usage(_existing(target)).free:,} bytes are free; {fix}"
        raise OutputError(f"cannot write: {reason}", where=target, fix=fix) from error


def _publish(partial: Path, target: Path, *, overwrite: bool) -> None:
    check_free(target, overwrite=overwrite)  # again: it may have appeared meanwhile
    if not target.exists():
        partial.rename(target)
        return
    with _locked(target, target):  # it goes to the hidden name, where another run would reuse it
        if _exchange(partial, target):
            shutil.rmtree(partial)
        else:
            _replace(partial, target)


def _replace(partial: Path, target: Path) -> None:
    """Where the system cannot exchange two folders: the old one steps aside for a moment."""
    _, old = hidden_siblings(target)
    shutil.rmtree(old, ignore_errors=True)
    target.rename(old)
    try:
        partial.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old)


@contextlib.contextmanager
def _locked(folder: Path, target: Path) -> Iterator[None]:
    """Holds the advisory lock of a folder, which must still be the one under that name."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    lock = os.open(folder, flags)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = folder.exists() and os.path.samestat(os.fstat(lock), folder.stat())
        except BlockingIOError:
            free = False
        if not free:
            raise OutputError("another process is writing this folder", where=target)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _parents(target: Path) -> Iterator[None]:
    """Creates the folders above the target, and takes them back when the block fails."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for folder in missing:  # deepest first; one that is in use by now stays
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _exchange(one: Path, other: Path) -> bool:
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    arguments = (_CURRENT_FOLDER, os.fsencode(one), _CURRENT_FOLDER, os.fsencode(other), _EXCHANGE)
    return bool(renameat2(*arguments) == 0)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
