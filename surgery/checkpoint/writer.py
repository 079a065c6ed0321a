"""Writes shards: untouched bytes are moved by the operating system, edited tensors are streamed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from surgery.checkpoint.copying import HashedFile
from surgery.checkpoint.source import SAFETENSORS
from surgery.checkpoint.tensors import (
    DTYPES,
    Array,
    FileRange,
    StoredTensor,
    TensorInfo,
    write_header,
)


@dataclass(frozen=True)
class NewTensor:
    """A tensor that is computed only when its turn comes to be written."""

    info: TensorInfo
    compute: Callable[[], Array]


Entry = StoredTensor | NewTensor


@dataclass(frozen=True)
class OutputShard:
    """One weight file to write. `copy_of` names a source file to copy whole, entries unread."""

    entries: tuple[Entry, ...]
    metadata: dict[str, str]
    copy_of: Path | None = None


@dataclass(frozen=True)
class WrittenFile:
    """What was written: bytes and SHA-256 (hexadecimal)."""

    size: int
    sha256: str


Progress = Callable[[int], None]


def write_shard(shard: OutputShard, path: Path, progress: Progress) -> WrittenFile:
    """Writes one weight file and hashes it meanwhile. Holds at most one tensor in memory."""
    with HashedFile(path) as file:
        if shard.copy_of is not None:
            runs: list[FileRange | Entry]
            runs = [FileRange(shard.copy_of, 0, shard.copy_of.stat().st_size)]
        else:
            file.write(write_header([entry.info for entry in shard.entries], shard.metadata))
            runs = _runs(shard.entries)
        for run in runs:
            if isinstance(run, FileRange):
                file.copy(run)
                progress(run.nbytes)
            else:
                file.write(_bytes(run))
                progress(run.info.nbytes)
    return WrittenFile(file.size, file.sha256)


def _bytes(entry: Entry) -> bytes | memoryview:
    if isinstance(entry, StoredTensor):
        return entry.raw()
    array = entry.compute()
    assert array.shape == entry.info.shape, f"{entry.info.name}: {array.shape}"
    assert array.dtype == DTYPES[entry.info.dtype], f"{entry.info.name}: {array.dtype}"
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _runs(entries: Iterable[Entry]) -> list[FileRange | Entry]:
    """Merges neighboring ranges of a source file, so that one call copies many tensors."""
    runs: list[FileRange | Entry] = []
    for entry in entries:
        data = entry.data if isinstance(entry, StoredTensor) else None
        last = runs[-1] if runs else None
        if not isinstance(data, FileRange):
            runs.append(entry)
        elif isinstance(last, FileRange) and (last.path, last.end) == (data.path, data.start):
            runs[-1] = FileRange(last.path, last.start, last.nbytes + data.nbytes)
        else:
            runs.append(data)
    return runs


def shard_names(count: int) -> list[str]:
    """The file names that transformers expects for `count` shards."""
    if count == 1:
        return [SAFETENSORS]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def index_json(shards: dict[str, OutputShard], metadata: dict[str, object]) -> dict[str, object]:
    """The content of model.safetensors.index.json: total size in bytes, and tensor → file."""
    infos = [(entry.info, file) for file, shard in shards.items() for entry in shard.entries]
    files = {info.name: file for info, file in infos}
    return {
        "metadata": {**metadata, "total_size": sum(info.nbytes for info, _ in infos)},
        "weight_map": dict(sorted(files.items())),
    }


def split_shards(entries: Iterable[Entry], limit: int) -> list[tuple[Entry, ...]]:
    """Packs tensors, in order, into files of at most `limit` bytes; a larger one stands alone."""
    shards: list[list[Entry]] = [[]]
    size = 0
    for entry in entries:
        if shards[-1] and size + entry.info.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.info.nbytes
    return [tuple(shard) for shard in shards]
