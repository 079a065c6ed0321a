"""Writes and hashes files in one pass, with at most one new tensor in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from surgery.checkpoint.content import CopiedFile
from surgery.checkpoint.source import SAFETENSORS
from surgery.checkpoint.tensors import Bytes, StoredTensor, read_range, write_header


@dataclass(frozen=True)
class OutputShard:
    """One weight file to write. `copy_of`: a source file of these entries, whose header stays."""

    entries: tuple[StoredTensor, ...]
    metadata: dict[str, str]
    copy_of: Path | None = None

    def read_pieces(self, read: Mapping[Path, CopiedFile]) -> Iterator[Bytes]:
        """Yields the content of the file. `read`: files to hash while tensors are read of them."""
        infos = [entry.info for entry in self.entries]
        if self.copy_of is not None:
            size = self.copy_of.stat().st_size - sum(info.nbytes for info in infos)
            yield from read_range(self.copy_of, 0, size)
        else:
            yield write_header(infos, self.metadata)
        for entry in self.entries:
            path, at = entry.place or (None, 0)
            file = read.get(path) if path is not None else None
            yield from entry.read_pieces() if file is None else file.read(entry, at)


Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


def write_file(
    path: Path,
    pieces: Iterable[Bytes],
    progress: Progress = lambda nbytes: None,
) -> str:
    """Writes a new file and returns its SHA-256, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("xb", buffering=0) as file, ThreadPoolExecutor(1) as other:
        for piece in pieces:
            hashed = other.submit(digest.update, piece)  # both take as long, and share no lock
            left = memoryview(piece)
            while left:
                left = left[file.write(left) :]
            hashed.result()
            progress(len(piece))
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
