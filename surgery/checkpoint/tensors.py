"""The safetensors container: its header, read strictly and without touching any tensor.

Layout of a file: 8 bytes little-endian header length, a JSON header
`{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {…}}`, then the tensors' bytes,
back to back. Definition: the format description of the safetensors library.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np  # isort: skip # before ml_dtypes, whose extension prints what stops it
import ml_dtypes
import numpy.typing as npt
from safetensors import safe_open

from surgery.errors import CheckpointError
from surgery.untrusted import guard, parse_json

Array = npt.NDArray[Any]

DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
FLOATING = ("F64", "F32", "F16", "BF16")
_HEADER_LIMIT = 100_000_000  # bytes; the limit of the safetensors library itself
_ALIGNMENT = 8
_MOST_DIMENSIONS = 32  # of an array, in every version of numpy


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor. `dtype` is the safetensors tag (F16, BF16, …)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


@dataclass(frozen=True)
class FileRange:
    """Bytes [start, start + nbytes) of a file."""

    path: Path
    start: int
    nbytes: int

    @property
    def end(self) -> int:
        return self.start + self.nbytes

    def read(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            return file.read(self.nbytes)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a source. `data` is where its bytes are, or a function that produces them."""

    info: TensorInfo
    data: FileRange | Callable[[], bytes]

    def raw(self) -> bytes:
        """The tensor's bytes, little-endian, row-major."""
        return self.data.read() if isinstance(self.data, FileRange) else self.data()

    def first(self, count: int) -> Array:
        """Its first numbers, or all of them, as a new array of one dimension."""
        dtype = DTYPES[self.info.dtype]
        size = min(count * dtype.itemsize, self.info.nbytes)
        where = self.data
        data = replace(where, nbytes=size).read() if isinstance(where, FileRange) else where()
        return np.frombuffer(bytearray(data[:size]), dtype)

    def array(self) -> Array:
        """The tensor as a new array of its own dtype and shape."""
        if isinstance(self.data, FileRange):
            data = np.fromfile(
                self.data.path, np.uint8, count=self.data.nbytes, offset=self.data.start
            )
        else:
            data = np.frombuffer(bytearray(self.data()), np.uint8)
        return data.view(DTYPES[self.info.dtype]).reshape(self.info.shape)


def read_header(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors of a safetensors file, in the order of their bytes, and its metadata.

    **Raises:** `CheckpointError` for a file that is truncated, damaged or of an unknown dtype.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise CheckpointError(
                "the header is longer than the file",
                where=path.name,
                got=f"{size} bytes",
                fix="the file is truncated or not safetensors; download it again",
            )
        text = file.read(length)
    with _header_of(path):
        header = parse_json(text)
        metadata = dict(header.pop("__metadata__", None) or {})
        entries = [_entry(name, entry) for name, entry in header.items()]
    tensors, end = [], 0
    for begin, stop, info in sorted(entries, key=lambda entry: entry[:2]):
        if begin != end or stop - begin != info.nbytes:
            raise CheckpointError(
                f"tensor {info.name!r} has offsets that do not fit its shape",
                where=path.name,
                expected=f"[{end}, {end + info.nbytes}]",
                got=f"[{begin}, {stop}]",
                fix="the file is damaged; download it again",
            )
        tensors.append(StoredTensor(info, FileRange(path, 8 + length + begin, info.nbytes)))
        end = stop
    if 8 + length + end != size:
        raise CheckpointError(
            "the file is truncated" if size < 8 + length + end else "bytes follow the last tensor",
            where=path.name,
            expected=f"{8 + length + end} bytes",
            got=size,
            fix="download it again",
        )
    with _header_of(path), safe_open(path, "numpy"):  # what the library would refuse is refused
        return tensors, metadata


def write_header(tensors: list[TensorInfo], metadata: dict[str, str]) -> bytes:
    """The header, its length included, of a file that holds these tensors in this order."""
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for info in tensors:
        header[info.name] = {
            "dtype": info.dtype,
            "shape": list(info.shape),
            "data_offsets": [end, end + info.nbytes],
        }
        end += info.nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _header_of(path: Path) -> AbstractContextManager[None]:
    return guard(CheckpointError, "the header is not valid", path.name, fix="download it again")


def _entry(name: str, entry: dict[str, Any]) -> tuple[int, int, TensorInfo]:
    dtype, shape = entry["dtype"], tuple(entry["shape"])
    if dtype not in DTYPES:
        raise ValueError(f"{name} has dtype {dtype}")
    if len(shape) > _MOST_DIMENSIONS:
        raise ValueError(f"{name} has {len(shape)} dimensions")
    begin, stop = entry["data_offsets"]
    if not all(type(size) is int and size >= 0 for size in (*shape, begin, stop)):
        raise ValueError(f"{name} has shape {shape} at {begin}, {stop}")
    return begin, stop, TensorInfo(name, dtype, shape)
