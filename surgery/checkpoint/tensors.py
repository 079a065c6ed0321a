"""Stored tensors: their dtype, shape and bytes, and the headers of safetensors files.

A file holds 8 bytes with the length of its header, a JSON header
`{name: {dtype, shape, data_offsets: [begin, end]}, "__metadata__": {…}}`, and the tensors' bytes,
back to back (format description of the safetensors library).
"""

from __future__ import annotations

import errno
import json
import math
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from surgery.errors import CheckpointError
from surgery.untrusted import parse_json, reraise_as

Array = npt.NDArray[Any]
Bytes = bytes | bytearray | memoryview

SIZES = {
    **dict.fromkeys(("F64", "I64"), 8),
    **dict.fromkeys(("F32", "I32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
"""The dtypes that can be read, as safetensors names them, and their bytes."""
_NAMES = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
_NAMES["F8_E8M0"] = "float8_e8m0fnu"


class _Dtypes(Mapping[str, "np.dtype[Any]"]):
    """The numpy type of each dtype. Those that numpy lacks take a second to import."""

    def __getitem__(self, tag: str) -> np.dtype[Any]:
        if tag in _NAMES:
            import ml_dtypes

            own: np.dtype[Any] = np.dtype(getattr(ml_dtypes, _NAMES[tag]))
            return own
        kinds = {"F": "f", "I": "i", "U": "u", "B": "?"}
        return np.dtype(f"{kinds[tag[0]]}{'' if tag == 'BOOL' else SIZES[tag]}")

    def __iter__(self) -> Iterator[str]:
        return iter(SIZES)

    def __len__(self) -> int:
        return len(SIZES)

    def __contains__(self, tag: object) -> bool:
        return tag in SIZES


DTYPES = _Dtypes()
FLOATING = ("F64", "F32", "F16", "BF16")
_NOT_FINITE = {
    "F64": (2**63 - 1, 0x7FF << 52),
    "F32": (2**31 - 1, 0xFF << 23),
    "F16": (2**15 - 1, 0x1F << 10),
    "BF16": (2**15 - 1, 0xFF << 7),
    "F8_E4M3": (2**7 - 1, 0x7F),
    "F8_E5M2": (2**7 - 1, 0x7C),
    "F8_E8M0": (2**8 - 1, 0xFF),
}
"""dtype → which bits count, and the least value of these that is infinite or NaN."""
_ALIGNMENT = 8
PIECE = 1 << 20  # bytes read at a time: fits the processor's cache


@dataclass(frozen=True)
class TensorInfo:
    """One stored tensor. `dtype` is the safetensors tag (F16, BF16, …)."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * SIZES[self.dtype]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor that is read, or computed, when it is needed.

    - `read_pieces`: yields its bytes, little-endian, row-major. A piece of at most `PIECE` bytes is
      valid until the next one; a larger one stays.
    - `place`: the file that holds exactly these bytes, and the byte that they begin at.
    """

    info: TensorInfo
    read_pieces: Callable[[], Iterable[Bytes]]
    place: tuple[Path, int] | None = None

    @staticmethod
    def compute(info: TensorInfo, compute: Callable[[], Array]) -> StoredTensor:
        """Makes a tensor that is computed just before it is written."""

        def read_pieces() -> list[Bytes]:
            array = compute()
            assert (array.shape, array.dtype) == (info.shape, DTYPES[info.dtype]), info.name
            return [np.ascontiguousarray(array).reshape(-1).view(np.uint8).data]

        return StoredTensor(info, read_pieces)

    def read(self) -> bytearray:
        """Returns a copy of the tensor's bytes."""
        data = bytearray()
        for piece in self.read_pieces():
            data += piece
        return data

    def read_first(self, count: int) -> Array:
        """Returns its first numbers, at most all of them, as a new one-dimensional array."""
        dtype, data = DTYPES[self.info.dtype], bytearray()
        for piece in self.read_pieces():
            data += piece
            if len(data) >= count * dtype.itemsize:
                break
        return np.frombuffer(data, dtype)[:count]

    def read_finite_pieces(self) -> Iterator[Bytes]:
        """Yields its bytes. Raises `CheckpointError` for a number that is NaN or infinite."""
        for piece in self.read_pieces():
            if not is_finite(self.info.dtype, piece):
                raise CheckpointError(
                    f"tensor {self.info.name!r} holds numbers that are not finite",
                    expected="finite weights",
                    fix="get the model again, or report it to its author",
                )
            yield piece

    def read_array(self) -> Array:
        """Returns the tensor as a new array with its dtype and shape."""
        data = np.frombuffer(self.read(), np.uint8)
        return data.view(DTYPES[self.info.dtype]).reshape(self.info.shape)


def is_finite(dtype: str, piece: Bytes) -> bool:
    """Whether no number of a piece of a tensor is NaN or infinite, as fast as memory is read."""
    if dtype not in _NOT_FINITE or not len(piece):
        return True
    mask, least = _NOT_FINITE[dtype]
    bits = np.frombuffer(piece, f"<u{SIZES[dtype]}")
    return int((bits & bits.dtype.type(mask)).max()) < least


def read_range(path: Path, start: int, nbytes: int) -> Iterator[memoryview]:
    """Yields bytes [start, start + nbytes) of a file, in pieces. New memory for each would take
    three times as long."""
    buffer = memoryview(bytearray(min(PIECE, nbytes)))
    with reraise_as(CheckpointError, "cannot be read", path), path.open("rb", buffering=0) as file:
        file.seek(start)
        while nbytes:
            count = file.readinto(buffer[:nbytes])
            if not count:
                raise OSError(errno.EIO, "the file became shorter while it was read", path)
            nbytes -= count
            yield buffer[:count]


def read_header(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """Returns the tensors of a safetensors file, in the order of their bytes, and the metadata.

    The library checks that the header is valid and that the tensors fill the rest of the file.
    Raises `CheckpointError` for a damaged file, or a tensor of another dtype.
    """
    with reraise_as(CheckpointError, "cannot be read", path):
        path.open("rb").close()  # the library cannot tell why a file is not read
    what = "is truncated or not valid safetensors"
    with (
        reraise_as(CheckpointError, what, path.name, "download it again"),
        safe_open(path, "numpy") as file,
    ):
        metadata = dict(file.metadata() or {})
        slices = {name: file.get_slice(name) for name in file.offset_keys()}
        infos = [TensorInfo(n, s.get_dtype(), tuple(s.get_shape())) for n, s in slices.items()]
    for info in infos:
        if info.dtype not in DTYPES:
            raise CheckpointError(
                f"tensor {info.name!r} cannot be read",
                where=path.name,
                expected=f"one of {', '.join(DTYPES)}",
                got=info.dtype,
            )
    start = path.stat().st_size - sum(info.nbytes for info in infos)
    tensors = []
    for info in infos:
        read_pieces = partial(read_range, path, start, info.nbytes)
        tensors.append(StoredTensor(info, read_pieces, (path, start)))
        start += info.nbytes
    return tensors, metadata


def write_header(tensors: list[TensorInfo], metadata: dict[str, str]) -> bytes:
    """Returns the header, with its length, of a file with these tensors in this order.

    The library's writer needs all tensors in memory; with our own header they can stream.
    """
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


def parse_header(header: bytes) -> list[TensorInfo]:
    """Returns the tensors of a header as `write_header` writes it, in the order of their bytes.

    Raises ValueError, or another error of a parser, for anything else.
    """
    entries = parse_json(header[8:])
    entries.pop("__metadata__", None)
    if int.from_bytes(header[:8], "little") != len(header) - 8:
        raise ValueError("its length is not the one that it gives")
    infos, end = [], 0
    for name in sorted(entries, key=lambda key: entries[key]["data_offsets"]):
        entry = entries[name]
        info = TensorInfo(name, entry["dtype"], tuple(map(operator.index, entry["shape"])))
        if entry["data_offsets"] != [end, end + info.nbytes]:
            raise ValueError(f"tensor {name[:60]!r} does not begin where another ends")
        infos.append(info)
        end += info.nbytes
    return infos
