"""Heals a cut: trains its folder's weights on other text, and writes them to a new folder.

The cut is whole and proved before training begins. What the edit set, whatever the source held, is
taken from the cut bit by bit; so are buffers and every file that holds no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surgery.card.text import read_card, render_card
from surgery.checkpoint.source import CARD, HEADS, MANIFEST, Checkpoint, open_checkpoint
from surgery.checkpoint.tensors import DTYPES, Array, StoredTensor, TensorInfo
from surgery.checkpoint.writer import OutputShard, write_file
from surgery.editing.loading import load_model
from surgery.errors import CheckpointError
from surgery.exporting import Export, list_owned
from surgery.fitting.calibration import Calibration
from surgery.healing.training import LEARNING_RATE, ROWS, Flags, Schedule, train
from surgery.output import create_folder
from surgery.privacy import get_last_name
from surgery.proof.expected import find_constants, replan
from surgery.proof.static import check_written
from surgery.record.manifest import FileRecord, HealingRecord, Manifest, list_versions

_FIX = "heal with other text or fewer steps"


def heal(
    cut: Export,
    output: Path,
    text: Calibration,
    schedule: Schedule,
    passages: str | None = None,
    *,
    overwrite: bool = False,
    device: torch.device | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Export:
    """Trains an exported cut on `text` and writes the result to `output`.

    `passages`: SHA-256 of the passages that the text was checked against; `device`: by default a
    GPU, if there is one; `advance` counts steps.
    Raises `UnsupportedError` for a model that does not fit into memory, `CheckpointError` if the
    loss or a weight is no longer finite, `OutputError`.
    """
    checkpoint, manifest = open_checkpoint(cut.output), cut.manifest
    constants = find_constants(replan(checkpoint, manifest), checkpoint.tensors)
    with create_folder(output, list_owned, overwrite=overwrite) as folder:
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        model = load_model(checkpoint, device=device).float()
        schedule = schedule.settle(model)
        losses = train(model, text.windows, schedule, constants=constants, advance=advance)
        if not np.isfinite(losses).all():
            step = int(np.argmin(np.isfinite(losses)))
            got = f"{losses[step]} before step {step + 1}"
            raise CheckpointError("the loss is not finite while healing", got=got, fix=_FIX)
        record = HealingRecord(
            **dict(text.record_text()),
            steps=schedule.steps,
            rows=ROWS,
            learning_rate=LEARNING_RATE,
            seed=schedule.seed,
            rank=schedule.rank or 0,
            device=device.type,
            threads=torch.get_num_threads(),
            losses=losses,
            passages=passages,
        )
        files = dict(_write_files(checkpoint, manifest, model, constants, folder))
        files["config.json"] = manifest.files["config.json"]
        update = {"healing": record, "versions": list_versions()}
        edit = manifest.edit.model_copy(update=update)
        healed = manifest.model_copy(update={"edit": edit, "files": dict(sorted(files.items()))})
        card = render_card(healed, read_card(cut.output), name=get_last_name(output))
        write_file(folder / MANIFEST, [healed.to_text().encode()])
        write_file(folder / CARD, [card.encode()])
        config = (cut.output / "config.json").read_bytes()
        write_file(folder / "config.json", [config])  # last: without it, nothing loads
        check_written(folder, healed, None)
    return replace(cut, output=output, manifest=healed)


def _write_files(
    checkpoint: Checkpoint,
    manifest: Manifest,
    model: Any,
    constants: dict[str, Flags],
    folder: Path,
) -> Iterator[tuple[str, FileRecord]]:
    """Writes every file but config.json. Yields their names and records."""
    parameters = dict(model.named_parameters())
    head = model.get_output_embeddings().weight

    def renew(tensor: StoredTensor) -> StoredTensor:
        info = tensor.info
        trained = parameters.get(info.name, head if info.name in HEADS else None)
        if trained is None:
            return tensor
        take = partial(_take, info, trained, tensor, constants.get(info.name))
        return StoredTensor.compute(info, take)

    shards = {
        shard.path.name: OutputShard(tuple(map(renew, shard.tensors)), shard.metadata)
        for shard in checkpoint.shards
    }
    for name in sorted(manifest.files.keys() - {"config.json"}):
        path, source = folder / name, checkpoint.folder / name
        path.parent.mkdir(exist_ok=True)
        pieces = shards[name].read_pieces() if name in shards else [source.read_bytes()]
        sha256 = write_file(path, pieces)
        yield name, FileRecord(size=path.stat().st_size, sha256=sha256)


def _take(
    info: TensorInfo, trained: torch.Tensor, tensor: StoredTensor, fixed: Flags | None
) -> Array:
    """Rounds a trained tensor to its stored dtype, with the cut's constants."""
    with np.errstate(over="ignore"):  # an overflow becomes infinite, which is reported below
        array = trained.detach().cpu().numpy().astype(DTYPES[info.dtype])
    if fixed is not None:
        array = np.where(fixed, tensor.read_array(), array)
    if not np.isfinite(array).all():
        raise CheckpointError(
            f"{info.name!r} is not finite in {info.dtype} after healing",
            fix=_FIX,
        )
    return array
