"""Converts torch tensors to stored ones and numpy arrays to torch tensors."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from surgery.checkpoint.tensors import DTYPES, Array, StoredTensor, TensorInfo

# numpy's names of these dtypes are also torch's
_DTYPES: dict[str, torch.dtype] = {tag: getattr(torch, d.name) for tag, d in DTYPES.items()}
TAGS = {dtype: tag for tag, dtype in _DTYPES.items()}


def as_stored(name: str, tensor: torch.Tensor) -> StoredTensor:
    """Wraps a tensor, whose bytes are read on demand. Its dtype must be in `TAGS`."""
    info = TensorInfo(name, TAGS[tensor.dtype], tuple(tensor.shape))
    return StoredTensor(info, partial(_read_bytes, tensor))


def as_torch(array: Array, tag: str) -> torch.Tensor:
    """Copies a numpy array of dtype `tag` (F16, BF16, …) into a new tensor on the CPU."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat.copy()).view(_DTYPES[tag]).reshape(array.shape)


def _read_bytes(tensor: torch.Tensor) -> bytearray:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return bytearray(flat.view(torch.uint8).numpy())
