"""Identifies a model by content: one hash of its configuration and weights."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path

from surgery.checkpoint.source import Checkpoint, open_checkpoint
from surgery.checkpoint.tensors import Bytes, StoredTensor, is_finite, read_header, read_range
from surgery.errors import CheckpointError
from surgery.privacy import is_in_hub_cache
from surgery.store import Store, find_cache
from surgery.untrusted import reraise_as

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
    with reraise_as(CheckpointError, "cannot be listed", folder):
        for at, folders, files in os.walk(folder, onerror=fail):
            links = [name for name in folders if Path(at, name).is_symlink()]
            found += [Path(at, name) for name in (*files, *links)]
    return sorted(found)


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file, hexadecimal. Always reads it."""
    digest, buffer = hashlib.sha256(), bytearray(_READ)
    with reraise_as(CheckpointError, "cannot be read", path), path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
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


class CopiedFile:
    """A weight file that is hashed, on the thread `beside`, from what a copy reads of it anyway."""

    def __init__(self, path: Path, beside: Executor) -> None:
        self.path, self._beside = path, beside
        self._state = _read_state(path)
        self._known = _find_hash(path, self._state)
        self._digest, self._hashed = hashlib.sha256(), 0  # the first bytes of the file

    def read(self, tensor: StoredTensor, at: int) -> Iterator[Bytes]:
        """Yields the bytes of a tensor, which begins at byte `at` of the file."""
        self._read_up_to(at)
        for piece in tensor.read_pieces():
            is_next = at == self._hashed and self._known is None
            hashed = self._beside.submit(self._digest.update, piece) if is_next else None
            yield piece
            at += len(piece)
            if hashed is not None:
                hashed.result()
                self._hashed = at

    def finish(self) -> str:
        """Returns the SHA-256 of the whole file, hexadecimal, and remembers it."""
        if self._known is None:
            self._read_up_to(self._state[2])
            self._known = self._digest.hexdigest()
            _keep_hash(self.path, self._state, self._known)
        return self._known

    def _read_up_to(self, end: int) -> None:
        """Hashes what the copy leaves out: the header, and tensors that do not stay."""
        if self._known is None and end > self._hashed:
            for piece in read_range(self.path, self._hashed, end - self._hashed):
                self._digest.update(piece)
            self._hashed = end


def recall_hash(path: Path) -> str:
    """Returns the SHA-256 of a file, hexadecimal. Reads a large file once per state."""
    state = _read_state(path)
    digest = _find_hash(path, state)
    if digest is None:
        digest = hash_file(path)
        _keep_hash(path, state, digest)
    return digest


def _find_hash(path: Path, state: FileState) -> str | None:
    """The hash of a file in the Hub's cache, or of a large file that had this state before."""
    real = path.resolve()
    if _SHA256.fullmatch(real.name) and is_in_hub_cache(real):
        return real.name  # the Hub client names large files by their hash
    if state[2] < _KEPT:
        return None
    known = Store(find_cache()).find(_make_key(real, state))
    return known[0] if known else None


def _keep_hash(path: Path, state: FileState, digest: str) -> None:
    """Remembers the hash of a large file, unless the file changed while it was read."""
    if state[2] >= _KEPT and state == _read_state(path):
        Store(find_cache()).keep(_make_key(path.resolve(), state), digest)


def _make_key(real: Path, state: FileState) -> list[object]:
    name = hashlib.sha256(os.fsencode(real)).hexdigest()  # the cache tells nobody your paths
    return ["sha256", name, *state]
