"""Erases passages: the intact model learns to predict on them what a teacher predicts.

The teacher does not know the passages, but predicts ordinary text (`surgery.training.ways`, where
some ways have a loss of their own in place of a teacher). On the suffixes of passages, the student
learns its predictions; on other text, it learns those that it made itself before. Both losses are
KL(teacher || student). Attention stays in place.

Teaching by a competent and an incompetent teacher is that of Chundawat et al. 2023 (arXiv
2205.08096); distillation makes unlearning robust (UNDO, arXiv 2506.06278).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from surgery.cuts import check_recorded, find_constants
from surgery.errors import UnsupportedError
from surgery.exporting import Export, Trained, check_target, write
from surgery.fitting.calibration import Calibration, find_calibration, open_calibration
from surgery.fitting.fitter import fit_checkpoint
from surgery.loading import load_to_train, load_tokenizer
from surgery.plan import check_erasable
from surgery.preparing import Fitting, Prepared, list_variants, prepare
from surgery.record.manifest import TOKEN_IDS, ErasingRecord, NeverRecord
from surgery.record.plan_file import PlanFile
from surgery.selection import Selection
from surgery.training.distillation import (
    ROWS_OF_PASSAGES,
    TaughtRows,
    count_recited,
    record_training,
    teach,
)
from surgery.training.losses import measure_rows
from surgery.training.training import RANK, Schedule
from surgery.training.ways.cut import ByCut
from surgery.training.ways.names import CUT, open_way
from surgery.training.ways.way import Way
from surgery.training.weights import round_weights, take_weights

STEPS = 60


@dataclass(frozen=True, eq=False)
class NeverRows:
    """Rows of the passages' form that no model was trained on. `kept`: those on which a student
    keeps its predictions; `tested`: those that show what training cost such text."""

    kept: TaughtRows
    tested: TaughtRows

    def measure(self, model: Any) -> float:
        """The loss of a model on the rows that test, the mean of all, in nats per token."""
        given = self.tested.tokens, self.tested.prefix_length, ROWS_OF_PASSAGES
        return measure_rows(model, *given)

    def tell(self, model: Any, before: float) -> NeverRecord:
        """What training cost a model. `before`: what it measured then."""
        rise = round(self.measure(model) - before, 6)
        found = rise if math.isfinite(rise) else None
        return NeverRecord(kept=self.kept.record, tested=len(self.tested.tokens), rise=found)


def teach_to_forget(
    prepared: Prepared,
    way: Way,
    passages: TaughtRows,
    text: Calibration,
    schedule: Schedule,
    never: NeverRows | None = None,
    *,
    check_teacher: Callable[[Any], object] = lambda teacher: None,
    device: torch.device | None = None,
    device_map: str | None = None,
    passes: torch.dtype | None = None,
    as_adapter: bool = False,
    advance: Callable[[int], None] = lambda steps: None,
) -> Trained:
    """Trains the source of `prepared` to forget `passages`, as `way` says, and not `never`.

    `check_teacher` gets the teacher, if any, before it teaches, and may raise. `device`: by default
    a GPU, if there is one. `device_map`: spreads the model over several. `passes`: the dtype of
    forward passes, by default as `choose_dtype` says. `as_adapter`: what was learned stays beside
    the weights of the source, as an adapter. `advance` counts steps.
    Raises `UnsupportedError` for a model that cannot be erased or has an edit that no record tells
    of, and `NotFiniteError`.
    """
    stored = prepared.model.dtype
    source, earlier = prepared.checkpoint, prepared.model.manifest
    check_erasable(source.config)
    if as_adapter:
        schedule = replace(schedule, rank=schedule.rank or RANK)
    check_recorded(source, earlier)
    model = load_to_train(source, device, passes, device_map)
    constants = find_constants(source, earlier)
    before = 0.0 if never is None else never.measure(model)  # it will change
    with way.open(model) as loss:
        check_teacher(loss.teacher)
        by_teacher = count_recited(loss.teacher, passages)  # its tensors may change
        how: dict[str, Any] = {"constants": constants, "advance": advance, "owns_base": True}
        how["kept"] = None if never is None else never.kept
        taught = teach(model, model, loss, text, passages, schedule, **how)
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
        never=None if never is None else never.tell(erased, before),
        hardened="selective" if schedule.hardened else False,
    )
    return Trained(weights, record, adapter)


def erase(
    model: str | Path,
    drop_attn: str | Selection | PlanFile | None,
    passages: Any,
    prefix_length: int,
    *,
    text: Sequence[str | Path],
    output: str | Path,
    by: str = CUT,
    variant: str = "identity",
    revision: str | None = None,
    calibration: Sequence[str | Path] = (),
    steps: int = STEPS,
    hardened: bool = False,
    adapters: int | None = None,
    as_adapter: bool = False,
    seed: int = 0,
    overwrite: bool = False,
) -> Export:
    """Trains a model to predict passages as one that does not know them, and saves the result.

    **Arguments:** `by`: the way, as for the command; `drop_attn`, `variant`, `calibration`: the
    cut that teaches, as for `surgery.export`; None in another way. No teacher may recite the
    passages, nor may `text` hold any: only the command checks both. `passages`: token ids,
    [n, P + S], with a prefix of `prefix_length` P, and negative numbers after a shorter suffix.
    `hardened`: also teaches where fine-tuning on some of the passages would lead. `adapters`: their
    rank, to train them in place of all weights. `as_adapter`: saves
    them, and no model, as peft does.

    **Raises:** a `SurgeryError`; the output is then missing, or still the old one.
    """
    _check_named(by, drop_attn)
    check_target(model, Path(output), overwrite=overwrite)
    fit_on = find_calibration(list_variants(drop_attn, variant), calibration)
    read = open_calibration(text)
    prepared = prepare(model, drop_attn, variant=variant, revision=revision, in_memory=True)
    untouched, tokens = prepared.without_cut, np.asarray(passages, np.int32)
    digest = hashlib.sha256(tokens[tokens >= 0].astype("<i4").tobytes()).hexdigest()
    taught = TaughtRows(tokens, prefix_length, TOKEN_IDS, digest)
    size = prepared.model.dimensions
    taught.check_length(size)
    way = None if by == CUT else open_way(by, prepared.model)
    schedule = Schedule(steps, seed, adapters, hardened=hardened)
    windows = schedule.tokenize(read, load_tokenizer(prepared.model.folder), size)
    if way is None:
        way = ByCut(prepared, Fitting() if fit_on is None else fit_checkpoint(prepared, fit_on))
    lessons = way, taught, windows, schedule
    trained = teach_to_forget(prepared, *lessons, as_adapter=as_adapter)
    return write(untouched, output, trained=trained, overwrite=overwrite)


def _check_named(by: str, drop_attn: object) -> None:
    """Raises `UnsupportedError` for a cut that is not named, or is named in another way."""
    if (by == CUT) is (drop_attn is None):
        raise UnsupportedError(
            "`drop_attn` names the cut that teaches, and goes with no other way",
            got=f"`by` {by}, and {'no' if drop_attn is None else 'a'} cut",
            fix="give either of them",
        )
