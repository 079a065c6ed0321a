"""Takes what a student learned into a model, rounded as stored, and into a checkpoint.

bfloat16 keeps 8 bits of a number. An update that is smaller than half of the last one is lost where
numbers are rounded to the nearest. Rounded at random, up as often as the rest says (Croci et al.
2022, arXiv 2103.12410), the sum of many such updates stays.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from surgery.checkpoint import HEADS, Checkpoint, Entry
from surgery.errors import CheckpointError
from surgery.torch_tensors import DTYPES, as_bytes, as_torch
from surgery.training.student import Flags, Student

FEWEST_KEPT = 0.9
"""What the nearest numbers must keep of the update of a weight, or it is rounded at random."""


def round_weights(student: Student, stored: str) -> tuple[Any, float]:
    """The model that a student became, with the weights that a checkpoint of dtype `stored` (such
    as BF16) holds; and the share of the update that they keep: its projection onto itself.

    The model has the dtype of the student's passes. Weights that it holds in a wider one than the
    others stay as they are.
    """
    narrow = DTYPES[stored]
    kept = learned = 0.0

    def change(name: str, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        nonlocal kept, learned
        dtype = narrow if before.dtype == student.dtype else before.dtype
        rounded, (left, whole) = _round(name, before.float(), after, dtype)
        kept, learned = kept + left, learned + whole
        return rounded.to(before.dtype)

    model = student.settle(change)
    return model, round(kept / learned, 4) if learned else 1.0


def _round(
    name: str, before: torch.Tensor, after: torch.Tensor, dtype: torch.dtype
) -> tuple[torch.Tensor, tuple[float, float]]:
    """The numbers in another dtype; the projection of the rounded update onto the true one, and the
    square of that."""
    update = after - before
    whole = float(update.square().sum(dtype=torch.float64))

    def project(rounded: torch.Tensor) -> float:
        return float(((rounded.float() - before) * update).sum(dtype=torch.float64))

    nearest = after.to(dtype)
    if dtype is torch.bfloat16 and project(nearest) < FEWEST_KEPT * whole:
        nearest = _round_at_random(name, after)
    return nearest, (project(nearest), whole)


def _round_at_random(name: str, numbers: torch.Tensor) -> torch.Tensor:
    """float32 → bfloat16: up or down, with chances by which the mean is the number itself.

    bfloat16 is the upper half of a float32. So a random number is added to the lower half, which is
    then cut off. The draw follows from the name of the weight.
    """
    draw = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    bits = numbers.contiguous().view(torch.int32)
    more = torch.randint(0, 1 << 16, bits.shape, generator=draw, dtype=torch.int32)
    upper = (bits + more.to(bits.device)) & -(1 << 16)
    return upper.view(torch.float32).to(torch.bfloat16)


def take_weights(
    checkpoint: Checkpoint, model: Any, constants: Mapping[str, Flags] | None = None
) -> Checkpoint:
    """Returns the checkpoint with the weights of `model`, which are rounded already.

    Buffers stay, and so do `constants`: tensor → which of its numbers. Reading a tensor raises
    `CheckpointError` if a number of it is not finite.
    """
    parameters = dict(model.named_parameters())
    head, fixed = model.get_output_embeddings().weight, constants or {}

    def renew(entry: Entry) -> Entry:
        name = entry.tensor.name
        trained = parameters.get(name, head if name in HEADS else None)
        if trained is None:
            trained = _find_expert(name, parameters)
        if trained is None:
            return entry
        return Entry(entry.tensor, data=partial(_take, entry, trained, fixed.get(name)))

    shards = (
        replace(shard, entries=tuple(map(renew, shard.entries)), verbatim=False)
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


def _take(entry: Entry, trained: torch.Tensor, constant: Flags | None) -> memoryview:
    name, dtype = entry.tensor.name, entry.tensor.dtype
    new = trained.detach().cpu().to(DTYPES[dtype])
    if constant is not None:
        new = torch.where(torch.from_numpy(constant), as_torch(entry.read_bits(), dtype), new)
    if not torch.isfinite(new).all():
        raise CheckpointError(
            f"{name!r} is not finite in {dtype} after training",
            fix="train on other text or for fewer steps",
        )
    return as_bytes(new)
