"""Erasing, from its request to a folder: MODEL taught by its own cut self."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from evals.data.inputs import (
    Progress,
    Say,
    find_calibration_text,
    fit_prepared,
    say_nothing,
    show_nothing,
)
from evals.measure.healing import find_healing_text, read_healing_text
from evals.run.request import Request
from surgery.errors import MeasurementError
from surgery.record.plan_file import PlanFile, read_plan_file

if TYPE_CHECKING:
    from surgery.editing.preparing import Prepared
    from surgery.exporting import Export
    from surgery.training.distillation import Passages
    from surgery.training.erasing import Erased

MOST_RECITED = 0.05
"""The largest share of the passages that a teacher may recite."""


class EraseRequest(Request):
    """Teach `model` what its cut self predicts on `samples`, and save the checkpoint in `output`.

    - `drop_attn`: blocks and heads of the cut, or `plan`: what a search chose, or its file.
      `variant`: what they become (default: identity). A plan names its own.
    - `text`: other text, on which the model keeps its predictions. It may hold no passage.
    - `calibration`: text to fit the cut on. Empty: a lab model's own.
    - `steps`, `seed`: of the training. `device`: where to train (default: a GPU if there is one).
    - `prefix_length`, `suffix_length`, `skip_short`: how to cut passages.
    - `output`: the folder to create (default: NAME-erased). `overwrite` replaces one.
    """

    model: str
    samples: str | None = None
    drop_attn: str | None = None
    plan: Path | PlanFile | None = None
    variant: str | None = None
    revision: str | None = None
    text: tuple[str, ...] = ()
    calibration: tuple[str, ...] = ()
    steps: int = Field(default=60, ge=1)
    seed: int = Field(default=0, ge=0)
    prefix_length: int | None = None
    suffix_length: int | None = None
    skip_short: bool = False
    device: str | None = None
    output: Path | None = None
    overwrite: bool = False
    max_shard_size: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_teacher(self) -> EraseRequest:
        if (self.drop_attn is None) == (self.plan is None):
            raise ValueError("name the teacher's blocks with `drop_attn`, or give a `plan`")
        if self.variant is not None and self.plan is not None:
            raise ValueError("a `plan` names the variants itself: give it without `variant`")
        lab = self.model.startswith("lab:")
        for name in ("samples", "text"):
            if not getattr(self, name) and not lab:
                raise ValueError(f"erase needs `{name}`")
        return self

    @property
    def target(self) -> Path:
        """The folder to create."""
        name = self.model.rstrip("/").replace(":", "-").rsplit("/", 1)[-1]
        return self.output or Path(f"{name}-erased")


def run_erase(
    request: EraseRequest, *, say: Say = say_nothing, progress: Progress = show_nothing
) -> Export:
    """Erases the passages and writes the checkpoint.

    Raises a `SurgeryError`; the output is then as it was before.
    """
    from surgery.editing.preparing import list_variants, prepare
    from surgery.exporting import check_target, write
    from surgery.plan import make_empty_plan

    check_target(request.model, request.target, overwrite=request.overwrite)
    plan = read_plan_file(request.plan) if isinstance(request.plan, Path) else request.plan
    edit, variant = plan or request.drop_attn or "", request.variant or "identity"
    fit_on = find_calibration_text(request.calibration, request.model, list_variants(edit, variant))
    prepared = prepare(request.model, edit, variant=variant, revision=request.revision)
    fitting = None if fit_on is None else fit_prepared(prepared, fit_on, progress, request.device)
    erased = erase_prepared(request, prepared, fitting, say, progress)
    untouched = replace(prepared, plan=make_empty_plan(prepared.model.inventory), chosen=None)
    with progress("export", prepared.total_bytes) as advance:
        return write(
            untouched,
            request.target,
            overwrite=request.overwrite,
            max_shard_size=request.max_shard_size,
            trained=erased.trained,
            progress=advance,
        )


def erase_prepared(
    request: EraseRequest, prepared: Prepared, fitting: Any, say: Say, progress: Progress
) -> Erased:
    """Reads text and passages, and teaches the source of `prepared` by its cut."""
    from evals.data import open_samples
    from evals.run.models import find_device
    from surgery.training.erasing import LEARNING_RATE, erase
    from surgery.training.training import Schedule

    how = request.model_dump(include={"prefix_length", "suffix_length", "skip_short"})
    passages = open_samples(request.samples or request.model, **how)
    text = find_healing_text(request.text or (request.model,))
    schedule = Schedule(request.steps, request.seed, learning_rate=LEARNING_RATE)
    tokens, taught = read_healing_text(text, schedule, prepared.model, passages, say)
    assert taught is not None
    with progress("erase", request.steps) as advance:
        return erase(
            prepared,
            taught,
            tokens,
            schedule,
            fitting=fitting,
            check_teacher=lambda cut: check_teacher(cut, taught),
            device=find_device(request.device),
            advance=advance,
        )


def check_teacher(cut: Any, passages: Passages) -> None:
    """Raises `MeasurementError` for a teacher that recites what the student must forget."""
    from evals.measure.memorization.extraction import run_pass
    from evals.measure.memorization.measures import exact_match
    from evals.run.predictions import Sampling

    found = run_pass(cut, passages.tokens, passages.prefix_length, sampling=Sampling())
    recited = float(exact_match(found.predictions.greedy, found.suffix).mean())
    if recited > MOST_RECITED:
        raise MeasurementError(
            "the teacher recites the passages itself, so it cannot teach to forget them",
            expected=f"at most {MOST_RECITED:.0%} of {len(passages.tokens):,} passages",
            got=f"{recited:.1%}",
            fix="name more blocks with `drop_attn`, or earlier ones",
        )
