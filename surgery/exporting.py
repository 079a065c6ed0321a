"""Exports an edit: reads a source, rewrites its blocks, streams the result to a new folder."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from surgery.adapter import Adapter
from surgery.card.text import read_card, render_card
from surgery.checkpoint import (
    ADAPTER,
    ADAPTER_WEIGHTS,
    CARD,
    MANIFEST,
    SAFETENSORS_INDEX,
    Checkpoint,
    encode_json,
    hash_content,
    hash_file,
    hash_tensors,
    read_header,
    read_sidecar,
)
from surgery.compact import MODELING_FILE
from surgery.errors import CheckpointError, ManifestError, OutputError
from surgery.fitting.calibration import find_calibration
from surgery.output import check_output, create_folder
from surgery.plan import Plan, check_fitted, describe_edit
from surgery.preparing import Fitting, Prepared, list_variants, prepare
from surgery.privacy import drop_paths, expand_home, get_last_name
from surgery.processes import by_one
from surgery.record.manifest import (
    UNLISTED,
    EditedModel,
    ErasingRecord,
    FileRecord,
    HealingRecord,
    Manifest,
    Record,
    Source,
    Step,
    list_versions,
    read_manifest,
)
from surgery.record.plan_file import PlanFile
from surgery.selection import Selection
from surgery.untrusted import read_bytes, reraise_as
from surgery.writer import HashedFile, OutputShard, Progress, make_index, name_shards, plan_shards


@dataclass(frozen=True)
class Trained:
    """A source whose weights were trained, and the record of it. `adapter`: what was learned, if
    the weights are those of the source, and it stands beside them."""

    checkpoint: Checkpoint
    record: ErasingRecord | HealingRecord
    adapter: Adapter | None = None


@dataclass(frozen=True)
class Export:
    """A finished step. `output`: its folder. `plan`: of what was cut."""

    output: Path
    plan: Plan
    manifest: Manifest

    def to_json(self) -> dict[str, Any]:
        step = self.manifest.step
        records: dict[str, Record | None] = {
            "calibration": step.calibration,
            "erasing": step.erasing,
            "healing": step.healing,
        }
        return {
            "output": str(self.output),
            "kind": step.kind,
            **describe_edit(self.plan),
            "layout": step.layout,
            "rewritten": list(self.plan.rewritten),
            "dropped": list(self.plan.dropped),
            **{name: record and record.model_dump(mode="json") for name, record in records.items()},
            "bytes": sum(file.size for file in self.manifest.files.values()),
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
) -> Export:
    """Makes chosen blocks of a model attention-free and saves the result.

    **Arguments:**

    - `model`: a folder, a Hub id with its `revision`, or an embedded model (`lab:pythia`).
    - `drop_attn`: the blocks and heads, for example "20-23,7.1-3" or "last:4"; or a selection with
      a variant for each part (`surgery.selection`), or a plan file.
    - `output`: the folder to create (default: `NAME-VARIANT-BLOCKS`).
    - `variant`: "identity", "zero", "mean" or "linear"; `layout`: "auto", "stock" or "compact". In
      stock, Mistral without a sliding window becomes Llama, unless the variant is "zero".
    - `calibration`: files or folders of text, or `hf:DATASET:SPLIT:COLUMN`, that `mean` and
      `linear` are fitted on.
    - `overwrite`: replace an existing output once the new one is complete.

    **Raises:** a `SurgeryError`; the output is then missing, or still the old one.
    """
    text = find_calibration(list_variants(drop_attn, variant), calibration)
    prepared = prepare(model, drop_attn, variant=variant, layout=layout, revision=revision)
    fitting = None
    if text is not None:
        from surgery.fitting.fitter import fit_checkpoint  # needs torch; most exports do not

        fitting = fit_checkpoint(prepared, text)
    return write(prepared, output, fitting=fitting, overwrite=overwrite)


def write(
    prepared: Prepared,
    output: str | Path | None = None,
    *,
    fitting: Fitting | None = None,
    overwrite: bool = False,
    trained: Trained | None = None,
    progress: Progress = lambda nbytes: None,
) -> Export:
    """Writes a step: the cut of a plan, or weights that were `trained`, or an adapter in place of a
    model. Calls `progress` with the number of bytes just written."""
    target = Path(output) if output is not None else prepared.default_output
    check_apart(prepared.checkpoint.folder, target)
    fitting = fitting or Fitting()
    check_fitted(prepared.plan, fitting.fits)
    manifest = _write(prepared, target, fitting, trained, overwrite, progress)
    return Export(target, prepared.plan, manifest)


@by_one
def _write(
    prepared: Prepared,
    target: Path,
    fitting: Fitting,
    trained: Trained | None,
    overwrite: bool,
    progress: Progress,
) -> Manifest:
    """Writes the folder, and returns its manifest."""
    plan, checkpoint = prepared.plan, prepared.checkpoint
    adapter = None if trained is None else trained.adapter
    if adapter is not None:
        shards = {ADAPTER_WEIGHTS: OutputShard(adapter.tensors, {"format": "pt"})}
    else:
        weights = checkpoint if trained is None else trained.checkpoint
        shards = plan_shards(weights, plan, fitting.fits)
    with create_folder(target, list_owned, overwrite=overwrite) as folder:
        files = {}
        for name, shard in shards.items():
            with HashedFile(folder / name, progress) as file:
                shard.write(file)
            files[name] = FileRecord(size=file.size, sha256=file.sha256)
        beside = _collect_files(checkpoint, plan, shards) if adapter is None else {}
        for name, content in beside.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(content)
            files[name] = _record(content)
        entry, config = _make_entry(prepared, adapter)
        files[entry] = _record(config)
        written = [tensor for name in shards for tensor in read_header(folder / name)[0]]
        contents = hash_content(checkpoint), hash_tensors(config, written)
        source = prepared.model.source.model_copy(update={"content": contents[0]})
        with reraise_as(ManifestError, f"cannot be recorded in {MANIFEST}", checkpoint.folder):
            manifest = _make_manifest(prepared, source, fitting, trained, files, contents[1])
        card = render_card(manifest, read_card(checkpoint.folder), name=get_last_name(target))
        (folder / MANIFEST).write_text(manifest.to_text())
        (folder / CARD).write_text(card)
        (folder / entry).write_bytes(config)  # last: without it, nothing loads
    return manifest


def _record(content: bytes) -> FileRecord:
    return FileRecord(size=len(content), sha256=hashlib.sha256(content).hexdigest())


def list_owned(folder: Path) -> Collection[str]:
    """Returns patterns of what attn-surgery wrote into a model's folder (`surgery.output.Owned`).

    Leaves out files that have changed since.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return ()
    return [*UNLISTED, *map(escape, list_unchanged(folder, manifest))]


def list_unchanged(folder: Path, manifest: Manifest) -> set[str]:
    """The files of a folder that are as its manifest records them."""
    unchanged = set()
    for name, file in manifest.files.items():
        path = folder / name
        is_there = path.is_file() and not path.is_symlink() and path.stat().st_size == file.size
        if is_there and hash_file(path) == file.sha256:
            unchanged.add(name)
    return unchanged


def check_target(source: str | Path, target: Path, *, overwrite: bool = False) -> None:
    """Refuses, before any work, an output that could not be written.

    `overwrite`: as for `check_output`. Raises `OutputError`, also if the output and the folder
    `source` overlap.
    """
    folder = expand_home(str(source))
    if folder.is_dir():
        check_apart(folder, target)
    check_output(target, list_owned, overwrite=overwrite)


def _make_manifest(
    prepared: Prepared,
    source: Source,
    fitting: Fitting,
    trained: Trained | None,
    files: dict[str, FileRecord],
    content: str,
) -> Manifest:
    plan, earlier = prepared.plan, prepared.model.manifest
    record = None if trained is None else trained.record
    layout: Any = "adapter" if trained and trained.adapter else plan.layout
    erasing = record if isinstance(record, ErasingRecord) else None
    step = Step(
        **vars(EditedModel.of(source, plan.config)),
        parts=list(plan.selection),
        layout=layout,
        one_hot=plan.one_hot,
        calibration=fitting.record,
        erasing=erasing,
        healing=record if isinstance(record, HealingRecord) else None,
        chosen=prepared.chosen,
        versions=list_versions(),
    )
    history = [*(earlier.history if earlier else ()), step]
    return Manifest(history=history, content=content, files=dict(sorted(files.items())))


def _collect_files(
    checkpoint: Checkpoint, plan: Plan, shards: dict[str, OutputShard]
) -> dict[str, bytes]:
    """The files beside the weights by name: index, sidecars, modeling file."""
    contents: dict[str, bytes] = {}
    if list(shards) != name_shards(1):
        metadata = drop_paths(checkpoint.index_metadata)
        names = {part.tensor.name for shard in shards.values() for part in shard.parts}
        if names != set(checkpoint.tensors):
            metadata.pop("total_parameters", None)  # it was of the source
        index = make_index(shards, metadata)
        contents[SAFETENSORS_INDEX] = encode_json(index)
    contents |= {name: read_sidecar(path) for name, path in checkpoint.sidecars.items()}
    if plan.layout == "compact":
        contents[MODELING_FILE.name] = MODELING_FILE.read_bytes()
    return contents


def _make_entry(prepared: Prepared, adapter: Adapter | None) -> tuple[str, bytes]:
    """The file that makes a folder load, and its content."""
    if adapter is None:
        return "config.json", _make_config(prepared.checkpoint, prepared.plan)
    return ADAPTER, encode_json(adapter.describe(prepared.model.source.model))


def _make_config(checkpoint: Checkpoint, plan: Plan) -> bytes:
    config = drop_paths(dict(plan.config))
    if config == checkpoint.config:
        return read_bytes(checkpoint.folder / "config.json", CheckpointError)
    return encode_json(config)


def check_apart(source: Path, target: Path) -> None:
    """Raises `OutputError` if an output and the folder of a source overlap."""
    outside = Path(os.path.realpath(source))
    inside = Path(os.path.realpath(target))
    if outside in inside.parents or inside in (outside, *outside.parents):
        raise OutputError(
            "the output and the source overlap, and the source must not change",
            where=target,
            fix="choose another `output`",
        )
