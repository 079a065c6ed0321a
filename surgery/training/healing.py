"""Heals a cut: trains its weights to predict what the source predicts, and writes a new folder.

On other text, the cut learns the predictions of its source. On passages, if they are given, it
learns its own from before the training, so that they do not come back (the guard). The cut is whole
and proved before training begins. What the edit set, whatever the source held, is taken from the
cut bit by bit; so are buffers and every file that holds no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from surgery.card.text import read_card, render_card
from surgery.checkpoint.inventory import make_inventory
from surgery.checkpoint.source import CARD, MANIFEST, Checkpoint, open_checkpoint
from surgery.checkpoint.writer import OutputShard, write_file
from surgery.editing.loading import load_to_train
from surgery.exporting import Export, list_owned
from surgery.fitting.calibration import Calibration
from surgery.output import create_folder
from surgery.plan import check_trainable
from surgery.privacy import get_last_name
from surgery.proof.expected import check_recorded, find_constants, replan
from surgery.proof.static import check_written
from surgery.record.manifest import FileRecord, HealingRecord, Manifest, list_versions
from surgery.training.distillation import Passages, count_recited, record_training, teach
from surgery.training.student import copy_sharing
from surgery.training.training import Schedule
from surgery.training.weights import round_weights, take_weights


def heal(
    cut: Export,
    source: Checkpoint,
    output: Path,
    text: Calibration,
    schedule: Schedule,
    passages: Passages | None = None,
    *,
    overwrite: bool = False,
    device: torch.device | None = None,
    passes: torch.dtype | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Export:
    """Trains an exported cut of `source` on `text` and writes the result to `output`.

    `passages`: those that must not come back; `device`: by default a GPU, if there is one;
    `passes`: the dtype of forward passes, by default by `choose_dtype`; `advance` counts steps.
    Raises `UnsupportedError` for models that do not fit into memory or have an edit that no record
    tells of, `CheckpointError` if the loss or a weight is no longer finite, `OutputError`.
    """
    checkpoint, manifest = open_checkpoint(cut.output), cut.manifest
    check_trainable(make_inventory(checkpoint.config, checkpoint.infos))
    check_recorded(checkpoint, manifest)
    constants = find_constants(replan(checkpoint, manifest), checkpoint.tensors)
    with create_folder(output, list_owned, overwrite=overwrite) as folder:
        model = load_to_train(checkpoint, device, passes)
        intact = _load_beside(model, source)
        teacher = 0 if passages is None else count_recited(model, passages)  # it will change
        lessons = intact, model, text, passages, schedule
        taught = teach(model, *lessons, constants=constants, advance=advance, owns_base=True)
        stored = next(iter(make_inventory(checkpoint.config, checkpoint.infos).dtypes))
        new, kept = round_weights(taught.student, stored)
        record = HealingRecord(
            **record_training(text, taught, kept),
            recital=None if passages is None else passages.tell(new, teacher),
            passages=None if passages is None else passages.record,
            loss="kl",
        )
        trained = take_weights(checkpoint, new, constants)
        files = dict(_write_files(checkpoint, trained, manifest, folder))
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


def _load_beside(model: Any, source: Checkpoint) -> Any:
    """The model of another checkpoint, which shares with `model` the weights that are alike.

    It is loaded on the CPU, so that a GPU never holds two.
    """
    others = dict(model.named_parameters())

    def find_alike(name: str, weight: torch.Tensor) -> torch.Tensor | None:
        other = others.get(name)
        if other is None or other.shape != weight.shape:
            return None
        return other if torch.equal(other, weight.to(other.device)) else None

    loaded = load_to_train(source, torch.device("cpu"), model.dtype)
    return copy_sharing(loaded, find_alike).to(model.device)


def _write_files(
    checkpoint: Checkpoint, trained: Checkpoint, manifest: Manifest, folder: Path
) -> Iterator[tuple[str, FileRecord]]:
    """Writes every file but config.json. Yields their names and records."""
    shards = {
        shard.path.name: OutputShard(tuple(map(trained.store, shard.tensors)), shard.metadata)
        for shard in trained.shards
    }
    for name in sorted(manifest.files.keys() - {"config.json"}):
        path, source = folder / name, checkpoint.folder / name
        path.parent.mkdir(exist_ok=True)
        pieces = shards[name].read_pieces() if name in shards else [source.read_bytes()]
        sha256 = write_file(path, pieces)
        yield name, FileRecord(size=path.stat().st_size, sha256=sha256)
