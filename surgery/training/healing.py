"""Heals a cut: trains its weights to predict what the model before the cut predicts.

On other text, the cut learns the predictions of its teacher. On passages, if they are given, it
learns its own from before the training, so that they do not come back (the guard). What a cut set,
whatever the source held, stays bit by bit; so do buffers and every file that holds no weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from surgery.checkpoint import MANIFEST
from surgery.cuts import check_recorded, find_constants
from surgery.errors import UnsupportedError
from surgery.exporting import Export, Trained, check_target, write
from surgery.fitting.calibration import Calibration, open_calibration
from surgery.hub.finding import check_source, find_model, find_recorded, require_source
from surgery.hub.resolved import ResolvedModel
from surgery.loading import load_to_train, load_tokenizer
from surgery.preparing import Prepared, prepare
from surgery.record.manifest import HealingRecord
from surgery.training.distillation import TaughtRows, count_recited, record_training, teach
from surgery.training.losses import Divergence
from surgery.training.training import STEPS, Schedule
from surgery.training.ways.model import load_beside
from surgery.training.weights import round_weights, take_weights


def find_teacher(model: ResolvedModel, named: str | Path | None = None) -> ResolvedModel:
    """The model before all edits of `model`, which `named` names, or which its record names.

    A folder is looked for in the current folder, and beside `model`. Raises `UnsupportedError` for
    a model that no step made, and `SourceError` if the teacher is not here, or is another model.
    """
    if model.manifest is None:
        raise UnsupportedError(
            f"has no {MANIFEST}, so nothing in it was cut",
            where=model,
            fix="heal what `attn-surgery export` wrote",
        )
    first = model.manifest.sources[-1]
    if named is None:
        named = require_source(first, model.folder, model)
    found = find_recorded(str(named), None, first)
    check_source(found, first, named)
    return found


def heal_by_source(
    prepared: Prepared,
    teacher: ResolvedModel,
    text: Calibration,
    schedule: Schedule,
    passages: TaughtRows | None = None,
    *,
    device: torch.device | None = None,
    passes: torch.dtype | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Trained:
    """Trains a model that was cut on `text`, by what `teacher` predicts there.

    `passages`: those that must not come back; `device`: by default a GPU, if there is one;
    `passes`: the dtype of forward passes, by default by `choose_dtype`; `advance` counts steps.
    Raises `UnsupportedError` for models that have a cut that no record tells of, and
    `CheckpointError` if the loss or a weight is no longer finite.
    """
    checkpoint, manifest = prepared.checkpoint, prepared.model.manifest
    check_recorded(checkpoint, manifest)
    assert manifest is not None  # `find_teacher` refuses a model without one
    constants = find_constants(checkpoint, manifest)
    model = load_to_train(checkpoint, device, passes)
    intact = load_beside(model, teacher)
    by_teacher = 0 if passages is None else count_recited(model, passages)  # it will change
    lessons = intact, Divergence(model), text, passages, schedule
    taught = teach(model, *lessons, constants=constants, advance=advance, owns_base=True)
    healed, kept = round_weights(taught.student, prepared.plan.dtype)
    record = HealingRecord(
        **record_training(text, taught, kept),
        teacher=teacher.identified,
        recital=None if passages is None else passages.tell(healed, by_teacher),
        passages=None if passages is None else passages.record,
        loss="kl",
    )
    return Trained(take_weights(checkpoint, healed, constants), record)


def heal(
    model: str | Path,
    *,
    text: Sequence[str | Path],
    output: str | Path,
    source: str | Path | None = None,
    revision: str | None = None,
    steps: int = STEPS,
    adapters: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> Export:
    """Trains a model that was cut, by the model before the cut, and saves the result.

    **Arguments:** `text`: other text, which must hold no passage that it should not recite (only
    the command checks that, and keeps passages from coming back); `source`: the model before all
    edits, if the recorded one cannot be found; `adapters`: their rank, to train them in place of
    all weights.

    **Raises:** a `SurgeryError`; the output is then missing, or still the old one.
    """
    check_target(model, Path(output), overwrite=overwrite)
    read = open_calibration(text)
    found = find_model(model, revision)
    teacher = find_teacher(found, source)
    prepared = prepare(found, None)
    schedule = Schedule(steps, seed, adapters)
    size = found.dimensions
    windows = schedule.tokenize(read, load_tokenizer(found.folder), size)
    trained = heal_by_source(prepared, teacher, windows, schedule)
    chosen = None if found.manifest is None else found.manifest.chosen
    return write(replace(prepared, chosen=chosen), output, trained=trained, overwrite=overwrite)
