"""A healing, from its request to its folder: a cut trained on other text."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from evals.jobs.lessons import OpenedLessons, open_lessons, say_what_is_recited
from evals.jobs.stepping import OpenedStep, Output
from evals.run.console import show_progress
from evals.run.groups import HEAL_STEPS, ON_DEVICE, Folders, Passages, Run, Seed, Training
from evals.run.request import Option, Request
from surgery.errors import SamplesError
from surgery.lab import find_lab
from surgery.privacy import name_result

if TYPE_CHECKING:
    from surgery.exporting import Trained
    from surgery.hub.resolved import ResolvedModel
    from surgery.preparing import Fitting
    from surgery.record.manifest import Step


class HealRequest(Request):
    """Train a model that was cut to predict on other text what `source`, the model before all cuts,
    predicts, and save the checkpoint."""

    typed = (
        "source samples text prefix_length suffix_length secret skip_short leave_out revision "
        "steps adapters seed output device"
    )

    folders: Folders
    source: Annotated[
        str | None,
        "The model before all cuts. Needed where its recorded name is not found: a relative path "
        "is looked for in the current folder and beside MODEL.",
        Option("input", "MODEL", "the recorded one, in the current folder or beside MODEL"),
    ] = None
    training: Training = Training()
    passages: Passages = Passages()
    seed: Seed = 0
    run: Annotated[Run, ON_DEVICE] = Run()

    @property
    def steps(self) -> int:
        return self.training.steps or HEAL_STEPS


@dataclass(frozen=True)
class OpenedHealing(OpenedStep):
    """A healing that can be made. `teacher`: the model before all cuts."""

    request: HealRequest
    lessons: OpenedLessons
    teacher: ResolvedModel

    @property
    def default(self) -> Path:
        return name_result(self.request.folders.model, "healed")

    def is_like(self, step: Step) -> bool:
        return step.healing is not None and self.lessons.are_those_of(step.healing)

    def make(self) -> tuple[Fitting | None, Trained | None]:
        from evals.run.models import find_device
        from surgery.training.healing import heal_by_source

        lessons, request = self.lessons, self.request
        with show_progress("heal", request.steps) as advance:
            trained = heal_by_source(
                self.prepared,
                self.teacher,
                lessons.text,
                lessons.schedule,
                lessons.passages,
                device=find_device(request.run.device),
                advance=advance,
            )
        say_what_is_recited("heal", trained.record)
        return None, trained


def open_heal(request: HealRequest) -> OpenedHealing:
    """Finds the model and the one before all cuts, reads every input, and checks the output.

    Raises `SamplesError` for text that holds passages, too little text, and passages that are
    longer than the context, and `UnsupportedError` for a model that cannot be trained, or that no
    step made.
    """
    from surgery.preparing import prepare
    from surgery.training.healing import find_teacher
    from surgery.training.training import Schedule

    folders = request.folders
    default = name_result(folders.model, "healed")
    prepared = prepare(
        folders.model,
        None,
        revision=folders.revision,
        check_default=lambda _: Output(folders).check(default),
    )
    model = prepared.model
    teacher = find_teacher(model, request.source)
    lab = find_lab(teacher.source.model)
    text = request.training.text or ((lab,) if lab else ())
    if not text:
        raise SamplesError("needs text to train on", where=folders.model, fix="name it with `text`")
    lessons = open_lessons(
        request.passages,
        Schedule(request.steps, request.seed, request.training.adapters),
        model,
        own=lab,
        text=text,
        chosen=model.manifest.chosen if model.manifest else None,
    )
    prepared = replace(prepared, chosen=lessons.chosen)
    return OpenedHealing(request, prepared, lessons, teacher)
