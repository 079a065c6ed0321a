"""An erasing, from its request to its folder: MODEL taught by its own cut."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import model_validator

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.data.windows import cut_alike
from evals.jobs.lessons import OpenedLessons, open_lessons, say_what_is_recited
from evals.jobs.stepping import OpenedStep, Output
from evals.run.console import show_progress
from evals.run.request import (
    OWN_PATH,
    OWN_VARIANT,
    TEACHING,
    Count,
    Editing,
    Hardening,
    Lessons,
    Option,
)
from surgery.hub.embedded import find_lab
from surgery.privacy import name_result
from surgery.variants import SUMMARIES, VARIANTS

if TYPE_CHECKING:
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.exporting import Trained
    from surgery.fitting.calibration import Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import Choice, Step


class EraseRequest(Editing, Lessons):
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
    steps: Annotated[Count, TEACHING, Option("edit")] = 60
    harden: Hardening = False
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
        if self.as_adapter and self.consume:
            raise ValueError("an adapter needs MODEL: give `as_adapter` without `consume`")
        for name in ("samples", "text"):
            if not getattr(self, name) and not find_lab(self.model):
                raise ValueError(f"erase needs `{name}`")
        return self


@dataclass(frozen=True)
class OpenedErasing(OpenedStep):
    """An erasing that can be made. `teacher`: the plan of the cut that teaches; None: a search is
    to choose it. `fit_on`: the text for its variants; None if they need none."""

    request: EraseRequest
    lessons: OpenedLessons
    teacher: Prepared | None
    fit_on: Text | None = None

    @property
    def default(self) -> Path:
        return name_result(self.request.model, "erased")

    @property
    def size(self) -> int:
        return 0 if self.request.as_adapter else self.prepared.total_bytes

    def is_like(self, step: Step) -> bool:
        record, request = step.erasing, self.request
        if record is None or not self.lessons.are_those_of(record):
            return False
        # a search would choose the same cut again
        teaches = tuple(record.teacher)
        taught_by = teaches if self.teacher is None else self.teacher.plan.selection
        made = teaches, record.hardened, step.is_adapter, step.max_shard_size
        return made == (taught_by, request.harden, request.as_adapter, request.max_shard_size)

    def make(self) -> tuple[Fitting | None, Trained | None]:
        from evals.choose.teachers import check_teacher
        from evals.run.models import find_device
        from surgery.training.erasing import teach_by_cut

        request, lessons, teacher = self.request, self.lessons, self.teacher
        passages = lessons.passages
        assert passages is not None
        if teacher is None:
            teacher = _choose_teacher(request, self.prepared.model, lessons)
        fit_on = self.fit_on
        fitting = None if fit_on is None else fit_prepared(teacher, fit_on, request.device)
        with show_progress("erase", request.steps) as advance:
            trained = teach_by_cut(
                teacher,
                passages,
                lessons.text,
                lessons.schedule,
                fitting=fitting,
                check_teacher=lambda cut: check_teacher(cut, passages),
                device=None if request.device_map else find_device(request.device),
                device_map=request.device_map,
                as_adapter=request.as_adapter,
                advance=advance,
            )
        say_what_is_recited("erase", trained.record)
        return None, trained


def open_erase(request: EraseRequest, chosen: Choice | None = None) -> OpenedErasing:
    """Finds the model, reads every input, and checks the output. `chosen`: what a search chose on;
    only these passages are taught.

    Raises `SamplesError` for text that holds passages, too little text, and passages that are
    longer than the context, and `UnsupportedError` for a model that cannot be erased.
    """
    from surgery.editing.preparing import list_variants, prepare
    from surgery.plan import check_erasable
    from surgery.training.erasing import check_adaptable
    from surgery.training.planning import RANK
    from surgery.training.training import Schedule

    edit, variant = request.read_edit(), request.variant or "identity"
    fit_on = find_calibration_text(request.calibration, request.model, list_variants(edit, variant))
    default = name_result(request.model, "erased")
    prepared = prepare(
        request.model,
        edit,
        variant=variant,
        revision=request.revision,
        check_default=lambda _: Output(request).check(default),
    )
    check_erasable(prepared.model.inventory)
    if request.as_adapter:
        check_adaptable(prepared.checkpoint)
    rank = request.adapters or (RANK if request.device_map else None)
    lessons = open_lessons(
        request,
        Schedule(request.steps, request.seed, rank, hardened=request.harden),
        prepared.model,
        samples=request.samples or request.model,
        text=request.text or (request.model,),
        chosen=chosen or prepared.chosen,
    )
    prepared = replace(prepared, chosen=lessons.chosen)
    teacher = None if edit is None else prepared
    return OpenedErasing(request, prepared.without_cut, lessons, teacher, fit_on)


def _choose_teacher(
    request: EraseRequest, found: ResolvedModel, lessons: OpenedLessons
) -> Prepared:
    """The plan of the cut that teaches, if the request names none."""
    from evals.choose.teachers import choose_teacher
    from evals.data import open_samples
    from evals.run.models import open_model
    from surgery.editing.preparing import prepare

    loaded = open_model(found, device=request.device)
    named, how = request.samples or request.model, request.cutting
    samples = open_samples(named, chosen=lessons.chosen, **how).tokenize(loaded.tokenizer)
    others = cut_alike(lessons.text.windows, loaded.tokenizer, samples.tokens.shape[1])
    selection = choose_teacher(loaded, samples, others)
    return replace(prepare(found, selection), chosen=lessons.chosen)
