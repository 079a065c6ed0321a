"""Applies a plan to an opened source: decides what each file of the result holds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from surgery.checkpoint.source import Checkpoint
from surgery.checkpoint.tensors import DTYPES, Array, StoredTensor, TensorInfo
from surgery.checkpoint.writer import OutputShard, name_shards
from surgery.errors import CheckpointError
from surgery.layouts import TensorChange
from surgery.plan import Plan
from surgery.privacy import drop_paths
from surgery.record.manifest import ChangedTensors
from surgery.variants import Fit, needs_text

Fits = Mapping[int, Fit]
"""Block → its fit to calibration text."""


def plan_shards(checkpoint: Checkpoint, plan: Plan, fits: Fits) -> dict[str, OutputShard]:
    """Returns the shards to write, by file name. Keeps the source's unless a size is given."""
    changes = {change.name: change for change in plan.changes}
    stored = (tensor.info.name for shard in checkpoint.shards for tensor in shard.tensors)
    first: dict[int, str] = {}  # dropped tensor of a block: what is added takes its place
    for name in stored:
        if name in changes and changes[name].action == "drop":
            first.setdefault(changes[name].block, name)
    after: dict[str, list[StoredTensor]] = {}

    def new(change: TensorChange) -> StoredTensor:
        info = TensorInfo(change.name, plan.inventory.dtype, change.shape)
        return StoredTensor.compute(
            info, partial(compute_content, change, plan, checkpoint.read, fits)
        )

    for change in plan.changes:
        if change.action == "add":
            place = first.get(change.block, change.name.removesuffix(".bias") + ".weight")
            after.setdefault(place, []).append(new(change))
    edited: list[tuple[str, OutputShard]] = []
    verbatim = all(shard.verbatim for shard in checkpoint.shards)
    names = name_shards(len(checkpoint.shards))
    for shard, name in zip(checkpoint.shards, names, strict=True):
        entries: list[StoredTensor] = []
        for tensor in shard.tensors:
            kept = changes.get(tensor.info.name)
            if kept is None:
                entries.append(tensor)
            elif kept.action == "rewrite":
                entries.append(new(kept))
            entries += after.get(tensor.info.name, ())
        touched = any(t.info.name in changes or t.info.name in after for t in shard.tensors)
        metadata = drop_paths(shard.metadata)
        copied = shard.verbatim and not touched and metadata == shard.metadata
        whole = shard.path if copied else None
        written = OutputShard(tuple(entries), metadata, copy_of=whole)
        edited.append((shard.path.name if verbatim else name, written))
    return {name: shard for name, shard in edited if shard.entries}


def compute_content(
    change: TensorChange,
    plan: Plan,
    read: Callable[[str], Array],
    fits: Fits,
    *,
    dtype: str | None = None,
) -> Array:
    """Computes a changed tensor from the source's tensors. What it computes must be finite; what is
    copied is not looked at: `verify` and measurements see it.

    `dtype`: a safetensors tag (F32, F16, BF16); default: the source's.
    """
    tag = dtype or plan.inventory.dtype
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is reported below
        array = plan.compute(change, read, fits).astype(DTYPES[tag], copy=False)
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"the new content of {change.name!r} is not finite in {tag}",
            expected="finite weights",
            fix="check the source for infinities or NaN, or convert it to a wider dtype",
        )
    return array


def read_result(plan: Plan, read: Callable[[str], Array]) -> Callable[[str], Array]:
    """Makes a reader of the result's tensors, with NaN for numbers that are not fitted yet.

    `read`: reads those of the source.
    """
    changes, fits = {change.name: change for change in plan.changes}, make_unknown_fits(plan)

    def read_changed(name: str) -> Array:
        change = changes.get(name)
        return read(name) if change is None else plan.compute(change, read, fits)

    return read_changed


def make_unknown_fits(plan: Plan) -> Fits:
    """Makes fits of NaN, to mark every number that an edit takes from a fit."""
    size = plan.inventory.dimensions
    weight = np.broadcast_to(np.float32(math.nan), (size.num_heads, size.head_size, size.d))
    unknown = Fit(weight[..., 0], weight, weight[..., 0], ridge=math.nan, r2=math.nan)
    return dict.fromkeys(plan.fitted, unknown)


def list_changes(plan: Plan) -> ChangedTensors:
    """Returns the names of the tensors that a plan rewrites, adds and drops, in its order."""

    def names(action: str) -> list[str]:
        return [change.name for change in plan.changes if change.action == action]

    return ChangedTensors(rewritten=names("rewrite"), added=names("add"), dropped=names("drop"))


def check_fitted(plan: Plan, fits: Fits) -> None:
    """Raises `UnsupportedError` if the plan needs fits that are not there."""
    without = [block for block in plan.fitted if block not in fits]
    if without:
        raise needs_text(v.name for v in plan.edits[without[0]].variants.values() if v.fitted)
