"""The main job: reads a source, rewrites its blocks, and streams the result to a new folder."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from surgery.card.file import read_card
from surgery.card.text import render_card
from surgery.checkpoint.content import check_unchanged, content_hash, file_hash
from surgery.checkpoint.source import CARD, MANIFEST, SAFETENSORS_INDEX, Checkpoint
from surgery.checkpoint.writer import OutputShard, Progress, index_json, shard_names, write_file
from surgery.editing.preparing import Fitting, Prepared, prepare, variants_of
from surgery.editing.rewriting import changed_by, check_fitted, output_shards
from surgery.errors import OutputError, SourceError
from surgery.fitting.calibration import calibration_of
from surgery.hub.finding import last_name
from surgery.modeling import MODELING_FILE
from surgery.output import atomic_folder, check_output, is_unfinished
from surgery.plan import Plan
from surgery.record.manifest import (
    UNLISTED,
    Edit,
    EditedModel,
    FileRecord,
    Manifest,
    Source,
    read_manifest,
    versions,
)
from surgery.record.plan_file import PlanFile
from surgery.selection import Selection


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
            **self.plan.described(),
            "rewritten": list(self.plan.rewritten),
            "dropped": list(self.plan.dropped),
            "calibration": record and record.model_dump(mode="json"),
            "bytes": sum(record.size for record in self.manifest.files.values()),
        }


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
    with (
        atomic_folder(target, owned, overwrite=overwrite) as folder,
        ThreadPoolExecutor(1) as beside,
    ):
        shards = output_shards(checkpoint, plan, fitting.fits, max_shard_size)
        copies_of = {shard.copy_of: name for name, shard in shards.items() if shard.copy_of}
        read = [shard.path for shard in checkpoint.shards if shard.path not in copies_of]
        hashes = beside.map(file_hash, read)
        sums = {
            name: write_file(folder / name, shard.pieces(), progress)
            for name, shard in shards.items()
        }
        for name, content in _beside_weights(checkpoint, plan, shards).items():
            (folder / name).parent.mkdir(exist_ok=True)
            sums[name] = write_file(folder / name, [content])
        config = _config_bytes(checkpoint, plan)
        files = {
            name: FileRecord(size=(folder / name).stat().st_size, sha256=sha256)
            for name, sha256 in sums.items()
        }
        files["config.json"] = FileRecord(
            size=len(config), sha256=hashlib.sha256(config).hexdigest()
        )
        known = {path: sums[name] for path, name in copies_of.items()}
        known |= dict(zip(read, hashes, strict=True))
        source = prepared.model.source.model_copy(
            update={"content": content_hash(checkpoint, known)}
        )
        manifest = _manifest(prepared, source, fitting, files, max_shard_size)
        card = render_card(manifest, read_card(checkpoint.folder), name=last_name(target))
        write_file(folder / MANIFEST, [manifest.to_text().encode()])
        write_file(folder / CARD, [card.encode()])
        fix = "export again once it is complete"
        check_unchanged(prepared.checkpoint.files, prepared.found, fix=fix)
        write_file(folder / "config.json", [config])  # last: without it, nothing loads
    return Export(target, plan, manifest)


def owned(folder: Path) -> Collection[str]:
    """Returns patterns of what attn-surgery wrote into a model's folder (`surgery.output.Owned`).

    A listed file that has changed since is not among them.
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
    files: dict[str, FileRecord],
    max_shard_size: int | None,
) -> Manifest:
    plan, earlier = prepared.plan, prepared.model.manifest
    edit = Edit(
        **vars(EditedModel.of(source, plan.inventory.config)),
        parts=list(plan.selection),
        layout="compact" if plan.layout.NAME == "compact" else "stock",
        one_hot=plan.one_hot,
        calibration=fitting.record,
        chosen=prepared.chosen,
        max_shard_size=max_shard_size,
        changed=changed_by(plan),
        versions=versions(),
    )
    return Manifest(
        edit=edit,
        history=[*earlier.history, earlier.edit] if earlier else [],
        files=dict(sorted(files.items())),
    )


def _beside_weights(
    checkpoint: Checkpoint, plan: Plan, shards: dict[str, OutputShard]
) -> dict[str, bytes]:
    """Returns the index, what comes along from the source, and a modeling file, by name."""
    contents: dict[str, bytes] = {}
    if list(shards) != shard_names(1):
        contents[SAFETENSORS_INDEX] = _json(index_json(shards, checkpoint.index_metadata))
    contents |= {name: path.read_bytes() for name, path in checkpoint.carried.items()}
    if plan.layout.NAME == "compact":
        contents[MODELING_FILE.name] = MODELING_FILE.read_bytes()
    return contents


def _config_bytes(checkpoint: Checkpoint, plan: Plan) -> bytes:
    if plan.config == checkpoint.config:
        return (checkpoint.folder / "config.json").read_bytes()
    return _json(plan.config)


def _json(value: object) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()


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
