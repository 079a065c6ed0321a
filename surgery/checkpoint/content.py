"""Identifies a model by content: a fingerprint of its configuration and weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from surgery.checkpoint.source import Checkpoint, open_checkpoint
from surgery.checkpoint.tensors import StoredTensor, is_finite, read_header, read_range
from surgery.errors import CheckpointError
from surgery.untrusted import reraise_as

_BEGINNING = 1 << 16  # bytes of each tensor
_PIECE = 4 << 20


def hash_content(model: Path | Checkpoint) -> str:
    """The fingerprint of a model, which tells two fine-tunes apart without reading all of them."""
    checkpoint = open_checkpoint(model) if isinstance(model, Path) else model
    config = checkpoint.folder / "config.json"
    with reraise_as(CheckpointError, "cannot be read", config):
        given = config.read_bytes()
    return hash_parts(given, (tensor for shard in checkpoint.shards for tensor in shard.tensors))


def hash_parts(config: bytes, tensors: Iterable[StoredTensor]) -> str:
    """SHA-256, hexadecimal, of config.json, and of the name, dtype, shape, and first 64 KiB of each
    tensor, ascending by name."""
    digest = hashlib.sha256(hashlib.sha256(config).digest())
    for tensor in sorted(tensors, key=lambda tensor: tensor.info.name):
        info = tensor.info
        digest.update(f"{info.name} {info.dtype} {list(info.shape)}\n".encode())
        digest.update(_read_beginning(tensor))
    return digest.hexdigest()


def _read_beginning(tensor: StoredTensor) -> bytes:
    if tensor.place is not None:
        path, at = tensor.place
        return b"".join(read_range(path, at, min(tensor.info.nbytes, _BEGINNING)))
    beginning = b""
    for piece in tensor.read_pieces():
        beginning += bytes(piece[: _BEGINNING - len(beginning)])
        if len(beginning) == _BEGINNING:
            break
    return beginning


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
    """Returns the SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with reraise_as(CheckpointError, "cannot be read", path), path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
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
