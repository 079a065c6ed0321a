"""Erasing, from its request to a folder: MODEL taught by its own cut self."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.measure.healing import find_healing_text, read_healing_text
from evals.run.console import show_progress
from evals.run.request import CalibrationText, Count, Cutting, Option, Passages
from surgery.errors import MeasurementError
from surgery.record.plan_file import PlanFile, read_plan_file
from surgery.variants import VARIANTS

if TYPE_CHECKING:
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.exporting import Export
    from surgery.fitting.calibration import Calibration, Text
    from surgery.training.distillation import Passages as TaughtPassages
    from surgery.training.erasing import Erased
    from surgery.training.training import Schedule

MOST_RECITED = 0.05
"""The largest share of the passages that a teacher may recite."""


class RecitingTeacherError(MeasurementError):
    """The teacher recites what the student must forget."""


class EraseRequest(Cutting):
    """Teach `model` what its cut self predicts on `samples`, and save the checkpoint in `output`.

    `device`: where to train (default: a GPU if there is one). `overwrite` replaces an earlier one.
    """

    model: str
    samples: Passages = None
    drop_attn: Annotated[
        str | None,
        "Blocks or heads of the cut that teaches, such as 20-23. Pick some without which the model "
        "no longer recites; what this cut costs is not paid.",
        Option("edit", "SPEC"),
    ] = None
    plan: Annotated[
        Path | PlanFile | None,
        "Take blocks, heads, and variants of the cut from a file that `search` wrote.",
        Option("edit"),
    ] = None
    variant: Annotated[
        str | None,
        "What these blocks become in the cut.",
        Option("edit", default="identity", choices=VARIANTS),
    ] = None
    text: Annotated[
        tuple[str, ...],
        "Other text, on which the model keeps its predictions. It may hold none of the passages: a "
        "file, a folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's.",
        Option("input", "TEXT", "a lab model's own"),
    ] = ()
    calibration: CalibrationText = ()
    steps: Annotated[Count, "Steps of 24 passages and 16 x 128 tokens of text.", Option("edit")] = (
        60
    )
    seed: Annotated[int, Field(ge=0), "Decides the order of passages and text.", Option("run")] = 0
    device: Annotated[
        str | None, "Where to train.", Option("run", "D", "a GPU if there is one")
    ] = None
    output: Annotated[Path | None, "Folder to create.", Option("output", "DIR", "NAME-erased")] = (
        None
    )
    overwrite: bool = False
    max_shard_size: Annotated[
        int | None,
        Field(gt=0),
        "Largest weight file, such as 5GB.",
        Option("output", "S", "as the source is sharded", in_bytes=True),
    ] = None

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

    def read_edit(self) -> str | PlanFile:
        """Returns the cut that teaches. Raises `SurgeryError` for a plan that cannot be read."""
        return (
            read_plan_file(self.plan)
            if isinstance(self.plan, Path)
            else self.plan or self.drop_attn or ""
        )

    def find_text(self) -> Text:
        """The text that it names, or a lab model's own. Raises `SamplesError`."""
        return find_healing_text(self.text or (self.model,))

    @property
    def target(self) -> Path:
        """The folder to create."""
        name = self.model.rstrip("/").replace(":", "-").rsplit("/", 1)[-1]
        return self.output or Path(f"{name}-erased")


@dataclass(frozen=True)
class Lessons:
    """What a model is trained on, and how."""

    text: Calibration
    schedule: Schedule
    passages: TaughtPassages


def run_erase(
    request: EraseRequest, *, keep: bool = False, job: str | None = None
) -> Export | None:
    """Erases the passages and writes the checkpoint.

    `keep` leaves the same erasing as it is and returns None. `job`: as for
    `surgery.record.manifest.Edit`. Raises a `SurgeryError`; the output is then as it was before.
    """
    from surgery.editing.preparing import list_variants, prepare
    from surgery.exporting import check_target, write

    check_target(request.model, request.target, overwrite=request.overwrite)
    edit, variant = request.read_edit(), request.variant or "identity"
    fit_on = find_calibration_text(request.calibration, request.model, list_variants(edit, variant))
    text = request.find_text()
    prepared = prepare(request.model, edit, variant=variant, revision=request.revision)
    if keep and _is_erasing_of(request, prepared):
        return None
    untouched = replace(prepared.without_cut, job=job)
    lessons = read_lessons(request, prepared, text)
    fitting = None if fit_on is None else fit_prepared(prepared, fit_on, request.device)
    erased = erase_prepared(prepared, lessons, fitting, request.device)
    with show_progress("export", prepared.total_bytes) as advance:
        return write(
            untouched,
            request.target,
            overwrite=request.overwrite,
            max_shard_size=request.max_shard_size,
            trained=erased.trained,
            progress=advance,
        )


def _is_erasing_of(request: EraseRequest, prepared: Prepared) -> bool:
    from surgery.record.manifest import read_manifest

    made = read_manifest(request.target)
    record = None if made is None else made.edit.erasing
    if made is None or record is None or made.edit.parts:
        return False
    return (tuple(record.teacher), record.steps) == (prepared.plan.selection, request.steps)


def read_lessons(request: EraseRequest, prepared: Prepared, text: Text) -> Lessons:
    """Reads text and passages in the model's tokens.

    Raises `SamplesError` for text that holds passages, too little text, and passages that are
    longer than the context.
    """
    from evals.data import open_samples
    from surgery.training.training import Schedule

    how = request.model_dump(include={"prefix_length", "suffix_length", "skip_short"})
    passages = open_samples(request.samples or request.model, **how)
    schedule = Schedule(request.steps, request.seed)
    tokens, taught = read_healing_text(text, schedule, prepared.model, passages)
    assert taught is not None
    return Lessons(tokens, schedule, taught)


def erase_prepared(
    prepared: Prepared,
    lessons: Lessons,
    fitting: Fitting | None,
    device: str | None,
) -> Erased:
    """Teaches the source of `prepared` by its cut, which must not recite the passages itself."""
    from evals.run.models import find_device
    from surgery.training.erasing import teach_by_cut

    with show_progress("erase", lessons.schedule.steps) as advance:
        return teach_by_cut(
            prepared,
            lessons.passages,
            lessons.text,
            lessons.schedule,
            fitting=fitting,
            check_teacher=lambda cut: check_teacher(cut, lessons.passages),
            device=find_device(device),
            advance=advance,
        )


def check_teacher(cut: Any, passages: TaughtPassages) -> None:
    """Raises `RecitingTeacherError` for a teacher that recites what the student must forget."""
    from evals.measure.memorization.extraction import run_pass
    from evals.measure.memorization.measures import exact_match
    from evals.run.predictions import Sampling

    found = run_pass(cut, passages.tokens, passages.prefix_length, sampling=Sampling())
    recited = float(exact_match(found.predictions.greedy, found.suffix).mean())
    if recited > MOST_RECITED:
        raise RecitingTeacherError(
            "the teacher recites the passages itself, so it cannot teach to forget them",
            expected=f"at most {MOST_RECITED:.0%} of {len(passages.tokens):,} passages",
            got=f"{recited:.1%}",
            fix="name more blocks with `drop_attn`, or earlier ones",
        )
