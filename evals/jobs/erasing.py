"""An erasing, from its request to its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import model_validator

from evals.data.inputs import find_calibration_text, fit_prepared, open_passages
from evals.data.windows import cut_alike
from evals.jobs.lessons import OpenedLessons, open_lessons, say_what_is_recited
from evals.jobs.stepping import OpenedStep, Output
from evals.run.console import show_progress
from evals.run.groups import (
    ERASE_STEPS,
    ON_DEVICE,
    Cut,
    Folders,
    Hardening,
    Never,
    Passages,
    Run,
    Seed,
    Training,
)
from evals.run.request import Option, Request
from surgery.lab import find_lab
from surgery.privacy import name_result
from surgery.record.manifest import ShortContext
from surgery.training.ways.names import CUT, names_model, read_context

if TYPE_CHECKING:
    from surgery.exporting import Trained
    from surgery.fitting.calibration import Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.preparing import Fitting
    from surgery.record.manifest import ChosenOn, Step
    from surgery.training.ways.way import Way

CONTEXT = 8
"""Tokens of the context that teaches, unless another one is named."""


class EraseRequest(Request):
    """Train a model to predict passages as one that does not know them, and save the result.

    It learns what a teacher predicts on them, or there is a loss in place of a teacher. If no cut
    is named, a short look chooses it, or without `by`, the way (`evals.choose.teachers`).
    """

    typed = (
        "samples never text prefix_length suffix_length secret skip_short leave_out revision by "
        "drop_attn plan variant steps harden adapters as_adapter output device"
    )

    folders: Folders
    by: Annotated[
        str | None,
        "What teaches on the passages. cut: MODEL without the attention of some blocks. "
        "context:K, such as context:8: MODEL itself, which sees only the last K tokens. Or another "
        "model with the same tokens that never saw the passages, such as the public base of a "
        "fine-tune: a folder, a Hub id (its revision may follow: owner/name@main), or lab:NAME.",
        Option(
            "edit",
            "WAY",
            f"the cut, if one is named; else context:{CONTEXT} or a cut, whichever knows fewer "
            "passages, or if both know none, reads new text better",
        ),
    ] = None
    cut: Cut = Cut()
    training: Training = Training()
    never: Never = None
    harden: Hardening = False
    as_adapter: Annotated[
        bool,
        "Save the adapters, and no model: a small folder that peft loads on MODEL. Without "
        "`adapters`, their rank is 8.",
        Option("output"),
    ] = False
    passages: Passages = Passages()
    seed: Seed = 0
    run: Annotated[Run, ON_DEVICE] = Run()

    @model_validator(mode="after")
    def _has_lessons(self) -> EraseRequest:
        folders, cut = self.folders, self.cut
        by = self.by or CUT
        read_context(by)
        if by != CUT and (named := [name for name, value in cut if value]):
            raise ValueError(f"`{named[0]}` is of a cut: leave it out, or leave out `by`")
        if names_model(by) and self.run.device == "all":
            raise ValueError("a model that teaches needs one device: give `device` another value")
        if cut.variant is not None and cut.drop_attn is None:
            raise ValueError("`variant` needs `drop_attn`")
        if cut.calibration and cut.drop_attn is None and cut.plan is None:
            what = "the cut that a search chooses needs no `calibration`"
            raise ValueError(f"{what}: leave it out, or name a cut with `drop_attn` or `plan`")
        for name, given in (("samples", self.passages.samples), ("text", self.training.text)):
            if not given and not find_lab(folders.model):
                raise ValueError(f"erase needs `{name}`")
        return self

    @property
    def steps(self) -> int:
        return self.training.steps or ERASE_STEPS


@dataclass(frozen=True)
class OpenedErasing(OpenedStep):
    """An erasing that can be made. `way`: None: a look is to choose it.
    `fit_on`: the text for the variants of a cut; None if they need none."""

    request: EraseRequest
    lessons: OpenedLessons
    way: Way | None
    fit_on: Text | None = None

    @property
    def default(self) -> Path:
        return name_result(self.request.folders.model, "erased")

    @property
    def size(self) -> int:
        return 0 if self.request.as_adapter else self.prepared.total_bytes

    def is_like(self, step: Step) -> bool:
        record, request = step.erasing, self.request
        if record is None or not self.lessons.are_those_of(record):
            return False
        # a look would choose the same one again
        short = ShortContext(context=CONTEXT) if self.request.by is None else None
        chosen = record.teacher if record.cut_parts or record.teacher == short else None
        kept = self.lessons.never.kept.sha256 if self.lessons.never else None
        same_never = (record.never.kept.sha256 if record.never else None) == kept
        made = record.teacher, record.hardened, step.is_adapter
        return same_never and made == (
            chosen if self.way is None else self.way.record,
            request.harden and "selective",
            request.as_adapter,
        )

    def make(self) -> tuple[Fitting | None, Trained | None]:
        from evals.choose.teachers import check_teacher
        from evals.run.models import find_device
        from surgery.training.erasing import teach_to_forget
        from surgery.training.ways.cut import ByCut

        request, lessons, way = self.request, self.lessons, self.way
        passages, place = lessons.passages, request.run.placing
        assert passages is not None
        if way is None:
            way = _choose_way(request, self.prepared.model, lessons)
        if self.fit_on is not None and isinstance(way, ByCut):
            fitting = fit_prepared(way.prepared, self.fit_on, place["device"])
            way = replace(way, fitting=fitting)
        lessons.say_how_often()
        with show_progress("erase", request.steps) as advance:
            trained = teach_to_forget(
                self.prepared,
                way,
                passages,
                lessons.text,
                lessons.schedule,
                lessons.never,
                check_teacher=partial(check_teacher, passages=passages, advice=way.advice),
                device=find_device(place["device"]) if place["device_map"] is None else None,
                device_map=place["device_map"],
                as_adapter=request.as_adapter,
                advance=advance,
            )
        say_what_is_recited("erase", trained.record)
        return None, trained


def open_erase(request: EraseRequest, chosen: ChosenOn | None = None) -> OpenedErasing:
    """Finds the model, reads every input, and checks the output. `chosen`: what a search chose on;
    only these passages are taught.

    Raises `SamplesError` for text that holds passages, too little text, and passages that are
    longer than the context, and `UnsupportedError` for a model that cannot be erased.
    """
    from surgery.plan import check_erasable
    from surgery.preparing import list_variants, prepare
    from surgery.training.training import RANK, Schedule
    from surgery.training.ways.cut import ByCut
    from surgery.training.ways.model import ByModel
    from surgery.training.ways.names import open_way

    folders, cut, training = request.folders, request.cut, request.training
    edit, variant = cut.read_edit(), cut.variant or "identity"
    fit_on = find_calibration_text(cut.calibration, folders.model, list_variants(edit, variant))
    default = name_result(folders.model, "erased")
    prepared = prepare(
        folders.model,
        edit,
        variant=variant,
        revision=folders.revision,
        check_default=lambda _: Output(folders).check(default),
    )
    check_erasable(prepared.checkpoint.config)
    by = request.by or CUT
    way: Way | None = None if by == CUT else open_way(by, prepared.model)
    rank = training.adapters or (RANK if request.run.device == "all" else None)
    lessons = open_lessons(
        request.passages,
        Schedule(request.steps, request.seed, rank, hardened=request.harden),
        prepared.model,
        own=folders.model,
        text=training.text or (folders.model,),
        chosen=chosen or prepared.chosen,
        never=request.never,
    )
    if isinstance(way, ByModel) and lessons.passages is not None:
        lessons.passages.check_length(way.model.dimensions)
    prepared = replace(prepared, chosen=lessons.chosen)
    if prepared.plan.selection:
        way = ByCut(prepared)
    return OpenedErasing(request, prepared.without_cut, lessons, way, fit_on)


def _choose_way(request: EraseRequest, found: ResolvedModel, lessons: OpenedLessons) -> Way:
    """The way, if the request names neither one nor a cut."""
    from evals.choose.teachers import choose_teacher
    from evals.run.models import open_model
    from surgery.preparing import prepare
    from surgery.training.ways.context import ByContext
    from surgery.training.ways.cut import ByCut

    loaded = open_model(found, **request.run.placing)
    asked, more = request.passages, {"chosen": lessons.chosen}
    opened = open_passages(asked, request.folders.model, leave_out=asked.leave_out, **more)
    samples = opened.tokenize(loaded.tokenizer)
    others = cut_alike(lessons.text.windows, loaded.tokenizer, samples.tokens.shape[1])
    chosen = choose_teacher(loaded, samples, others, None if request.by == CUT else CONTEXT)
    if isinstance(chosen, ShortContext):
        return ByContext(chosen.context)
    return ByCut(replace(prepare(found, chosen, in_memory=True), chosen=lessons.chosen))
