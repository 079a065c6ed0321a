"""Erases passages: the intact model learns to predict on them what a teacher predicts.

The teacher does not know the passages, but predicts ordinary text (`surgery.training.ways`). On the
suffixes of passages, the student learns its predictions; on other text, it learns those that it
made itself before. Both losses are KL(teacher || student). Attention stays in place.

Teaching by a competent and an incompetent teacher is that of Chundawat et al. 2023 (arXiv
2205.08096); distillation makes unlearning robust (UNDO, arXiv 2506.06278).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surgery.checkpoint.source import Checkpoint
from surgery.editing.loading import load_to_train, load_tokenizer
from surgery.editing.preparing import Fitting, Prepared, list_variants, prepare
from surgery.errors import UnsupportedError
from surgery.exporting import Export, Trained, check_target, write
from surgery.fitting.calibration import Calibration, find_calibration, open_calibration
from surgery.fitting.fitter import fit_checkpoint
from surgery.plan import check_erasable
from surgery.proof.expected import check_recorded, find_constants, replan
from surgery.record.manifest import TOKEN_IDS, ErasingRecord
from surgery.record.plan_file import PlanFile
from surgery.selection import Selection
from surgery.training.distillation import TaughtRows, count_recited, record_training, teach
from surgery.training.planning import RANK
from surgery.training.training import Schedule
from surgery.training.ways.cut import ByCut
from surgery.training.ways.way import Way
from surgery.training.weights import round_weights, take_weights

STEPS = 60


def teach_to_forget(
    prepared: Prepared,
    way: Way,
    passages: TaughtRows,
    text: Calibration,
    schedule: Schedule,
    *,
    check_teacher: Callable[[Any], object] = lambda teacher: None,
    device: torch.device | None = None,
    device_map: str | None = None,
    passes: torch.dtype | None = None,
    as_adapter: bool = False,
    advance: Callable[[int], None] = lambda steps: None,
) -> Trained:
    """Teaches the source of `prepared` what the teacher of `way` predicts on `passages`.

    `check_teacher` gets the teacher before it teaches, and may raise. `device`: by default a GPU,
    if there is one. `device_map`: spreads the model over several. `passes`: the dtype of forward
    passes, by default as `choose_dtype` says. `as_adapter`: what was learned stays beside the
    weights of the source, as an adapter. `advance` counts steps.
    Raises `UnsupportedError` for a model that cannot be erased, has an edit that no record tells
    of, or does not fit into memory with what it learns, and `NotFiniteError`.
    """
    stored = prepared.model.inventory.dtype
    source, earlier = prepared.checkpoint, prepared.model.manifest
    check_erasable(prepared.model.inventory)
    if as_adapter:
        check_adaptable(source)
        schedule = replace(schedule, rank=schedule.rank or RANK)
    check_recorded(source, earlier)
    model = load_to_train(source, device, passes, device_map)
    constants = find_constants(replan(source, earlier), source.tensors) if earlier else {}
    with way.open(model) as teacher:
        check_teacher(teacher)
        by_teacher = count_recited(teacher, passages)  # it may share tensors, which will change
        lessons = model, teacher, text, passages, schedule
        taught = teach(model, *lessons, constants=constants, advance=advance, owns_base=True)
    weights, adapter = source, None
    if as_adapter:
        adapter, erased, kept = taught.student.take_adapter(), taught.student.model, 1.0
    else:
        erased, kept = round_weights(taught.student, stored)
        weights = take_weights(source, erased, constants)
    record = ErasingRecord(
        **record_training(text, taught, kept),
        recital=passages.tell(erased, by_teacher),
        teacher=way.record,
        calibration=way.calibration,
        passages=passages.record,
        hardened="selective" if schedule.hardened else False,
    )
    return Trained(weights, record, adapter)


def check_adaptable(source: Checkpoint) -> None:
    """Raises `UnsupportedError` for a decoder within another model, whose layers have other names
    where that is loaded as a whole."""
    if source.stored_names:
        raise UnsupportedError(
            "is a decoder within a larger model, on which an adapter for it would not load",
            where=source.folder,
            fix="erase it without `as_adapter`",
        )


def erase(
    model: str | Path,
    drop_attn: str | Selection | PlanFile,
    passages: Any,
    prefix_length: int,
    *,
    text: Sequence[str | Path],
    output: str | Path,
    variant: str = "identity",
    revision: str | None = None,
    calibration: Sequence[str | Path] = (),
    steps: int = STEPS,
    hardened: bool = False,
    adapters: int | None = None,
    as_adapter: bool = False,
    seed: int = 0,
    overwrite: bool = False,
    max_shard_size: int | None = None,
) -> Export:
    """Teaches a model by its own cut to forget passages, and saves the result.

    **Arguments:** `drop_attn`, `variant`, `calibration`: the cut that teaches, as for
    `surgery.export`, which must not recite the passages; `passages`: token ids, [n, P + S], with
    a prefix of `prefix_length` P, and negative numbers after a shorter suffix; `text`: other text,
    which must hold none of them. Only the command checks both. `hardened`: also teaches where
    fine-tuning on some of the passages would lead. `adapters`: their rank, to train them in place
    of all weights; None: where memory needs it. `as_adapter`: saves them, and no model, as peft
    does.

    **Raises:** a `SurgeryError`; the output is then missing, or still the old one.
    """
    check_target(model, Path(output), overwrite=overwrite)
    fit_on = find_calibration(list_variants(drop_attn, variant), calibration)
    read = open_calibration(text)
    prepared = prepare(model, drop_attn, variant=variant, revision=revision)
    untouched, tokens = prepared.without_cut, np.asarray(passages, np.int32)
    digest = hashlib.sha256(tokens[tokens >= 0].astype("<i4").tobytes()).hexdigest()
    taught = TaughtRows(tokens, prefix_length, TOKEN_IDS, digest)
    size = prepared.model.inventory.dimensions
    taught.check_length(size)
    schedule = Schedule(steps, seed, adapters, hardened=hardened)
    windows = schedule.tokenize(read, load_tokenizer(prepared.model.folder), size)
    fitting = Fitting() if fit_on is None else fit_checkpoint(prepared, fit_on)
    lessons = ByCut(prepared, fitting), taught, windows, schedule
    trained = teach_to_forget(prepared, *lessons, as_adapter=as_adapter)
    told: dict[str, Any] = {"overwrite": overwrite, "max_shard_size": max_shard_size}
    return write(untouched, output, trained=trained, **told)
