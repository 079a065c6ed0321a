"""Identifies a model by content: one hash of its configuration and weights."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import CancelledError, ThreadPoolExecutor
from pathlib import Path
from threading import Event

from surgery.checkpoint.source import Checkpoint, open_checkpoint
from surgery.checkpoint.tensors import is_finite, read_header, read_range
from surgery.errors import CheckpointError
from surgery.privacy import is_in_hub_cache
from surgery.store import Store, find_cache
from surgery.untrusted import guard

_KEPT = 16 << 20  # bytes; hashes of larger files are kept between runs
_SHA256 = re.compile("[0-9a-f]{64}")
_READ = 1 << 20  # bytes at a time: fits the processor's cache

FileState = tuple[int, ...]
"""Device, inode, bytes, and the times of the last change of content and status (ns).

A copy that keeps size and date still changes the inode or the status time."""


def read_states(paths: Iterable[Path]) -> dict[Path, FileState]:
    """Returns the state of each path that is a file. Any later change of the file changes it."""
    return {path: _read_state(path) for path in paths if path.is_file()}


def _read_state(path: Path) -> FileState:
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_unchanged(files: Collection[Path], found: Mapping[Path, FileState], *, fix: str) -> None:
    """Raises `CheckpointError` for a file whose state is no longer the one `found` before."""
    for path in files:
        if (_read_state(path) if path.is_file() else None) != found.get(path):
            raise CheckpointError("changed while it was read", where=path, fix=fix)


def hash_content(model: Path | Checkpoint, known: Mapping[Path, str] = {}) -> str:
    """Returns the SHA-256, hexadecimal, of a model's configuration and weights.

    The hash covers the sorted lines `SHA256 SIZE NAME\\n` of config.json and every weight file.
    `known`: hashes of weight files that the caller has computed. A large file is read again only if
    its state changed, and a file in the Hub's cache is named by its hash.
    """
    checkpoint = open_checkpoint(model) if isinstance(model, Path) else model
    files = [checkpoint.folder / "config.json", *(shard.path for shard in checkpoint.shards)]
    lines = [
        f"{known.get(file) or recall_hash(file)} {file.stat().st_size} {file.name}\n"
        for file in files
    ]
    return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()


def list_files(folder: Path) -> list[Path]:
    """Every file and every link below a folder, in order.

    Raises `CheckpointError` for a folder that cannot be listed: a loader may still open files in it
    by name.
    """

    def fail(error: OSError) -> None:
        raise error

    found: list[Path] = []
    with guard(CheckpointError, "cannot be listed", folder):
        for at, folders, files in os.walk(folder, onerror=fail):
            links = [name for name in folders if Path(at, name).is_symlink()]
            found += [Path(at, name) for name in (*files, *links)]
    return sorted(found)


def hash_file(path: Path, stop: Event | None = None) -> str:
    """Returns the SHA-256 of a file, hexadecimal. Always reads it.

    `stop`: ends the work, with an error, when it is set.
    """
    digest, buffer = hashlib.sha256(), bytearray(_READ)
    with guard(CheckpointError, "cannot be read", path), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            if stop is not None and stop.is_set():
                raise CancelledError  # nobody waits for the result
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def hash_weights(path: Path) -> tuple[str, list[str]]:
    """Reads a safetensors file once. Returns its SHA-256, and which tensors are not finite.

    Raises `CheckpointError` for a damaged file.
    """
    tensors, _ = read_header(path)
    digest, broken = hashlib.sha256(), []
    for piece in read_range(path, 0, path.stat().st_size - sum(t.info.nbytes for t in tensors)):
        digest.update(piece)
    for tensor in tensors:
        finite = True
        for content in tensor.read_pieces():
            digest.update(content)
            finite = finite and is_finite(tensor.info.dtype, content)
        broken += [] if finite else [tensor.info.name]
    return digest.hexdigest(), broken


@contextlib.contextmanager
def hash_beside(paths: Iterable[Path]) -> Iterator[Callable[[], dict[Path, str]]]:
    """Hashes files in a thread while the block runs. Yields a function that waits for the hashes.

    The end of the block stops the thread, in the middle of a file too: an error or Ctrl-C does not
    wait for gigabytes.
    """
    stop = Event()
    with ThreadPoolExecutor(1) as beside:
        hashes = {path: beside.submit(recall_hash, path, stop) for path in paths}
        try:
            yield lambda: {path: found.result() for path, found in hashes.items()}
        finally:
            stop.set()
            beside.shutdown(cancel_futures=True)


def recall_hash(path: Path, stop: Event | None = None) -> str:
    """Returns the SHA-256 of a file, hexadecimal. Reads a large file once per state.

    `stop`: as for `hash_file`.
    """
    real = path.resolve()
    if _SHA256.fullmatch(real.name) and is_in_hub_cache(real):
        return real.name  # the Hub client names large files by their hash
    store, state = Store(find_cache()), _read_state(path)
    if path.stat().st_size < _KEPT:
        return hash_file(path, stop)
    name = hashlib.sha256(os.fsencode(real)).hexdigest()  # the cache tells nobody your paths
    key = ["sha256", name, *state]
    known = store.find(key)
    digest: str = known[0] if known else hash_file(path, stop)
    if known is None and state == _read_state(path):
        store.keep(key, digest)
    return digest
