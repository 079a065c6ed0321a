"""Moving bytes between files inside the kernel, and hashing them as they arrive."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from pathlib import Path

from surgery.checkpoint.tensors import FileRange

_STEP = 32 << 20  # bytes handed to the kernel at a time: few calls, and the hash can follow
_READ = 1 << 20  # bytes hashed at a time: stays in the processor's cache
_PATIENCE = 0.1  # seconds after which the hashing thread looks for itself
_NOT_HERE = {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}


class HashedFile:
    """A new file whose SHA-256 is computed by a second thread while it is written.

    The thread reads the bytes back from the file, so the sum is of what was written. Use as a
    context manager; `sha256` and `size` are there once it is closed without an exception.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self.sha256 = ""
        self._error: BaseException | None = None
        self._done = False
        self._grown = threading.Condition()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        self._thread = threading.Thread(target=self._hash, name=f"sha256 {path.name}", daemon=True)
        self._thread.start()

    def write(self, data: bytes | memoryview) -> None:
        """Appends bytes."""
        view = memoryview(data).cast("B")
        while view:
            written = os.write(self._file, view[:_STEP])
            view = view[written:]
            self._grow(written)

    def copy(self, source: FileRange) -> None:
        """Appends a range of another file: by reflink or copy_file_range where they exist."""
        position = source.start
        with source.path.open("rb") as file:
            while position < source.end:
                step = min(_STEP, source.end - position)
                count = _copy_some(file.fileno(), self._file, position, step)
                if count == 0:
                    raise OSError(errno.EIO, "file became shorter while it was read", source.path)
                position += count
                self._grow(count)

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: object) -> None:
        with self._grown:
            self._done = True
            self._grown.notify()
        self._thread.join()
        os.close(self._file)
        if kind is None and self._error is not None:
            raise self._error

    def _grow(self, count: int) -> None:
        with self._grown:
            self.size += count
            self._grown.notify()

    def _wait_beyond(self, hashed: int) -> int:
        """The file's size, once it is larger than `hashed` or final."""
        with self._grown:  # a signal may interrupt a notification, which is then lost
            while not self._grown.wait_for(lambda: self.size > hashed or self._done, _PATIENCE):
                pass
            return self.size

    def _hash(self) -> None:
        digest, hashed, buffer = hashlib.sha256(), 0, bytearray(_READ)
        try:
            while (available := self._wait_beyond(hashed)) > hashed:
                while hashed < available:
                    view = memoryview(buffer)[: min(_READ, available - hashed)]
                    count = os.preadv(self._file, [view], hashed)
                    digest.update(view[:count])
                    hashed += count
            self.sha256 = digest.hexdigest()
        except BaseException as error:  # handed to the writing thread
            self._error = error


def sha256_of(path: Path) -> str:
    """SHA-256 of a whole file, hexadecimal."""
    digest, buffer = hashlib.sha256(), bytearray(_READ)
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            digest.update(memoryview(buffer)[:count])
    return digest.hexdigest()


def _copy_some(source: int, target: int, position: int, count: int) -> int:
    copy = getattr(os, "copy_file_range", None)
    if copy is not None:
        try:
            return int(copy(source, target, count, offset_src=position))
        except OSError as error:
            if error.errno not in _NOT_HERE:
                raise
    data = os.pread(source, min(count, 4 * _READ), position)
    return os.write(target, data)
