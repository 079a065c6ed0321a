"""Writes a folder or a file so that it appears under its name only when it is complete.

It is made in a hidden folder of its own beside the target, and renamed last. A run that is killed
may leave that folder, which you may delete. Of processes that share work, the main one writes.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

from surgery.errors import OutputError, SurgeryError
from surgery.processes import by_one, current_processes
from surgery.untrusted import describe_error, parse_json, read_json, read_lines

_HIDDEN = ".attn-surgery-"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
CONFIG = "config.yaml"
"""In a result's folder: the options that repeat it, for `--config`."""
Owned = Callable[[Path], Collection[str]]
"""A folder → fnmatch patterns of what attn-surgery wrote there; none if the folder holds another
kind of result. May raise `SurgeryError`."""


@dataclass(frozen=True)
class OwnFile:
    """A kind of file that attn-surgery writes, and what recognizes one by its content.

    `recognizes` may raise `SurgeryError` or ValueError for any other file.
    """

    kind: str
    recognizes: Callable[[Path], bool]


def recognize_lines(kind: str, *keys: str) -> OwnFile:
    """A file of JSON lines, of which the first has these keys."""

    def recognizes(file: Path) -> bool:
        with file.open("rb") as lines:
            _, line = next(read_lines(lines, file, OutputError), ("", "{}"))
        found = parse_json(line)
        return isinstance(found, dict) and set(keys) <= found.keys()

    return OwnFile(kind, recognizes)


def recognize_by(main: str, keys: Collection[str], *others: str) -> Owned:
    """Recognizes folders by a JSON file `main` with these keys; `others` may be beside it."""
    return lambda folder: (
        (main, CONFIG, *others) if set(keys) <= read_json(folder / main).keys() else ()
    )


@by_one
def check_output(
    target: Path,
    owned: Owned | OwnFile,
    *,
    overwrite: bool = False,
    argument: str = "output",
) -> None:
    """Refuses, before any work, an output that could not be written; leaves no trace.

    `argument`: the target's name in messages. The rest is as for `create_folder`.
    """
    target = target.absolute()
    with explain_os_errors(target):
        _check_free(target, owned, overwrite, argument)
        nearest = _find_existing(target.parent)
        with TemporaryDirectory(prefix=_HIDDEN, dir=nearest) as hidden:
            Path(hidden, target.relative_to(nearest).parts[0]).mkdir()


@by_one
def check_space(target: Path, needed: int) -> None:
    """Refuses, before work that takes long, a disk with less room for the target than `needed`
    bytes."""
    with explain_os_errors(target):
        free = _count_free(target)
    if free < needed:
        raise OutputError(
            "too little space on the disk",
            where=target,
            expected=f"{needed / 1e9:,.1f} GB",
            got=f"{free / 1e9:,.1f} GB",
            fix="free some, or choose another `output`",
        )


@contextmanager
def create_folder(
    target: Path,
    owned: Owned | OwnFile | None,
    *,
    overwrite: bool = False,
    config: str | None = None,
) -> Iterator[Path]:
    """Yields a folder to write into, and renames it to `target` when the block succeeds.

    With `overwrite`, an existing target stays until its successor is on the disk. It is replaced
    only if attn-surgery wrote everything in it. An `OwnFile`: yields a file, and the target is one,
    of that kind if there is one to replace. None: a file of any kind, in a place of ours. `config`:
    the text of config.yaml.

    On processes that only wait for the main one, yields a place that is removed in the end.
    """
    processes, target = current_processes(), target.absolute()
    with processes.apart(), ExitStack() as stack:
        place = None
        if processes.is_main:
            stack.enter_context(explain_os_errors(target))
            stack.enter_context(_create_parents(target))
            _check_free(target, owned, overwrite)
            place = target.parent
        made = Path(stack.enter_context(TemporaryDirectory(prefix=_HIDDEN, dir=place)), "new")
        if _is_folder(owned):
            made.mkdir()
        if config is not None:
            write_text(made / CONFIG, config)
        yield made
        if processes.is_main:
            _check_free(target, owned, overwrite)  # it may have appeared in the meantime
            publish(made, target)


def _is_folder(owned: Owned | OwnFile | None) -> bool:
    return owned is not None and not isinstance(owned, OwnFile)


def publish(made: Path, target: Path) -> None:
    """Gives finished output its name. What had the name is removed, or stays if this fails."""
    if not os.path.lexists(target):
        made.rename(target)
        return
    _sync(made)  # what it replaces must not be lost
    if not made.is_dir():
        made.replace(target)
        return
    hidden = Path(mkdtemp(prefix=_HIDDEN, dir=target.parent))
    try:
        old = target.rename(hidden / "old")
        try:
            made.rename(target)
        except BaseException:
            old.rename(target)
            raise
        _sync(target.parent, deep=False)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        with suppress(OSError):  # it holds what could not be brought back, or removed
            hidden.rmdir()


def write_text(
    target: Path,
    text: str | Iterable[str],
    *,
    overwrite: bool = False,
    owned: OwnFile | None = None,
) -> None:
    """Writes text, or pieces of it, to a file (UTF-8): all of it or nothing.

    Half a surrogate pair is escaped, so that JSON can read it back. `owned`: as for
    `create_folder`.
    """
    with (
        create_folder(target, owned, overwrite=overwrite) as made,
        made.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines([text] if isinstance(text, str) else text)


def write_lines(target: Path, lines: Iterable[str], **options: Any) -> None:
    """Writes lines, each followed by a newline, as `write_text` does, with the same `options`."""
    write_text(target, (f"{line}\n" for line in lines), **options)


@contextmanager
def create_staging(folder: Path) -> Iterator[Path]:
    """Yields a hidden folder beside `folder`, for what is to be put into it; removes it at the
    end."""
    with explain_os_errors(folder):
        beside = Path(os.path.realpath(folder)).parent
        with TemporaryDirectory(prefix=_HIDDEN, dir=beside) as hidden:
            yield Path(hidden)


@contextmanager
def explain_os_errors(target: Path) -> Iterator[None]:
    """Turns an error of the operating system into one line about the target."""
    try:
        yield
    except OSError as error:
        why, fix = describe_error(error), "nothing was left behind"
        file = "" if isinstance(error.filename, int) else os.fsdecode(error.filename or "")
        if file not in ("", str(target)) and _HIDDEN not in file:
            why += f": {file}"
        if error.errno in _FULL:
            with suppress(OSError):
                fix = f"{_count_free(target):,} bytes are free; {fix}"
        raise OutputError(f"cannot write: {why}", where=target, fix=fix) from error


@contextmanager
def _create_parents(target: Path) -> Iterator[None]:
    """Creates the folders above the target, and removes those that are still empty at the end."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:  # deepest first
            with suppress(OSError):
                folder.rmdir()


def _check_free(
    target: Path, owned: Owned | OwnFile | None, overwrite: bool, argument: str = "output"
) -> None:
    elsewhere = f"choose another `{argument}`"
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise OutputError(
            "already exists", where=target, fix=f"{elsewhere} or give `overwrite=True`"
        )
    if (what := _describe_stranger(target, owned)) is not None:
        raise OutputError(f"{what}, so it is not overwritten", where=target, fix=elsewhere)


def _describe_stranger(target: Path, owned: Owned | OwnFile | None) -> str | None:
    """Says what at the target attn-surgery did not write; None if there is nothing."""
    is_folder = _is_folder(owned)
    if target.is_symlink() or not (target.is_dir() if is_folder else target.is_file()):
        return f"is not a {'folder' if is_folder else 'file'}"
    if isinstance(owned, OwnFile):
        with suppress(SurgeryError, ValueError):
            if not target.stat().st_size or owned.recognizes(target):
                return None
        return f"is not {owned.kind} that attn-surgery wrote"
    if owned is None:
        return None
    try:
        name = _find_stranger(target, owned(target))
    except SurgeryError as error:
        return str(error)
    return name and f"holds {name}, which attn-surgery did not write"


def _find_stranger(folder: Path, owned: Collection[str]) -> str | None:
    """The first file or link that matches no pattern; None if there is none."""

    def fail(error: OSError) -> None:
        raise error

    for at, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        links = [name for name in folders if Path(at, name).is_symlink()]
        for path in sorted(Path(at, name) for name in files + links):
            name = path.relative_to(folder).as_posix()
            if not any(fnmatchcase(name, pattern) for pattern in owned):
                return name
    return None


def _sync(path: Path, *, deep: bool = True) -> None:
    """Flushes a file, or a folder and everything in it, to disk."""
    for inner in path.iterdir() if deep and path.is_dir() else ():
        _sync(inner)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that does not support it
            raise
    finally:
        os.close(file)


def _count_free(target: Path) -> int:
    """Free bytes on the disk of the target."""
    return shutil.disk_usage(_find_existing(target.absolute())).free


def _find_existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.path.lexists(place))
