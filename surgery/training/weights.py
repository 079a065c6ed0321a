"""Takes the weights of a trained model into the checkpoint that it was loaded from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from surgery.checkpoint.source import HEADS, Checkpoint
from surgery.checkpoint.tensors import DTYPES, Array, StoredTensor, TensorInfo
from surgery.errors import CheckpointError
from surgery.training.training import Flags


def take_weights(
    checkpoint: Checkpoint, model: Any, constants: Mapping[str, Flags] | None = None
) -> Checkpoint:
    """Returns the checkpoint with the weights of `model`, rounded to their stored dtypes.

    Buffers stay, and so do `constants`: tensor → which of its numbers. Reading a tensor raises
    `CheckpointError` if a number of it is not finite.
    """
    parameters = dict(model.named_parameters())
    head, fixed = model.get_output_embeddings().weight, constants or {}

    def renew(tensor: StoredTensor) -> StoredTensor:
        info = tensor.info
        trained = parameters.get(info.name, head if info.name in HEADS else None)
        if trained is None:
            trained = _find_expert(info.name, parameters)
        if trained is None:
            return tensor
        return StoredTensor.compute(info, partial(_take, info, trained, tensor, fixed))

    shards = (
        replace(shard, tensors=tuple(map(renew, shard.tensors)), verbatim=False)
        for shard in checkpoint.shards
    )
    return replace(checkpoint, shards=tuple(shards))


def _find_expert(name: str, parameters: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """Returns a weight of one expert, of which newer versions of the library load all as one."""
    match = _EXPERT.fullmatch(name)
    if match is None:
        return None
    owner, expert, part = match[1], int(match[2]), match[3]
    if f"{owner}.down_proj" not in parameters:  # of a block after the last one
        return None
    if part == "down":
        return parameters[f"{owner}.down_proj"][expert]
    gate, up = parameters[f"{owner}.gate_up_proj"][expert].chunk(2)
    return gate if part == "gate" else up


_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(gate|up|down)_proj\.weight")


def _take(
    info: TensorInfo, trained: torch.Tensor, tensor: StoredTensor, constants: Mapping[str, Flags]
) -> Array:
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is reported below
        array = trained.detach().cpu().numpy().astype(DTYPES[info.dtype])
    if info.name in constants:
        array = np.where(constants[info.name], tensor.read_array(), array)
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"{info.name!r} is not finite in {info.dtype} after training",
            fix="train on other text or for fewer steps",
        )
    return array
