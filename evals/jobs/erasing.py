"""An erasing, from its request to its folder: MODEL taught by one that does not know passages."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    Passages,
    Run,
    Seed,
    Training,
)
from evals.run.request import Option, Request
from surgery.errors import UnsupportedError
from surgery.hub.embedded import find_lab
from surgery.privacy import name_result

if TYPE_CHECKING:
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.exporting import Trained
    from surgery.fitting.calibration import Text
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import ChosenOn, Step
    from surgery.training.ways.way import Way


CUT = "cut"
_CONTEXT = "context:"
_TOKENS = re.compile(rf"{_CONTEXT}([1-9][0-9]{{0,6}})")


class EraseRequest(Request):
    """Teach a model what its teacher predicts on passages, and save the checkpoint.

    The teacher is a cut of the model, another model, or the model with a short context (`by`).
    Without a named cut, a search chooses one (`evals.choose.teachers`).
    """

    typed = (
        "samples text prefix_length suffix_length secret skip_short leave_out revision by "
        "drop_attn plan variant steps harden adapters as_adapter output device"
    )

    folders: Folders
    by: Annotated[
        str,
        "What teaches on the passages. cut: MODEL without the attention of some blocks. "
        "context:K, such as context:8: MODEL itself, which sees only the last K tokens. Or another "
        "model with the same tokens that never saw the passages, such as the public base of a "
        "fine-tune: a folder, a Hub id, or lab:NAME.",
        Option("edit", "WAY"),
    ] = CUT
    cut: Cut = Cut()
    training: Training = Training()
    harden: Hardening = False
    as_adapter: Annotated[
        bool,
        "Save the adapters, and no model: a small folder that peft loads on MODEL. Without "
        "`adapters`, their rank is 32.",
        Option("output"),
    ] = False
    passages: Passages = Passages()
    seed: Seed = 0
    run: Annotated[Run, ON_DEVICE] = Run()

    @model_validator(mode="after")
    def _has_lessons(self) -> EraseRequest:
        folders, cut = self.folders, self.cut
        if self.by.startswith(_CONTEXT) and self.context is None:
            raise ValueError(f"`by` takes a number of tokens after {_CONTEXT}, such as context:8")
        if self.by != CUT and (named := [name for name, value in cut if value]):
            raise ValueError(f"`{named[0]}` is of a cut: leave it out, or leave out `by`")
        if self.by_model and self.run.device == "all":
            raise ValueError("a model that teaches needs one device: give `device` another value")
        if cut.variant is not None and cut.drop_attn is None:
            raise ValueError("`variant` needs `drop_attn`")
        if cut.calibration and cut.drop_attn is None and cut.plan is None:
            what = "the cut that a search chooses needs no `calibration`"
            raise ValueError(f"{what}: leave it out, or name a cut with `drop_attn` or `plan`")
        if self.as_adapter and folders.max_shard_size is not None:
            raise ValueError("an adapter is one file: give `as_adapter` without `max_shard_size`")
        if self.as_adapter and folders.consume:
            raise ValueError("an adapter needs MODEL: give `as_adapter` without `consume`")
        for name, given in (("samples", self.passages.samples), ("text", self.training.text)):
            if not given and not find_lab(folders.model):
                raise ValueError(f"erase needs `{name}`")
        return self

    @property
    def steps(self) -> int:
        return self.training.steps or ERASE_STEPS

    @property
    def context(self) -> int | None:
        """How many tokens the model sees that teaches itself; None for another teacher."""
        found = _TOKENS.fullmatch(self.by)
        return None if found is None else int(found[1])

    @property
    def by_model(self) -> bool:
        """Whether another model teaches."""
        return self.by != CUT and self.context is None


@dataclass(frozen=True)
class OpenedErasing(OpenedStep):
    """An erasing that can be made. `way`: what teaches; None: a cut that a search is to choose.
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
        # without a named cut, a search would choose the same one again
        chosen = record.teacher if record.cut_parts else None
        made = record.teacher, record.hardened, step.is_adapter, step.max_shard_size
        return made == (
            chosen if self.way is None else self.way.record,
            request.harden and "selective",
            request.as_adapter,
            request.folders.max_shard_size,
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
            way = ByCut(_choose_teacher(request, self.prepared.model, lessons))
        if self.fit_on is not None and isinstance(way, ByCut):
            fitting = fit_prepared(way.prepared, self.fit_on, place["device"])
            way = replace(way, fitting=fitting)
        with show_progress("erase", request.steps) as advance:
            trained = teach_to_forget(
                self.prepared,
                way,
                passages,
                lessons.text,
                lessons.schedule,
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
    from surgery.editing.preparing import list_variants, prepare
    from surgery.plan import check_erasable
    from surgery.training.erasing import check_adaptable
    from surgery.training.planning import RANK
    from surgery.training.training import Schedule

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
    check_erasable(prepared.model.inventory)
    if request.as_adapter:
        check_adaptable(prepared.checkpoint)
    teacher = _find_teacher(request, prepared.model)
    rank = training.adapters or (RANK if request.run.device == "all" else None)
    lessons = open_lessons(
        request.passages,
        Schedule(request.steps, request.seed, rank, hardened=request.harden),
        prepared.model,
        own=folders.model,
        text=training.text or (folders.model,),
        chosen=chosen or prepared.chosen,
    )
    if teacher is not None and lessons.passages is not None:
        lessons.passages.check_length(teacher.inventory.dimensions)
    prepared = replace(prepared, chosen=lessons.chosen)
    way = _open_way(request, prepared, teacher)
    return OpenedErasing(request, prepared.without_cut, lessons, way, fit_on)


def _find_teacher(request: EraseRequest, model: ResolvedModel) -> ResolvedModel | None:
    """The other model that teaches `model`; None if none does. Raises `UnsupportedError` for one
    with other tokens, or another number of them; one on the Hub is then not downloaded."""
    from evals.run.finding import share_tokens
    from surgery.families import family_of
    from surgery.hub.finding import find_model

    if not request.by_model:
        return None
    number = model.inventory.dimensions.vocabulary

    def refuse(expected: object, got: object) -> UnsupportedError:
        return UnsupportedError(
            f"has other tokens than {model.source.model}, so it cannot teach it",
            where=request.by,
            expected=expected,
            got=got,
            fix="name a model with the same tokens in `by`",
        )

    def check(config: dict[str, Any]) -> None:
        if (others := family_of(config).dimensions(config).vocabulary) != number:
            raise refuse(f"a vocabulary of {number:,}", f"{others:,}")

    teacher = find_model(request.by, check=check)
    check(teacher.checkpoint.config)
    if not share_tokens(model, teacher):
        raise refuse("the same text for each token id", "another tokenizer")
    return teacher


def _open_way(
    request: EraseRequest, prepared: Prepared, teacher: ResolvedModel | None
) -> Way | None:
    """What teaches; None for a cut that a search is to choose. `teacher`: another model."""
    from surgery.training.ways.context import ByContext
    from surgery.training.ways.cut import ByCut
    from surgery.training.ways.model import ByModel

    if request.context is not None:
        return ByContext(request.context)
    if teacher is not None:
        return ByModel(teacher)
    return ByCut(prepared) if prepared.plan.selection else None


def _choose_teacher(
    request: EraseRequest, found: ResolvedModel, lessons: OpenedLessons
) -> Prepared:
    """The plan of the cut that teaches, if the request names none."""
    from evals.choose.teachers import choose_teacher
    from evals.run.models import open_model
    from surgery.editing.preparing import prepare

    loaded = open_model(found, **request.run.placing)
    asked, more = request.passages, {"chosen": lessons.chosen}
    opened = open_passages(asked, request.folders.model, leave_out=asked.leave_out, **more)
    samples = opened.tokenize(loaded.tokenizer)
    others = cut_alike(lessons.text.windows, loaded.tokenizer, samples.tokens.shape[1])
    selection = choose_teacher(loaded, samples, others)
    return replace(prepare(found, selection), chosen=lessons.chosen)
