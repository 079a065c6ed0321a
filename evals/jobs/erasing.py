"""Erasing, from its request to a folder: MODEL taught by its own cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.data.windows import cut_alike
from evals.measure.healing import find_healing_text, read_healing_text
from evals.run.console import say, show_progress
from evals.run.request import (
    OWN_PATH,
    OWN_VARIANT,
    TEACHING,
    Count,
    Cutting,
    Editing,
    Hardening,
    Option,
    Training,
)
from surgery.errors import MeasurementError
from surgery.hub.embedded import find_lab
from surgery.privacy import name_result
from surgery.processes import current_processes, join_launch, leave_launch
from surgery.variants import SUMMARIES, VARIANTS

if TYPE_CHECKING:
    from evals.data import Passages, Tokens
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.exporting import Export
    from surgery.fitting.calibration import Calibration, Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import Choice, ErasingRecord, TrainingRecord
    from surgery.record.plan_file import PlanFile
    from surgery.selection import Selection
    from surgery.training.distillation import Passages as TaughtPassages
    from surgery.training.erasing import Erased
    from surgery.training.training import Schedule

KEPT = 0.9
"""The least share of an update that rounding must keep, or a warning says so."""
MOST_RECITED = 0.05
"""The largest share of the passages that a teacher may recite."""


class RecitingTeacherError(MeasurementError):
    """The teacher recites what the student must forget."""


class EraseRequest(Editing, Training):
    """Teach `model` what its own cut predicts on `samples`, and save the checkpoint in `output`.

    Without `drop_attn` and `plan`, a search chooses the cut (`evals.choose.teachers`). `device`:
    where to train (default: a GPU if there is one).
    """

    drop_attn: Annotated[
        str | None,
        "Blocks or heads of the cut that teaches, such as 20-23. Pick some without which the model "
        "recites few or none of the passages. A cut that costs less also teaches at a lower cost.",
        Option("edit", "SPEC", "what a search over runs of blocks chooses"),
    ] = None
    variant: Annotated[
        str | None,
        f"What these blocks become in the cut. {SUMMARIES}{OWN_VARIANT}.",
        Option("edit", default="identity", choices=VARIANTS, own=OWN_PATH),
    ] = None
    text: Annotated[
        tuple[str, ...],
        "Other text, on which the model keeps its predictions. It may hold none of the passages: a "
        "file, a folder, hf:DATASET:SPLIT:COLUMN, or lab:pythia for the lab's.",
        Option("input", "TEXT", "a lab model's own"),
    ] = ()
    steps: Annotated[Count, TEACHING, Option("edit")] = 60
    harden: Hardening = False
    seed: Annotated[int, Field(ge=0), "Decides the order of passages and text.", Option("run")] = 0
    device: Annotated[
        str | None, "Where to train.", Option("run", "D", "a GPU if there is one")
    ] = None
    device_map: Annotated[
        Literal["auto"] | None,
        "Spread a model over several GPUs that is larger than one. Trains adapters.",
        Option("run"),
    ] = None
    output: Annotated[Path | None, "Folder to create.", Option("output", "DIR", "NAME-erased")] = (
        None
    )
    as_adapter: Annotated[
        bool,
        "Save the adapters, and no model: a small folder that peft loads on MODEL. Without "
        "`adapters`, their rank is 32.",
        Option("output"),
    ] = False

    @model_validator(mode="after")
    def _has_lessons(self) -> EraseRequest:
        if self.device is not None and self.device_map is not None:
            raise ValueError("`device` and `device_map` exclude each other")
        if self.variant is not None and self.drop_attn is None:
            raise ValueError("`variant` needs `drop_attn`")
        if self.calibration and self.drop_attn is None and self.plan is None:
            what = "the cut that a search chooses needs no `calibration`"
            raise ValueError(f"{what}: leave it out, or name a cut with `drop_attn` or `plan`")
        if self.as_adapter and self.max_shard_size is not None:
            raise ValueError("an adapter is one file: give `as_adapter` without `max_shard_size`")
        for name in ("samples", "text"):
            if not getattr(self, name) and not find_lab(self.model):
                raise ValueError(f"erase needs `{name}`")
        return self

    def find_text(self) -> Text:
        """The text that it names, or a lab model's own. Raises `SamplesError`."""
        return find_healing_text(self.text or (self.model,))

    def open_passages(self, chosen: Choice | None = None) -> Passages:
        """The passages that it names, or a lab model's own. `chosen`: as for `open_samples`."""
        from evals.data import open_samples

        cutting = {*Cutting.model_fields, "leave_out"} - {"revision"}
        named, how = self.samples or self.model, self.model_dump(include=cutting)
        return open_samples(named, chosen=chosen, **how)

    @property
    def target(self) -> Path:
        """The folder to create."""
        return self.output or name_result(self.model, "erased")


@dataclass(frozen=True)
class Lessons:
    """What a model is trained on, and how."""

    text: Calibration
    schedule: Schedule
    passages: TaughtPassages

    def are_those_of(self, record: ErasingRecord) -> bool:
        """Whether a recorded erasing taught the same passages on the same text."""
        ours = self.text.record_text().sha256, self.passages.sha256
        return ours == (record.sha256, record.passages.sha256)


def run_erase(
    request: EraseRequest, *, keep: bool = False, job: str | None = None
) -> Export | None:
    """Erases the passages and writes the checkpoint.

    `keep` leaves the same erasing as it is and returns None. So do all processes but the main one,
    where several train together. `job`: as for
    `surgery.record.manifest.Edit`. Raises a `SurgeryError`; the output is then as it was before.
    """
    from surgery.editing.preparing import list_variants, prepare
    from surgery.exporting import check_target, write
    from surgery.hub.finding import find_model
    from surgery.output import check_space

    check_target(request.model, request.target, overwrite=request.overwrite)
    if job is None:  # else the other processes have left
        join_launch(say)
    text, variant = request.find_text(), request.variant or "identity"
    edit: str | PlanFile | Selection = request.read_edit()
    lessons = None
    if request.drop_attn is None and request.plan is None:
        found = find_model(request.model, request.revision)
        lessons = read_lessons(request, found, text)
        edit = choose_blocks(request, found, lessons.text.windows)
    fit_on = find_calibration_text(request.calibration, request.model, list_variants(edit, variant))
    prepared = prepare(request.model, edit, variant=variant, revision=request.revision)
    untouched = replace(prepared.without_cut, job=job)
    lessons = lessons or read_lessons(request, prepared.model, text, prepared.chosen)
    if keep and _is_erasing_of(request, prepared, lessons):
        return None
    size = 0 if request.as_adapter else prepared.total_bytes
    check_space(request.target, size)
    fitting = None if fit_on is None else fit_prepared(prepared, fit_on, request.device)
    say_what_is_taught(prepared, lessons.passages)
    places = request.device, request.device_map
    erased = erase_prepared(prepared, lessons, fitting, *places, as_adapter=request.as_adapter)
    if not leave_launch():
        return None
    with show_progress("export", size or None) as advance:
        return write(
            untouched,
            request.target,
            overwrite=request.overwrite,
            max_shard_size=request.max_shard_size,
            trained=erased.trained,
            progress=advance,
        )


def _is_erasing_of(request: EraseRequest, prepared: Prepared, lessons: Lessons) -> bool:
    from surgery.record.manifest import read_manifest

    made = read_manifest(request.target)
    record = None if made is None else made.edit.erasing
    if made is None or record is None or made.edit.parts:
        return False
    asked = prepared.plan.selection, request.steps, request.harden, request.as_adapter
    found = tuple(record.teacher), record.steps, record.hardened, made.edit.is_adapter
    alike = found == asked
    return alike and lessons.are_those_of(record)


def choose_blocks(request: EraseRequest, found: ResolvedModel, windows: Tokens) -> Selection:
    """The cut that teaches, if the request names none. `windows`: of the text, int32 [M, T]."""
    from evals.choose.teachers import choose_teacher
    from evals.run.models import open_model

    loaded = open_model(found, device=request.device)
    samples = request.open_passages().tokenize(loaded.tokenizer)
    others = cut_alike(windows, loaded.tokenizer, samples.tokens.shape[1])
    return choose_teacher(loaded, samples, others)


def read_lessons(
    request: EraseRequest, model: ResolvedModel, text: Text, chosen: Choice | None = None
) -> Lessons:
    """Reads text and passages in the model's tokens. `chosen`: what a search chose the cut on. The
    lessons are of these passages alone, so that the others still tell what the result does.

    Raises `SamplesError` for text that holds passages, too little text, and passages that are
    longer than the context, and `UnsupportedError` for a model that cannot be erased.
    """
    from surgery.plan import check_erasable
    from surgery.training.erasing import check_adaptable
    from surgery.training.planning import RANK
    from surgery.training.training import Schedule

    check_erasable(model.inventory)
    if request.as_adapter:
        check_adaptable(model.checkpoint)
    rank = request.adapters or (RANK if request.device_map else None)
    schedule = Schedule(request.steps, request.seed, rank, hardened=request.harden)
    tokens, taught = read_healing_text(text, schedule, model, request.open_passages(chosen))
    assert taught is not None
    return Lessons(tokens, schedule, taught)


def say_what_is_taught(prepared: Prepared, passages: TaughtPassages | None) -> None:
    """Says which passages training takes, if a search chose the cut. A job says it for itself."""
    if prepared.chosen is None or prepared.job is not None or passages is None:
        return
    n = f"{len(passages.tokens):,} passages"
    if passages.sha256 != prepared.chosen.passages:
        say(
            f"warning: training takes all {n}: the search chose the plan on other passages, or on "
            "these cut differently, so none is left to test on"
        )
        return
    say(
        f"training takes the {n} on which the search chose the plan, and leaves the others to test "
        "on. To train on all of them, take the key 'chosen' out of the plan"
    )


def erase_prepared(
    prepared: Prepared,
    lessons: Lessons,
    fitting: Fitting | None,
    device: str | None,
    device_map: str | None = None,
    *,
    as_adapter: bool = False,
) -> Erased:
    """Teaches the source of `prepared` by its cut, which must not recite the passages itself."""
    from evals.run.models import find_device
    from surgery.training.erasing import teach_by_cut

    with show_progress("erase", lessons.schedule.steps) as advance:
        erased = teach_by_cut(
            prepared,
            lessons.passages,
            lessons.text,
            lessons.schedule,
            fitting=fitting,
            check_teacher=lambda cut: check_teacher(cut, lessons.passages),
            device=None if device_map else find_device(device or current_processes().device),
            device_map=device_map,
            as_adapter=as_adapter,
            advance=advance,
        )
    assert erased.trained.record is not None
    say_what_is_recited("erase", erased.trained.record)
    return erased


def say_what_is_recited(name: str, record: TrainingRecord) -> None:
    """Says what a model that training made still recites, and how much of it rounding lost."""
    if record.kept is not None and record.kept < KEPT:
        say(f"warning: {name}: the model's dtype keeps {record.kept:.0%} of what was learned")
    if (found := record.recital) is None:
        return
    told = (
        f"{name}: the model recites {found.recited:,} of the {found.passages:,} passages that it "
        f"was trained on, and the cut that taught it {found.by_teacher:,}"
    )
    more = found.recited > found.by_teacher
    say(f"warning: {told}: train it for more steps" if more else told)


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
            fix="cut more blocks, or earlier ones",
        )
