"""Torch tensors seen as stored ones, and back. The one place where the two worlds meet."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from surgery.checkpoint.tensors import Array, StoredTensor, TensorInfo

TAGS: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_DTYPES = {tag: dtype for dtype, tag in TAGS.items()}


def as_stored(name: str, tensor: torch.Tensor) -> StoredTensor:
    """A tensor whose bytes are taken only when they are read. Its dtype must be in `TAGS`."""
    info = TensorInfo(name, TAGS[tensor.dtype], tuple(tensor.shape))
    return StoredTensor(info, partial(_bytes_of, tensor))


def as_torch(array: Array, tag: str) -> torch.Tensor:
    """A numpy array of the dtype that `tag` (F16, BF16, …) names → a new tensor on the CPU."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat.copy()).view(_DTYPES[tag]).reshape(array.shape)


def _bytes_of(tensor: torch.Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes()
