"""Stored tensors: their name, dtype, and shape, and numbers as the bits that stand for them.

Bits are numpy arrays of float64, float32, or float16; those of bfloat16 are uint16, since numpy has
no such type. Setting numbers to zero, comparing, and moving rows needs no decoding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Bits = npt.NDArray[Any]

FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""dtype, as safetensors names it → the numpy type of its bits."""
BYTES = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
}
"""Every dtype that can be copied → the bytes of a number."""
_NOT_FINITE = {"F64": ("<u8", 0x7FF << 52), "F32": ("<u4", 0xFF << 23), "F16": ("<u2", 0x1F << 10)}
_NOT_FINITE["BF16"] = ("<u2", 0xFF << 7)


@dataclass(frozen=True)
class Tensor:
    """One stored tensor. `dtype`: as safetensors names it, such as BF16."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * BYTES[self.dtype]


def encode(values: Any, dtype: str) -> Bits:
    """The bits of numbers, rounded to the nearest."""
    if dtype != "BF16":
        with np.errstate(over="ignore"):  # infinite: the caller looks at what it made
            return np.asarray(values, FLOATS[dtype])
    bits = np.asarray(values, "<f4").view("<u4")
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(bits.view("<f4")), 0x7FC0, rounded).astype("<u2")


def decode(bits: Bits, dtype: str) -> Array:
    """The numbers of bits, float32 or wider, exactly."""
    if dtype == "BF16":
        return (bits.astype("<u4") << 16).view("<f4")
    return bits if dtype in ("F32", "F64") else bits.astype("<f4")


def view_bits(data: Any, tensor: Tensor) -> Bits:
    """The bits of a tensor that a buffer holds, without a copy."""
    return np.frombuffer(data, FLOATS.get(tensor.dtype, "u1")).reshape(
        tensor.shape if tensor.dtype in FLOATS else -1
    )


def is_finite(data: Any, dtype: str) -> bool:
    """Whether no number in a buffer is NaN or infinite; true of a dtype that has neither."""
    if dtype not in _NOT_FINITE or not len(data):
        return True
    kind, ones = _NOT_FINITE[dtype]
    bits = np.frombuffer(data, kind)
    return int((bits & bits.dtype.type(ones)).max()) < ones


def same_bits(one: Bits, other: Bits) -> npt.NDArray[np.bool_]:
    """Which numbers are alike in every bit: 0.0 is not -0.0."""
    kind = f"u{one.itemsize}"
    same: npt.NDArray[np.bool_] = one.view(kind) == other.view(kind)
    return same


def is_known(bits: Bits, dtype: str) -> npt.NDArray[np.bool_]:
    """Which numbers are not NaN, which stands for what is not known."""
    return ~np.isnan(decode(bits, dtype))
