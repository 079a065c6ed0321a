"""Erases passages: the intact model learns to predict on them what its cut self predicts.

A cut model knows the language and not the passages. So it is a teacher: on the suffixes of
passages, the student learns the predictions of the cut; on other text, it learns those that it made
itself before. Both losses are KL(teacher || student). Attention stays in place.

Teaching by a competent and an incompetent teacher is that of Chundawat et al. 2023 (arXiv
2205.08096); distillation makes unlearning robust (UNDO, arXiv 2506.06278). The short-circuited
model as the incompetent teacher is ours.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from surgery.editing.in_memory import Editable
from surgery.editing.loading import load_model
from surgery.editing.preparing import Fitting, Prepared
from surgery.exporting import Trained
from surgery.fitting.calibration import Calibration
from surgery.record.manifest import ErasingRecord
from surgery.training.distillation import ROWS_OF_PASSAGES, Lesson, Passages, distill
from surgery.training.training import ROWS, Schedule, record_training
from surgery.training.weights import take_weights

STEPS = 60
LEARNING_RATE = 1e-3


@dataclass(frozen=True, eq=False)
class Erased:
    """The student, in float32, and its weights in the checkpoint of the source."""

    model: Any
    trained: Trained


def erase(
    prepared: Prepared,
    passages: Passages,
    text: Calibration,
    schedule: Schedule,
    *,
    fitting: Fitting | None = None,
    check_teacher: Callable[[Any], object] = lambda cut: None,
    device: torch.device | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> Erased:
    """Teaches the source of `prepared` what the prepared cut of it predicts on `passages`.

    `fitting`: of the cut; `check_teacher` gets the cut before it teaches, and may raise; `device`: by default a GPU, if there is one; `advance` counts steps.
    Raises `UnsupportedError` for a model that does not fit into memory twice with its gradients,
    and `CheckpointError` if the loss is no longer finite.
    """
    device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(prepared.checkpoint, device=device)
    passes, fitting = model.dtype, fitting or Fitting()
    if passes == torch.float16 and device.type == "cpu":
        model, passes = model.float(), torch.float32  # CPUs have no float16 arithmetic
    student = copy.deepcopy(model).float()
    schedule = schedule.settle(student)
    editable = Editable(model, stored_dtype=prepared.plan.inventory.dtype)
    cut = editable.apply(prepared.plan, fitting.fits)
    check_teacher(cut)
    losses = teach(
        student,
        model,
        cut,
        passages,
        text,
        schedule,
        passes=passes,
        advance=advance,
    )
    record = ErasingRecord(
        **record_training(text, schedule, student, losses),
        teacher=list(prepared.plan.selection),
        calibration=fitting.record,
        passages=passages.sha256,
        num_passages=len(passages.tokens),
        rows_of_passages=ROWS_OF_PASSAGES,
    )
    return Erased(student, Trained(take_weights(prepared.checkpoint, student), record))


def teach(
    student: Any,
    intact: Any,
    cut: Any,
    passages: Passages,
    text: Calibration,
    schedule: Schedule,
    *,
    passes: torch.dtype = torch.float32,
    advance: Callable[[int], None] = lambda steps: None,
) -> list[float]:
    """Trains a float32 `student` in place: on passages by `cut`, on text by `intact`.

    Returns the loss before each step, in nats.
    """
    lessons = [
        Lesson(cut, passages.tokens, ROWS_OF_PASSAGES, passages.prefix_length),
        Lesson(intact, text.windows, ROWS),
    ]
    return distill(student, lessons, schedule, passes=passes, advance=advance)
