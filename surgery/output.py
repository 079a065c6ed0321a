"""Writes a folder or a file so that it appears under its name only when it is complete.

Output goes to a hidden name beside the target, is flushed to disk, and is renamed at the end. A
lock file keeps other processes out. The next run removes what a killed run left behind.
Of processes that share work, the main one writes, and the others wait for it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from surgery.errors import CheckpointError, OutputError, SurgeryError
from surgery.privacy import expand_home
from surgery.processes import by_one, current_processes
from surgery.untrusted import describe_error, parse_json, read_json, read_lines

_OURS = ".{}.attn-surgery-{}"  # names that nobody else uses
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NEAR = 512  # bytes
_PATIENCE = 0.5  # seconds; clearing leftovers holds a lock for less

_STAGING = "staging"  # a manifest accounts for what a killed run left of it
CONFIG = "config.yaml"
"""In a result's folder: the options that repeat it, for `--config`."""
Owned = Callable[[Path], Collection[str]]
"""A folder → fnmatch patterns of what attn-surgery wrote there; none if the folder holds another
kind of result. May raise `SurgeryError`."""


@dataclass(frozen=True)
class OwnFile:
    """A kind of file that attn-surgery writes, and what recognizes one by its content.

    `recognizes` may raise `SurgeryError` or ValueError for any other file. An empty file is no
    loss.
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


def recognize_mark(kind: str, mark: bytes) -> OwnFile:
    """A file with these bytes near its beginning or its end."""

    def recognizes(file: Path) -> bool:
        with file.open("rb") as content:
            first = content.read(_NEAR)
            content.seek(max(0, file.stat().st_size - _NEAR))
            return mark in first or mark in content.read(_NEAR)

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
    reads: Iterable[str | Path | None] = (),
) -> None:
    """Refuses, before any work, an output that could not be written; leaves no trace.

    First removes what killed runs left beside the target. `argument`: the target's name in
    messages. `reads`: names of inputs, which are not overwritten. The rest is as for
    `create_folder`.
    """
    target = target.absolute()
    for named in reads:
        if named is not None and _is_part_of(target, str(expand_home(named))):
            raise OutputError(
                "is an input of the same command, so it is not overwritten",
                where=target,
                fix=f"choose another `{argument}`",
            )
    with explain_os_errors(target):
        nearest = _find_existing(target.parent)
        clear_leftovers(nearest)
        _check_free(target, owned, overwrite, argument)
        first = target.relative_to(nearest).parts[0]  # what is to be made there
        with claim(nearest / first):
            pass


def _is_part_of(target: Path, named: str) -> bool:
    """Whether an input that is there is the target, or is a folder around it. It may name a
    column after a colon, and there may be two, with a comma between them."""
    parts = [Path(one) for one in (named, named.rpartition(":")[0], *named.split(",")) if one]
    known = [os.path.realpath(part) for part in parts if os.path.lexists(part)]
    real = Path(os.path.realpath(target))  # which raises nothing for a link to itself
    return target.exists() and any(real.is_relative_to(one) for one in known)


@by_one
def check_space(
    target: Path, needed: int, fix: str = "free some, or choose another `output`"
) -> None:
    """Raises `OutputError`, before work that takes long, if the disk has less room for the target.

    `needed`: in bytes.
    """
    with explain_os_errors(target):
        free = shutil.disk_usage(_find_existing(target.absolute().parent)).free
    if free < needed:
        raise OutputError(
            "too little space on the disk",
            where=target,
            expected=f"{needed / 1e9:,.1f} GB",
            got=f"{free / 1e9:,.1f} GB",
            fix=fix,
        )


@contextlib.contextmanager
def create_folder(
    target: Path,
    owned: Owned | OwnFile | None,
    *,
    overwrite: bool = False,
    config: str | None = None,
) -> Iterator[Path]:
    """Yields a folder to write into, and renames it to `target` when the block succeeds.

    With `overwrite`, an existing target stays untouched until the new one is complete. It is
    replaced only if attn-surgery wrote everything in it. An `OwnFile`: yields a file, and the
    target is one, of that kind if there is one to replace. None: a file of any kind, in a place of
    ours. `config`: the text of config.yaml.

    On processes that only wait for the main one, yields a place that is removed in the end.

    **Raises:** `OutputError` if the target exists and may not be replaced, cannot be written, or is
    being written by another process.
    """
    processes = current_processes()
    with processes.apart(), contextlib.ExitStack() as stack:
        if processes.is_main:
            yield stack.enter_context(_create(target, owned, overwrite, config))
        else:
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            yield scratch if _is_folder(owned) else scratch / target.name


@contextlib.contextmanager
def _create(
    target: Path, owned: Owned | OwnFile | None, overwrite: bool, config: str | None
) -> Iterator[Path]:
    target = target.absolute()
    with explain_os_errors(target), create_parents(target), claim(target) as partial:
        _check_free(target, owned, overwrite)
        if _is_folder(owned):
            partial.mkdir()
        if config is not None:
            write_text(partial / CONFIG, config)
        yield partial
        _check_free(target, owned, overwrite)  # it may have appeared in the meantime
        if target.exists():  # what it replaces must not be lost
            _sync(partial)
        publish(partial, target)


def _is_folder(owned: Owned | OwnFile | None) -> bool:
    return owned is not None and not isinstance(owned, OwnFile)


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
        create_folder(target, owned, overwrite=overwrite) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace") as file,
    ):
        file.writelines([text] if isinstance(text, str) else text)


def write_lines(target: Path, lines: Iterable[str], **options: Any) -> None:
    """Writes lines, each followed by a newline, as `write_text` does, with the same `options`."""
    write_text(target, (f"{line}\n" for line in lines), **options)


@contextlib.contextmanager
def create_staging(folder: Path) -> Iterator[Path]:
    """Yields a hidden folder inside `folder`, and removes it at the end."""
    with explain_os_errors(folder), claim(folder / _STAGING) as staging:
        staging.mkdir()
        yield staging


@contextlib.contextmanager
def explain_os_errors(target: Path) -> Iterator[None]:
    """Turns errors of the operating system into one line, about the target or what was read.

    Our own errors pass, and call unfinished files by the names that they were to get.
    """
    try:
        yield
    except SurgeryError as error:
        if (shown := _name_finished(error, target)) is not error:
            raise shown from error
        raise
    except OSError as error:
        why, named = describe_error(error), error.filename
        file = target if named is None or isinstance(named, int) else Path(os.fsdecode(named))
        if not _is_of(file, target) and error.errno not in (*_FULL, errno.EROFS):
            raise CheckpointError("cannot be read", where=file, got=why) from error
        if file != target and not is_unfinished(file):
            why += f": {file}"
        fix = "nothing was left behind"
        if error.errno in _FULL:
            with contextlib.suppress(OSError):
                fix = f"{shutil.disk_usage(_find_existing(target)).free:,} bytes are free; {fix}"
        raise OutputError(f"cannot write: {why}", where=target, fix=fix) from error


def _is_of(file: Path, target: Path) -> bool:
    """Whether a file is the target, in it, above it, or on the way to it."""
    file, target = file.absolute(), target.absolute()
    return is_unfinished(file) or target in (file, *file.parents) or file in target.parents


def _name_finished(error: SurgeryError, target: Path) -> SurgeryError:
    """Returns an error without hidden names; the error itself if it has none.

    What lies in the target's own hidden folder gets its final name. Anything else that is hidden
    was made on the way to the target, which stands for it.
    """
    hidden, where = str(_make_hidden(target.absolute(), "partial")), error.where
    parts: dict[str, Any] = {
        name: str(part).replace(hidden, str(target)) if hidden in str(part) else part
        for name, part in vars(error).items()
    }
    if isinstance(where, str | Path) and is_unfinished(Path(parts["where"])):
        parts["where"] = target
    return error if parts == vars(error) else type(error)(**parts)


@contextlib.contextmanager
def claim(target: Path) -> Iterator[Path]:
    """Locks `target` for this process, and yields a hidden path beside it to write to.

    Removes what a killed run left there, and whatever is at the hidden path at the end.
    """
    partial, old, path = (_make_hidden(target, what) for what in ("partial", "old", "lock"))
    lock = FileLock(path, timeout=_PATIENCE)
    os.scandir(target.parent).close()  # raises a clearer error than the lock would
    try:
        lock.acquire()
    except Timeout:
        raise OutputError("another process is writing it", where=target) from None
    try:
        if old.exists() and not os.path.lexists(target):  # killed between two renames
            old.rename(target)
        _remove(old)
        _remove(partial)
        yield partial
    finally:
        with contextlib.suppress(OSError):
            _remove(partial)
            path.unlink()
        lock.release()


@contextlib.contextmanager
def create_parents(target: Path) -> Iterator[None]:
    """Creates the folders above the target, and removes those that are still empty at the end."""
    missing = [folder for folder in target.parents if not folder.exists()]
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for folder in missing:  # deepest first
            with contextlib.suppress(OSError):
                folder.rmdir()


def is_unfinished(path: Path) -> bool:
    """Whether a path is in unfinished output, which the next run removes."""
    names = [_OURS.format("?*", what) for what in ("partial", "old", "lock")]
    return any(fnmatchcase(part, name) for part in path.parts for name in names)


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
    kind, known = ("folder", target.is_dir()) if _is_folder(owned) else ("file", target.is_file())
    what = _describe_stranger(target, owned) if owned is not None and known else None
    if target.is_symlink() or not known:
        what = f"is not a {kind}"
    if what is not None:
        raise OutputError(f"{what}, so it is not overwritten", where=target, fix=elsewhere)


def _describe_stranger(target: Path, owned: Owned | OwnFile) -> str | None:
    """Says what in a file or folder attn-surgery did not write; None if there is nothing."""
    if isinstance(owned, OwnFile):
        with contextlib.suppress(SurgeryError, ValueError):
            if not target.stat().st_size or owned.recognizes(target):
                return None
        return f"is not {owned.kind} that attn-surgery wrote"
    try:
        return _find_stranger(target, owned(target))
    except SurgeryError as error:
        return str(error)


def _find_stranger(folder: Path, owned: Collection[str]) -> str | None:
    """Describes the first file or link that matches no pattern; None if there is none."""

    def fail(error: OSError) -> None:
        raise error

    for at, folders, files in os.walk(folder, onerror=fail):
        folders.sort()
        links = [name for name in folders if Path(at, name).is_symlink()]
        for name in sorted(files + links):
            path = Path(at, name).relative_to(folder)
            known = any(fnmatchcase(path.as_posix(), pattern) for pattern in owned)
            if not (known or is_unfinished(path)):
                return f"holds {path}, which attn-surgery did not write"
    return None


def clear_leftovers(folder: Path) -> None:
    """Removes what killed runs left in a folder, as far as it can be removed.

    Brings an old output back whose place is free. In the folder of a model, whose author may be
    anyone, all stays as it is: what came back there would be loaded.
    """
    if os.path.lexists(folder / "config.json"):
        return
    left = (path.name for what in ("lock", "old") for path in folder.glob(_OURS.format("?*", what)))
    for name in sorted({name[1:].rpartition(".")[0] for name in left}):
        with contextlib.suppress(OSError, OutputError), claim(folder / name):
            pass


def publish(partial: Path, target: Path) -> None:
    """Renames finished output to its target. An old folder then has the name of `partial`.

    Between the two steps the old folder is hidden, and the next run brings it back.
    """
    if partial.is_file() or not target.exists():
        partial.replace(target)
    else:
        old = _make_hidden(target, "old")
        target.rename(old)
        try:
            partial.rename(target)
        except BaseException:
            old.rename(target)
            raise
        old.rename(partial)
    _sync(target.parent, deep=False)


def _make_hidden(target: Path, what: str) -> Path:
    return target.with_name(_OURS.format(target.name, what))


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


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _find_existing(path: Path) -> Path:
    return next(place for place in (path, *path.parents) if os.path.lexists(place))
