"""Writes files with at most one new tensor in memory, and hashes them beside in a thread."""

from __future__ import annotations

import hashlib
import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.source import SAFETENSORS
from surgery.checkpoint.tensors import PIECE, Bytes, StoredTensor, read_range, write_header


@dataclass(frozen=True)
class OutputShard:
    """One weight file to write. `copy_of`: a source file of these entries, whose bytes stay."""

    entries: tuple[StoredTensor, ...]
    metadata: dict[str, str]
    copy_of: Path | None = None

    def read_pieces(self) -> Iterator[Bytes]:
        """Yields the content of the file."""
        if self.copy_of is not None:
            yield from read_range(self.copy_of, 0, self.copy_of.stat().st_size)
            return
        yield write_header([entry.info for entry in self.entries], self.metadata)
        for entry in self.entries:
            yield from entry.read_pieces()


_BUFFERS = 4
Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


def write_file(
    path: Path,
    pieces: Iterable[Bytes],
    progress: Progress = lambda nbytes: None,
) -> str:
    """Writes a new file and returns its SHA-256, hexadecimal. A thread hashes copies of pieces."""
    digest = hashlib.sha256()
    free: queue.Queue[memoryview] = queue.Queue()
    for _ in range(_BUFFERS):
        free.put(memoryview(bytearray(PIECE)))
    written: queue.Queue[memoryview | None] = queue.Queue(_BUFFERS)

    def hash_written() -> None:
        while (piece := written.get()) is not None:
            digest.update(piece)
            if len(piece) <= PIECE:
                free.put(memoryview(piece.obj))

    hashing = threading.Thread(target=hash_written)
    hashing.start()
    try:
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                view = memoryview(piece)
                if len(view) <= PIECE:
                    copy = free.get()[: len(view)]
                    copy[:] = view
                    written.put(copy)
                else:
                    written.put(view)
                while view:
                    view = view[file.write(view) :]
                progress(len(piece))
    finally:
        written.put(None)
        hashing.join()
    return digest.hexdigest()


def name_shards(count: int) -> list[str]:
    """Returns the file names that transformers expects for `count` shards."""
    if count == 1:
        return [SAFETENSORS]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def make_index(shards: dict[str, OutputShard], metadata: dict[str, object]) -> dict[str, object]:
    """Makes model.safetensors.index.json: total size in bytes, and tensor → file."""
    infos = [(entry.info, file) for file, shard in shards.items() for entry in shard.entries]
    files = {info.name: file for info, file in infos}
    return {
        "metadata": {**metadata, "total_size": sum(info.nbytes for info, _ in infos)},
        "weight_map": dict(sorted(files.items())),
    }
