"""Torch tensors: pickled weights (`pytorch_model.bin`), and conversions from and to bits."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch

from surgery.errors import CheckpointError
from surgery.tensors import FLOATS, Bits
from surgery.untrusted import reraise_as

DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8},
    **{"U8": torch.uint8, "BOOL": torch.bool},
    **{"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}
TAGS = {dtype: tag for tag, dtype in DTYPES.items()}


def as_bits(tensor: torch.Tensor) -> Bits:
    """The bits of a floating tensor, on the CPU; not a copy if it is there already."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat.view(FLOATS[TAGS[tensor.dtype]]).reshape(tuple(tensor.shape))


def as_bytes(tensor: torch.Tensor) -> memoryview:
    """The bytes of a tensor, row-major."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data


def as_torch(bits: Bits, tag: str) -> torch.Tensor:
    """A new tensor on the CPU, of the dtype that safetensors calls `tag`."""
    flat = np.ascontiguousarray(bits).reshape(-1).view(np.uint8)
    return torch.from_numpy(flat.copy()).view(DTYPES[tag]).reshape(bits.shape)


def read_pickle(path: Path, aliases: Collection[str] = ()) -> dict[str, torch.Tensor]:
    """The tensors of a pickled state dict, in stored order, without running code.

    Leaves out `aliases` that are a second name of another tensor, as safetensors does. Files in
    torch's zip format are mapped; older ones (before torch 1.6) are read whole.
    """
    what = "cannot be read as a pickled state dict of tensors"
    fix = "download it again, or convert it to safetensors if you trust its author"
    with reraise_as(CheckpointError, what, path.name, fix), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about other protocols; the result is checked below
        mapped = zipfile.is_zipfile(path)
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    if not isinstance(state, dict):
        raise CheckpointError("is not a state dict", where=path.name, got=type(state).__name__)
    for name, tensor in state.items():
        if not _is_plain(tensor):
            kind = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
            raise CheckpointError(f"{name!r} is not a plain tensor", where=path.name, got=kind)
    named = {str(name): tensor for name, tensor in state.items()}
    others = {_locate(tensor) for name, tensor in named.items() if name not in aliases}
    return {n: t for n, t in named.items() if n not in aliases or _locate(t) not in others}


def _is_plain(value: object) -> bool:
    return (
        isinstance(value, torch.Tensor)
        and value.dtype in TAGS
        and value.layout is torch.strided
        and value.device.type == "cpu"
    )


def _locate(tensor: torch.Tensor) -> tuple[object, ...]:
    """Where a tensor's numbers are: the same for two names of one tensor."""
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()
