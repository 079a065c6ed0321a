"""The main job: plan → read → rewrite → write. Streams, and leaves the source untouched."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from glob import escape
from pathlib import Path
from typing import Any

from surgery.card import card_text
from surgery.card_file import read_card
from surgery.checkpoint.content import ContentHash, file_hash
from surgery.checkpoint.copying import HashedFile
from surgery.checkpoint.links import own_file
from surgery.checkpoint.source import (
    CARD,
    SAFETENSORS_INDEX,
    SIDECARS,
    Checkpoint,
    open_checkpoint,
    read_json,
)
from surgery.checkpoint.tensors import FileRange
from surgery.checkpoint.writer import Progress, WrittenFile, index_json, shard_names, write_shard
from surgery.errors import CheckpointError, OutputError, SourceError
from surgery.families import family_of
from surgery.fitting.calibration import calibration_of
from surgery.hub import find_model, last_name
from surgery.inventory import check_config, check_tokenizer, take_inventory
from surgery.manifest import NAME as MANIFEST
from surgery.manifest import (
    UNLISTED,
    CalibrationRecord,
    Edit,
    FileRecord,
    Manifest,
    Source,
    read_manifest,
    versions,
)
from surgery.modeling import MODELING_FILE
from surgery.output import atomic_folder, check_output, is_unfinished
from surgery.plan import Plan, make_plan
from surgery.plan_file import PlanFile
from surgery.rewriting import Fits, changed_by, check_fitted, output_shards
from surgery.selection import Selection, checked, parse_selection

_LONGEST_SPEC = 60  # characters of blocks and heads in the name of an output

FileState = tuple[int, int]
"""Bytes, and the time of the last change in nanoseconds."""


@dataclass(frozen=True)
class Fitting:
    """What calibration text gave: fits by block, and the record of the text for the manifest."""

    fits: Fits = field(default_factory=dict)
    record: CalibrationRecord | None = None


@dataclass(frozen=True)
class Prepared:
    """A source that has been opened and checked, and what will be done to it.

    `found`: the state of its files before anything of them was read.
    """

    found: Mapping[Path, FileState]
    checkpoint: Checkpoint
    source: Source
    earlier: Manifest | None
    plan: Plan

    @property
    def default_output(self) -> Path:
        """`NAME-VARIANT-BLOCKS` in the current folder; a hash where the blocks make it too long."""
        name = self.source.model.rstrip("/").replace(":", "-").rsplit("/", 1)[-1]
        spec = self.plan.spec
        if len(spec) > _LONGEST_SPEC:
            spec = hashlib.sha256(spec.encode()).hexdigest()[:12]
        # a comma would end the name in `lm_eval --model_args pretrained=NAME,…`
        return Path(f"{name}-{self.plan.variant}-{spec}".replace(",", "+"))

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
        record = self.manifest.edit.calibration
        return {
            "output": str(self.output),
            "family": self.plan.family.model_type,
            "variant": self.plan.variant,
            "layout": self.plan.layout.NAME,
            "blocks": list(self.plan.blocks),
            "parts": [asdict(part) for part in self.plan.selection],
            "rewritten": list(self.plan.rewritten),
            "dropped": list(self.plan.dropped),
            "one_hot": None if self.plan.one_hot is None else self.plan.one_hot.to_json(),
            "calibration": record and record.model_dump(mode="json"),
            "bytes": sum(record.size for record in self.manifest.files.values()),
        }


def prepare(
    model: str | Path,
    drop_attn: str | Selection | PlanFile,
    *,
    variant: str = "identity",
    layout: str = "auto",
    revision: str | None = None,
    name: str | None = None,
) -> Prepared:
    """Finds and checks the source and makes the plan. Reads no weights and writes nothing.

    **Arguments:** as for `export`; `name` is what the manifest calls the source (default: the Hub
    id or the folder's name).

    **Raises:** a `SurgeryError` for anything that would make the export fail.
    """

    def select(config: dict[str, Any]) -> Selection:
        size = family_of(config).dimensions(config)
        if isinstance(drop_attn, PlanFile):
            return drop_attn.selection(size.num_blocks, size.num_heads)
        if isinstance(drop_attn, str):
            return parse_selection(drop_attn, variant, size.num_blocks, size.num_heads)
        return checked(drop_attn, size.num_blocks, size.num_heads)

    folder, source = find_model(model, revision, check=select)
    if name is not None:
        source = source.model_copy(update={"model": name})
    found = _states(path for pattern in ("*", *SIDECARS) for path in folder.glob(pattern))
    config = read_json(folder / "config.json", needed=True)
    check_config(config, family_of(config))  # before any weights are looked at
    check_tokenizer(folder)
    if isinstance(drop_attn, PlanFile):
        drop_attn.check_model(folder, source, config)
        layout = drop_attn.layout if layout == "auto" else layout
    checkpoint = open_checkpoint(folder)
    for path in checkpoint.files:
        own_file(path, folder)
    inventory = take_inventory(checkpoint.config, checkpoint.infos)
    earlier = read_manifest(folder)
    plan = make_plan(
        inventory,
        select(config),
        layout=layout,
        earlier=earlier.edited_heads if earlier else None,
    )
    return Prepared(found, checkpoint, source, earlier, plan)


def export(
    model: str | Path,
    drop_attn: str | Selection | PlanFile,
    *,
    output: str | Path | None = None,
    variant: str = "identity",
    layout: str = "auto",
    revision: str | None = None,
    calibration: Sequence[str | Path] = (),
    overwrite: bool = False,
    max_shard_size: int | None = None,
) -> Export:
    """Rewrites chosen blocks of a model into attention-free ones and saves the result.

    **Arguments:**

    - `model`: a folder, a Hub id with its `revision`, or an embedded model (`lab:pythia`).
    - `drop_attn`: the blocks and heads, for example "20-23,7.1-3" or "last:4"; or a selection with
      a variant for each part (`surgery.selection`), or a plan file.
    - `output`: the folder to create (default: `NAME-VARIANT-BLOCKS`).
    - `variant`: "identity", "zero", "mean" or "linear"; `layout`: "auto", "stock" or "compact".
    - `calibration`: files or folders of text, or `hf:DATASET:SPLIT:COLUMN`, that `mean` and
      `linear` are fitted on.
    - `overwrite`: replace an existing output, once the new one is whole.
    - `max_shard_size`: bytes per weight file (default: as the source is sharded).

    **Raises:** a `SurgeryError`; the output then does not exist, or is still the old one.
    """
    text = calibration_of(variants_of(drop_attn, variant), calibration)
    prepared = prepare(model, drop_attn, variant=variant, layout=layout, revision=revision)
    fitting = None
    if text is not None:
        from surgery.fitting.fitter import fit_checkpoint  # needs torch, as most exports do not

        fitting = fit_checkpoint(prepared, text)
    return write(
        prepared, output, fitting=fitting, overwrite=overwrite, max_shard_size=max_shard_size
    )


def variants_of(drop_attn: str | Selection | PlanFile, variant: str) -> set[str]:
    """The variants that an edit names, before there is a model to plan it for."""
    if isinstance(drop_attn, str):
        return {variant}
    parts = drop_attn.edits if isinstance(drop_attn, PlanFile) else drop_attn
    return {part.variant for part in parts}


def write(
    prepared: Prepared,
    output: str | Path | None = None,
    *,
    fitting: Fitting | None = None,
    overwrite: bool = False,
    max_shard_size: int | None = None,
    progress: Progress = lambda nbytes: None,
) -> Export:
    """Carries out a plan. `progress` is called with the number of bytes just written.

    **Raises:** `UnsupportedError` when a variant needs a `fitting` that is not there,
    `CheckpointError` when the source has changed since it was prepared.
    """
    target = Path(output) if output is not None else prepared.default_output
    _check_apart(prepared.checkpoint.folder, target)
    plan, checkpoint = prepared.plan, prepared.checkpoint
    fitting = fitting or Fitting()
    check_fitted(plan, fitting.fits)
    with atomic_folder(target, owned, overwrite=overwrite) as folder:
        files: dict[str, WrittenFile] = {}
        shards = output_shards(checkpoint, plan, fitting.fits, max_shard_size)
        copies_of = {shard.copy_of: name for name, shard in shards.items() if shard.copy_of}
        content = ContentHash(checkpoint, apart=copies_of)
        for name, shard in shards.items():
            files[name] = write_shard(shard, folder / name, progress)
        if list(shards) != shard_names(1):
            index = index_json(shards, checkpoint.index_metadata)
            files[SAFETENSORS_INDEX] = _write_bytes(folder / SAFETENSORS_INDEX, _json(index))
        copies = {path: path.relative_to(checkpoint.folder) for path in checkpoint.sidecars}
        if plan.layout.NAME == "compact":
            copies[MODELING_FILE] = Path(MODELING_FILE.name)
        for path, relative in copies.items():
            (folder / relative).parent.mkdir(exist_ok=True)
            files[str(relative)] = _copy(path, folder / relative)
        config = _config_bytes(checkpoint, plan)
        files["config.json"] = WrittenFile(len(config), hashlib.sha256(config).hexdigest())
        known = {path: files[name].sha256 for path, name in copies_of.items()}
        source = prepared.source.model_copy(update={"content": content.result(known)})
        manifest = _manifest(prepared, source, fitting, files, max_shard_size)
        _write_bytes(folder / MANIFEST, manifest.to_text().encode())
        card = card_text(manifest, read_card(checkpoint.folder), name=last_name(target))
        _write_bytes(folder / CARD, card.encode())
        _check_unchanged(prepared)
        _write_bytes(folder / "config.json", config)  # last: without it, nothing loads
    return Export(target, plan, manifest)


def owned(folder: Path) -> Collection[str]:
    """What attn-surgery wrote into the folder of a model, as patterns: see `surgery.output.Owned`.

    A listed file whose content is another by now is not among it.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return ()
    listed = manifest.files.items()
    return (*UNLISTED, *(escape(name) for name, file in listed if _is_as(folder / name, file)))


def _is_as(path: Path, recorded: FileRecord) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    return path.stat().st_size == recorded.size and file_hash(path) == recorded.sha256


def check_target(source: str | Path, target: Path, **options: Any) -> None:
    """Refuses, before any work is done, an output that could not be written in the end.

    `options` are those of `check_output`. Raises `OutputError`, also for one that overlaps the
    folder `source`.
    """
    if Path(source).is_dir():
        _check_apart(Path(source), target)
    check_output(target, owned, **options)


def _manifest(
    prepared: Prepared,
    source: Source,
    fitting: Fitting,
    files: dict[str, WrittenFile],
    max_shard_size: int | None,
) -> Manifest:
    plan, earlier = prepared.plan, prepared.earlier
    edit = Edit(
        source=source,
        family=plan.family.model_type,
        num_blocks=plan.inventory.dimensions.num_blocks,
        num_heads=plan.inventory.dimensions.num_heads,
        parts=list(plan.selection),
        layout="compact" if plan.layout.NAME == "compact" else "stock",
        one_hot=plan.one_hot,
        calibration=fitting.record,
        max_shard_size=max_shard_size,
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


def _states(paths: Iterable[Path]) -> dict[Path, FileState]:
    stats = ((path, path.stat()) for path in paths if path.is_file())
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in stats}


def _check_unchanged(prepared: Prepared) -> None:
    files = prepared.checkpoint.files
    now = _states(files)
    for path in files:
        if now.get(path) != prepared.found.get(path):
            raise CheckpointError(
                "changed while it was read", where=path, fix="export again once it is complete"
            )


def _check_apart(source: Path, target: Path) -> None:
    outside = Path(os.path.realpath(source))
    inside = Path(os.path.realpath(target))
    if outside in inside.parents or inside in (outside, *outside.parents):
        raise OutputError(
            "the output and the source overlap, and the source is never touched",
            where=target,
            fix="choose another `output`",
        )
    if is_unfinished(outside):
        raise SourceError(
            "is what a run that was killed has left, and will be removed",
            where=source,
            fix="give it another name to keep it",
        )
