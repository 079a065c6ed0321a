"""Torch tensors: pickled weights (`pytorch_model.bin`), and conversions.

Pickles are read with weights_only and, where possible, mapped.
"""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from surgery.checkpoint.tensors import DTYPES, Array, StoredTensor, TensorInfo
from surgery.errors import CheckpointError, UnsupportedError
from surgery.untrusted import reraise_as

# numpy's names of these dtypes are also torch's
_DTYPES: dict[str, torch.dtype] = {tag: getattr(torch, d.name) for tag, d in DTYPES.items()}
TAGS = {dtype: tag for tag, dtype in _DTYPES.items()}
_SAFE = (2, 6)
"""The first version of torch whose `weights_only` keeps what it promises."""


def as_stored(name: str, tensor: torch.Tensor) -> StoredTensor:
    """Wraps a tensor, whose bytes are read on demand. Its dtype must be in `TAGS`."""

    def read_pieces() -> list[memoryview]:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        return [flat.view(torch.uint8).numpy().data]

    return StoredTensor(TensorInfo(name, TAGS[tensor.dtype], tuple(tensor.shape)), read_pieces)


def as_torch(array: Array, tag: str) -> torch.Tensor:
    """Copies a numpy array of dtype `tag` (F16, BF16, …) into a new tensor on the CPU."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat.copy()).view(_DTYPES[tag]).reshape(array.shape)


def read_pickle(path: Path, *, aliases: Collection[str] = ()) -> list[StoredTensor]:
    """Returns the tensors of a pickled state dict, in stored order.

    Leaves out `aliases` that are a second name of another tensor, as safetensors does. Maps files
    in torch's zip format into memory; reads older files (before torch 1.6) whole.

    **Raises:** `UnsupportedError` for a version of torch whose reader may run code of a pickle
    (CVE-2025-32434); `CheckpointError` if the file is damaged, or holds anything but tensors.
    """
    if tuple(map(int, torch.__version__.split(".")[:2])) < _SAFE:
        raise UnsupportedError(
            "this version of torch may run code that a pickle holds",
            where=path.name,
            expected=f"torch {'.'.join(map(str, _SAFE))} or later",
            got=torch.__version__,
            fix="update torch, or take weights in safetensors",
        )
    what = "cannot be read as a pickled state dict of tensors"
    fix = "download it again, or convert it to safetensors if you trust its author"
    with reraise_as(CheckpointError, what, path.name, fix), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other protocols; the result is checked below
        mmap = zipfile.is_zipfile(path)  # older files have another format
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)
    if not isinstance(state, dict):
        raise CheckpointError("is not a state dict", where=path.name, got=type(state).__name__)
    for name, tensor in state.items():
        if not _is_plain(tensor):
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise CheckpointError(f"{name!r} is not a plain tensor", where=path.name, got=kind)
    named = {str(name): tensor for name, tensor in state.items()}
    others = {_locate(tensor) for name, tensor in named.items() if name not in aliases}
    return [
        as_stored(name, tensor)
        for name, tensor in named.items()
        if name not in aliases or _locate(tensor) not in others
    ]


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.dtype in TAGS
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def _locate(tensor: torch.Tensor) -> tuple[object, ...]:
    """Returns where a tensor's numbers are: the same for two names of one tensor."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
