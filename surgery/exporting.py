"""The main job: plan → read → rewrite → write. Streams, and leaves the source untouched."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from surgery.blocks import format_blocks
from surgery.checkpoint.copying import HashedFile
from surgery.checkpoint.folder import atomic_folder, hidden_siblings
from surgery.checkpoint.source import SAFETENSORS_INDEX, Checkpoint, open_checkpoint, read_json
from surgery.checkpoint.tensors import DTYPES, Array, FileRange, TensorInfo
from surgery.checkpoint.writer import (
    Entry,
    NewTensor,
    OutputShard,
    Progress,
    WrittenFile,
    index_json,
    shard_names,
    split_shards,
    write_shard,
)
from surgery.errors import CheckpointError, OutputError
from surgery.families import family_of
from surgery.hub import find_model
from surgery.inventory import check_config, take_inventory
from surgery.layouts import Change
from surgery.manifest import NAME as MANIFEST
from surgery.manifest import (
    Changed,
    Edit,
    FileRecord,
    Manifest,
    Source,
    read_manifest,
    versions,
)
from surgery.modeling.files import MODELING_FILES
from surgery.plan import Plan, make_plan


@dataclass(frozen=True)
class Prepared:
    """A source that has been opened and checked, and what will be done to it."""

    checkpoint: Checkpoint
    source: Source
    earlier: Manifest | None
    plan: Plan

    @property
    def default_output(self) -> Path:
        """`NAME-VARIANT-BLOCKS` in the current folder."""
        name = self.source.model.rstrip("/").replace(":", "-").rsplit("/", 1)[-1]
        return Path(f"{name}-{self.plan.variant.NAME}-{format_blocks(self.plan.blocks)}")

    @property
    def total_bytes(self) -> int:
        """Bytes of weights to read, an upper bound of what is written."""
        return sum(info.nbytes for info in self.checkpoint.infos.values())


@dataclass(frozen=True)
class Export:
    """A finished export."""

    output: Path
    plan: Plan
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        return {
            "output": str(self.output),
            "family": self.plan.family.model_type,
            "variant": self.plan.variant.NAME,
            "layout": self.plan.layout.NAME,
            "blocks": list(self.plan.blocks),
            "rewritten": list(self.plan.rewritten),
            "dropped": list(self.plan.dropped),
            "one_hot": None if self.plan.one_hot is None else self.plan.one_hot.to_json(),
            "bytes": sum(record.size for record in self.manifest.files.values()),
        }


def prepare(
    model: str | Path,
    drop_attn: str,
    *,
    variant: str = "identity",
    layout: str = "auto",
    revision: str | None = None,
    name: str | None = None,
) -> Prepared:
    """Finds and checks the source and makes the plan. Reads no weights and writes nothing.

    **Arguments:** as for `export`; `name` is what the manifest calls the source (default: the Hub
    id or the folder's absolute path).

    **Raises:** a `SurgeryError` for anything that would make the export fail.
    """
    folder, source = find_model(model, revision)
    if name is not None:
        source = source.model_copy(update={"model": name})
    config = read_json(folder / "config.json", needed=True)
    check_config(config, family_of(config))  # before any weights are looked at
    checkpoint = open_checkpoint(folder)
    inventory = take_inventory(checkpoint.config, checkpoint.infos)
    earlier = read_manifest(folder)
    plan = make_plan(
        inventory,
        drop_attn,
        variant=variant,
        layout=layout,
        attention_free=earlier.attention_free if earlier else None,
    )
    return Prepared(checkpoint, source, earlier, plan)


def export(
    model: str | Path,
    drop_attn: str,
    *,
    output: str | Path | None = None,
    variant: str = "identity",
    layout: str = "auto",
    revision: str | None = None,
    overwrite: bool = False,
    max_shard_size: int | None = None,
) -> Export:
    """Rewrites chosen blocks of a model into attention-free ones and saves the result.

    **Arguments:**

    - `model`: a folder or a Hub id, with its `revision`.
    - `drop_attn`: the blocks, for example "20-23" or "last:4".
    - `output`: the folder to create (default: `NAME-VARIANT-BLOCKS`).
    - `variant`: "identity" or "zero"; `layout`: "auto", "stock" or "compact".
    - `overwrite`: replace an existing output, once the new one is whole.
    - `max_shard_size`: bytes per weight file (default: as the source is sharded).

    **Raises:** a `SurgeryError`; the output then does not exist, or is still the old one.
    """
    prepared = prepare(model, drop_attn, variant=variant, layout=layout, revision=revision)
    return write(prepared, output, overwrite=overwrite, max_shard_size=max_shard_size)


def write(
    prepared: Prepared,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    max_shard_size: int | None = None,
    progress: Progress = lambda nbytes: None,
) -> Export:
    """Carries out a plan. `progress` is called with the number of bytes just written."""
    target = Path(output) if output is not None else prepared.default_output
    _check_apart(prepared.checkpoint.folder, target)
    plan, checkpoint = prepared.plan, prepared.checkpoint
    with atomic_folder(target, overwrite=overwrite) as folder:
        files: dict[str, WrittenFile] = {}
        shards = _output_shards(checkpoint, plan, max_shard_size)
        for name, shard in shards.items():
            files[name] = write_shard(shard, folder / name, progress)
        if list(shards) != shard_names(1):
            index = index_json(shards, checkpoint.index_metadata)
            files[SAFETENSORS_INDEX] = _write_bytes(folder / SAFETENSORS_INDEX, _json(index))
        copies = {path: path.relative_to(checkpoint.folder) for path in checkpoint.sidecars}
        if plan.layout.NAME == "compact":
            modeling = MODELING_FILES[plan.family.model_type].path
            copies[modeling] = Path(modeling.name)
        for path, relative in copies.items():
            (folder / relative).parent.mkdir(exist_ok=True)
            files[str(relative)] = _copy(path, folder / relative)
        config = _config_bytes(checkpoint, plan)
        files["config.json"] = WrittenFile(len(config), hashlib.sha256(config).hexdigest())
        manifest = _manifest(prepared, files)
        _write_bytes(folder / MANIFEST, manifest.to_text().encode())
        _write_bytes(folder / "config.json", config)  # last: without it, nothing loads
    return Export(target, plan, manifest)


def _output_shards(
    checkpoint: Checkpoint, plan: Plan, max_shard_size: int | None
) -> dict[str, OutputShard]:
    """File name → what to write there. The source's sharding is kept unless a size is asked for."""
    changes = {change.name: change for change in plan.changes}
    added = {
        block: [c for c in plan.changes if c.action == "add" and c.block == block]
        for block in plan.blocks
    }
    edited: list[tuple[str, OutputShard]] = []
    names = _source_names(checkpoint)
    for shard, name in zip(checkpoint.shards, names, strict=True):
        entries: list[Entry] = []
        touched = False
        for tensor in shard.tensors:
            change = changes.get(tensor.info.name)
            touched |= change is not None
            if change is None:
                entries.append(tensor)
            elif change.action == "rewrite":
                entries.append(_new(change, plan, checkpoint))
            else:  # dropped: what is added stands in the place of the block's first dropped tensor
                entries += [_new(add, plan, checkpoint) for add in added.pop(change.block, ())]
        whole = shard.path if shard.verbatim and not touched else None
        edited.append((name, OutputShard(tuple(entries), shard.metadata, copy_of=whole)))
    if max_shard_size is None:
        return {name: shard for name, shard in edited if shard.entries}
    metadata = checkpoint.shards[0].metadata
    packed = split_shards((entry for _, shard in edited for entry in shard.entries), max_shard_size)
    return {
        name: OutputShard(entries, metadata)
        for name, entries in zip(shard_names(len(packed)), packed, strict=True)
    }


def _source_names(checkpoint: Checkpoint) -> list[str]:
    if all(shard.verbatim for shard in checkpoint.shards):
        return [shard.path.name for shard in checkpoint.shards]
    return shard_names(len(checkpoint.shards))


def _new(change: Change, plan: Plan, checkpoint: Checkpoint) -> NewTensor:
    info = TensorInfo(change.name, plan.inventory.dtype, change.shape)
    return NewTensor(info, partial(new_content, change, plan, checkpoint.read))


def new_content(change: Change, plan: Plan, read: Callable[[str], Array]) -> Array:
    """The content of a changed tensor in the checkpoint's dtype, from the source's tensors.

    **Raises:** `CheckpointError` when a number is not finite.
    """
    dtype = plan.inventory.dtype
    with np.errstate(over="ignore"):  # an overflow becomes infinite and is reported below
        array = plan.compute(change, read).astype(DTYPES[dtype], copy=False)
    if not np.isfinite(array.astype(np.float32, copy=False)).all():
        raise CheckpointError(
            f"the new content of {change.name!r} is not finite in {dtype}",
            expected="finite weights",
            fix="the source holds infinities or NaN, or needs a wider dtype for this variant",
        )
    return array


def changed_by(plan: Plan) -> Changed:
    """The names of the tensors that a plan rewrites, adds and drops, in its order."""
    rewritten, added, dropped = (
        [change.name for change in plan.changes if change.action == action]
        for action in ("rewrite", "add", "drop")
    )
    return Changed(rewritten=rewritten, added=added, dropped=dropped)


def _manifest(prepared: Prepared, files: dict[str, WrittenFile]) -> Manifest:
    plan, earlier = prepared.plan, prepared.earlier
    edit = Edit(
        source=prepared.source,
        family=plan.family.model_type,
        num_blocks=plan.inventory.dimensions.num_blocks,
        blocks=list(plan.blocks),
        variant=plan.variant.NAME,
        layout="compact" if plan.layout.NAME == "compact" else "stock",
        one_hot=plan.one_hot,
        changed=changed_by(plan),
        versions=versions(),
    )
    return Manifest(
        edit=edit,
        history=[*earlier.history, earlier.edit] if earlier else [],
        files={
            name: FileRecord(size=file.size, sha256=file.sha256)
            for name, file in sorted(files.items())
        },
    )


def _config_bytes(checkpoint: Checkpoint, plan: Plan) -> bytes:
    if plan.config == checkpoint.config:
        return (checkpoint.folder / "config.json").read_bytes()
    return _json(plan.config)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


def _copy(source: Path, target: Path) -> WrittenFile:
    with HashedFile(target) as file:
        file.copy(FileRange(source, 0, source.stat().st_size))
    return WrittenFile(file.size, file.sha256)


def _write_bytes(path: Path, data: bytes) -> WrittenFile:
    with HashedFile(path) as file:
        file.write(data)
    return WrittenFile(file.size, file.sha256)


def _check_apart(source: Path, target: Path) -> None:
    outside = Path(os.path.realpath(source))
    inside = Path(os.path.realpath(target))
    if outside in inside.parents or any(
        folder in (outside, *outside.parents) for folder in (inside, *hidden_siblings(inside))
    ):
        raise OutputError(
            "the output and the source overlap, and the source is never touched",
            where=target,
            fix="choose another --output",
        )
