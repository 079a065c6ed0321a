"""Writes the files of a result, with at most one edited tensor in memory, and hashes them."""

from __future__ import annotations

import errno
import hashlib
import queue
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np

from surgery.checkpoint import SAFETENSORS, Checkpoint, Entry, Shard, write_header
from surgery.errors import CheckpointError
from surgery.plan import Fits, Plan
from surgery.privacy import drop_paths
from surgery.tensors import Bits, Tensor
from surgery.untrusted import reraise_as

_BUFFER, _BUFFERS = 1 << 18, 8  # bytes, and how many: new memory for each piece takes far longer
Bytes = bytes | bytearray | memoryview
Progress = Callable[[int], None]
"""Called with the number of bytes just written."""


class HashedFile:
    """A new file, whose SHA-256 a thread computes while it is written.

    Pieces that are given to `write` must not change afterward.
    """

    def __init__(self, path: Path, progress: Progress = lambda nbytes: None) -> None:
        self._file, self._progress = path.open("xb", buffering=0), progress
        self._digest, self.size = hashlib.sha256(), 0
        self._free: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(_BUFFERS):
            self._free.put(bytearray(_BUFFER))
        self._written: queue.Queue[tuple[Bytes, bytearray | None] | None] = queue.Queue(_BUFFERS)
        self._thread = threading.Thread(target=self._hash, daemon=True)
        self._thread.start()

    def _hash(self) -> None:
        while (given := self._written.get()) is not None:
            piece, buffer = given
            self._digest.update(piece)
            if buffer is not None:
                self._free.put(buffer)

    def write(self, piece: Bytes, buffer: bytearray | None = None) -> None:
        self._written.put((piece, buffer))
        view = memoryview(piece)
        while view:
            view = view[self._file.write(view) :]
        self.size += len(piece)
        self._progress(len(piece))

    def copy(self, source: Path, begin: int, nbytes: int) -> None:
        """Writes bytes of another file."""
        with (
            reraise_as(CheckpointError, "cannot be read", source),
            source.open("rb", buffering=0) as file,
        ):
            file.seek(begin)
            while nbytes:
                buffer = self._free.get()
                count = file.readinto(memoryview(buffer)[:nbytes])
                if not count:
                    raise OSError(errno.EIO, "the file became shorter while it was read", source)
                nbytes -= count
                self.write(memoryview(buffer)[:count], buffer)

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._written.put(None)
        self._thread.join()
        self._file.close()

    @property
    def sha256(self) -> str:
        """Hexadecimal, once it is closed."""
        return self._digest.hexdigest()


@dataclass(frozen=True)
class New:
    """A tensor that is computed just before it is written."""

    tensor: Tensor
    make: Callable[[], Bits]


@dataclass(frozen=True)
class OutputShard:
    """One weight file to write. `copy_of`: a source file of these parts, whose bytes stay."""

    parts: tuple[Entry | New, ...]
    metadata: dict[str, str]
    copy_of: Path | None = None

    def write(self, file: HashedFile) -> None:
        if self.copy_of is not None:
            file.copy(self.copy_of, 0, self.copy_of.stat().st_size)
            return
        file.write(write_header((part.tensor for part in self.parts), self.metadata))
        for part in self.parts:
            if isinstance(part, New):
                bits = np.ascontiguousarray(part.make())
                file.write(bits.reshape(-1).view(np.uint8).data)
            elif part.path is not None:
                file.copy(part.path, part.begin, part.tensor.nbytes)
            elif part.data is not None:
                file.write(part.data())


def plan_shards(checkpoint: Checkpoint, plan: Plan, fits: Fits) -> dict[str, OutputShard]:
    """The shards to write, by file name.

    An added bias comes after its weight. What replaces attention takes the place of the first
    tensor that is dropped.
    """

    def new(name: str) -> New:
        return New(plan.edits[name].tensor, lambda: plan.make(name, checkpoint.read, fits))

    after: dict[str, list[New]] = {}
    dropped = set(plan.dropped)
    for name in plan.added:
        within = plan.family.attention.format(block=plan.edits[name].block) + "."
        gone = (one for one in checkpoint.entries if one in dropped and one.startswith(within))
        place = next(gone, name.removesuffix(".bias") + ".weight")
        after.setdefault(place, []).append(new(name))
    verbatim = all(shard.verbatim for shard in checkpoint.shards)
    names = name_shards(len(checkpoint.shards))
    written = {
        shard.path.name if verbatim else name: _plan_shard(shard, plan, after, new)
        for shard, name in zip(checkpoint.shards, names, strict=True)
    }
    return {name: shard for name, shard in written.items() if shard.parts}


def _plan_shard(
    shard: Shard, plan: Plan, after: dict[str, list[New]], new: Callable[[str], New]
) -> OutputShard:
    parts: list[Entry | New] = []
    changed, dropped = False, set(plan.dropped)
    for entry in shard.entries:
        name = entry.tensor.name
        is_new = name in plan.edits
        if name not in dropped:
            parts.append(new(name) if is_new else entry)
        parts += after.get(name, ())
        changed |= is_new or name in dropped or name in after
    metadata = drop_paths(shard.metadata)
    whole = shard.verbatim and not changed and metadata == shard.metadata
    return OutputShard(tuple(parts), metadata, shard.path if whole else None)


def name_shards(count: int) -> list[str]:
    """The file names that transformers expects for `count` shards."""
    if count == 1:
        return [SAFETENSORS]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def make_index(shards: dict[str, OutputShard], metadata: dict[str, object]) -> dict[str, object]:
    """model.safetensors.index.json: total size in bytes, and tensor → file."""
    parts = [(part.tensor, file) for file, shard in shards.items() for part in shard.parts]
    files = {tensor.name: file for tensor, file in parts}
    return {
        "metadata": {**metadata, "total_size": sum(tensor.nbytes for tensor, _ in parts)},
        "weight_map": dict(sorted(files.items())),
    }


def write_file(
    path: Path, pieces: Iterable[Bytes], progress: Progress = lambda nbytes: None
) -> HashedFile:
    """Writes a new file of these pieces. Returns it closed."""
    with HashedFile(path, progress) as file:
        for piece in pieces:
            file.write(piece)
    return file
