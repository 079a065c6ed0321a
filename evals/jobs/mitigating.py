"""The whole job: search for a cut, make what recipes make of it, and measure all of it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import ValidationError, model_validator

from evals.choose.search.request import HEALING, Choice, HealText, SearchRequest
from evals.jobs.asking import MeasureRequest
from evals.jobs.recipes import Recipe, choose_best, list_recipes, place_results
from evals.measure.attacks.request import Attacks, Extraction
from evals.measure.healing import find_healing_text, read_healing_text, warn_of_shared
from evals.run.console import SILENT, say, use_console
from evals.run.groups import (
    ERASE_STEPS,
    HEAL_STEPS,
    Cut,
    Folders,
    Hardening,
    Never,
    Passages,
    Revision,
    Run,
    Texts,
    Training,
)
from evals.run.lm_eval.request import Tasks
from evals.run.request import Option, Request, Use, describe_mistakes, refuse_unused
from surgery.checkpoint import MANIFEST
from surgery.hub.finding import find_outline
from surgery.lab import find_lab
from surgery.output import publish, write_text
from surgery.privacy import get_last_name
from surgery.processes import by_one
from surgery.variants import variant_of

if TYPE_CHECKING:
    from evals.choose.search.report import SearchResult
    from evals.data.held_back import HeldBack
    from evals.data.samples import Samples
    from evals.jobs.materials import Materials
    from evals.jobs.measurement import Measurement
    from evals.jobs.recipes import Place
    from evals.jobs.stepping import OpenedStep
    from surgery.fitting.calibration import Calibration
    from surgery.record.measured import State
    from surgery.record.plan_file import PlanFile
    from surgery.record.report import Report


class MitigationRequest(Request):
    """Leave at most `max_extraction` of passages recovered from `model`, at the least cost.

    `max_extraction` is 0.01 unless `max` limits `measure`. A lab model brings its own passages and
    held-out text. The same groups go to the search and to the evaluation.

    `erase` and `heal` say which recipes are tried beside the cut that a search chooses
    (`evals.jobs.recipes`). Training takes the passages that the search chose on; the others test
    the results. The best becomes the output.
    """

    typed = (
        "samples heldout calibration secret skip_short never twin sibling variant grain erase text "
        "heal measure choose tasks attack max_extraction max_form max max_drop "
        "device"
    )

    model: str
    revision: Revision = None
    passages: Passages = Passages()
    never: Never = None
    texts: Texts = Texts()
    choice: Choice = Choice()
    extraction: Extraction = Extraction()
    attacks: Attacks = Attacks()
    benchmarks: Tasks = Tasks()
    erase: Annotated[
        bool,
        "Also try results that were first taught to predict the passages as a model that does not "
        "know them (as the command erase does, by "
        "`sibling` if it is given): as they are, cut, and, with `heal`, healed, and cut and "
        "healed.",
        Option("edit"),
    ] = False
    erasing: Annotated[Training, Use(named={"steps": "erase_steps"})] = Training()
    harden: Hardening = False
    heal: HealText = ()
    healing: Annotated[Training, HEALING] = Training()
    run: Run = Run()

    @model_validator(mode="before")
    @classmethod
    def _names_a_model(cls, given: Any) -> Any:
        if given.get("model") is None:
            raise ValueError("name a MODEL, or give a `config` that does")
        return given

    @model_validator(mode="after")
    def _can_be_erased(self) -> MitigationRequest:
        if self.erase:
            if not self.erase_text:
                raise ValueError("`erase` needs `text`")
            return self
        refuse_unused(self, "erase", "harden")
        refuse_unused(self.erasing, "erase", "text")
        if self.erasing.steps not in (None, ERASE_STEPS):
            raise ValueError("`erase_steps` needs `erase`")
        return self

    @model_validator(mode="after")
    def _can_be_done(self) -> MitigationRequest:
        kind: type[Request] = SearchRequest
        try:
            assert self.search_request
            if not (self.texts.heldout or find_lab(self.model)):
                raise ValueError(f"{self.model} brings no held-out text of its own: give `heldout`")
            kind = MeasureRequest
            assert self.evaluation_request
        except ValidationError as error:  # a message of its own, without the other's frame
            raise ValueError(describe_mistakes(kind, error)) from None
        return self

    @property
    def search_request(self) -> SearchRequest:
        """The limits alone decide: tasks without one are only evaluated."""
        extraction, most = self.extraction, self.extraction.max_extraction
        if most is None and extraction.measure not in self.attacks.max:
            most = 0.01
        given: dict[str, Any] = {} if self.heal else {"healing": Training()}
        given["benchmarks"] = self.benchmarks if self.benchmarks.max_drop else Tasks()
        return self.hand_on(SearchRequest, max_extraction=most, **given)

    @property
    def limits(self) -> dict[str, float]:
        """The limits of the search, which hold for the evaluation, too."""
        return self.search_request.limits

    @property
    def ways(self) -> list[str | None]:
        """The ways to erase that may be tried, the best first: the public base, if it is named.
        None: as a look chooses."""
        sibling = None if self.run.device == "all" else self.attacks.sibling
        base = [] if sibling is None else [sibling]
        return [*base, None] if self.erase else []

    @property
    def recipes(self) -> list[Recipe]:
        """What is tried. The next way takes the place of one whose teacher recites the
        passages."""
        return list_recipes(self.ways[:1], heal=bool(self.heal))

    @property
    def erase_text(self) -> tuple[str, ...]:
        """The text to erase with."""
        lab = find_lab(self.model)
        return self.erasing.text or self.heal or ((lab,) if lab else ())

    @property
    def trains(self) -> bool:
        """Whether a recipe trains."""
        return self.erase or bool(self.heal)

    def open_step(
        self, recipe: Recipe, source: Path | None, output: Path, plan: PlanFile, *, overwrite: bool
    ) -> OpenedStep:
        """Opens the last step of a recipe. `source`: the folder of the step before; None: the
        model."""
        from evals.jobs.erasing import EraseRequest, open_erase
        from evals.jobs.exporting import ExportRequest, open_export
        from evals.jobs.healing import HealRequest, open_heal

        lab, kind = find_lab(self.model), recipe.steps[-1]
        own = (lab,) if lab else ()
        model, revision = (self.model, self.revision) if source is None else (str(source), None)
        folders = Folders(model=model, revision=revision, output=output, overwrite=overwrite)
        if kind == "erase":
            given = {"training": self.erasing, "text": self.erase_text, "by": recipe.by}
            given |= {"samples": self.passages.samples or lab}  # a cut lab model brings none
            asked = self.hand_on(EraseRequest, folders=folders, **given)
            return open_erase(asked, plan.chosen)
        if kind == "cut":
            fitted = any(variant_of(edit.variant).fitted for edit in plan.edits)
            cut = Cut(plan=plan, calibration=(self.texts.calibration or own) if fitted else ())
            layout = self.choice.layout
            return open_export(self.hand_on(ExportRequest, folders=folders, cut=cut, layout=layout))
        healed = {"training": self.healing, "text": self.heal, "source": self.model}
        return open_heal(self.hand_on(HealRequest, folders=folders, **healed))

    @property
    def evaluation_request(self) -> MeasureRequest:
        """The default attacks unless some are named; the limits of the search hold."""
        return self.hand_on(
            MeasureRequest,
            command="evaluate",
            models=(self.model,),
            baseline=self.model,
            revision=None,
            attack=self.attacks.attack or ("default",),
            max=self.limits,
            max_extraction=None,
            limit=None if self.benchmarks.suite == "none" else self.benchmarks.limit,
        )


@dataclass(frozen=True)
class Mitigation:
    """A mitigated model, what the search found, and the report on the results of all `recipes`.

    `place`: which of the results the model is. `choosing`: the report that chose it; of several
    results, both are of other passages. `counts`: on how many each rests.
    """

    source: str
    output: Path
    search: SearchResult
    report: Report
    choosing: Report
    recipes: Sequence[Recipe]
    place: int
    counts: tuple[int, int]

    @property
    def state(self) -> State | None:
        """Of all limits of the result together."""
        return self.report.edits[self.place].state

    @property
    def places(self) -> list[Place]:
        """Where each result stands among all, on the passages that chose."""
        return place_results(self.choosing)

    @property
    def compare_command(self) -> str:
        """The command that shows what it writes after your prompts."""
        return shlex.join(["attn-surgery", "compare", str(self.source), str(self.output)])

    @property
    def next_command(self) -> str | None:
        """The command that publishes it, if every limit is kept and benchmarks are whole."""
        ready = self.state == "kept" and self.report.settings["limit"] is None
        words = ["attn-surgery", "push", str(self.output), "OWNER/NAME"]
        return shlex.join(words) if ready else None

    def to_dict(self) -> dict[str, Any]:
        """The object of `mitigate --json`."""
        return {
            "output": str(self.output),
            "state": self.state,
            "result": self.recipes[self.place].name,
            "chosen_on": self.counts[0] if len(self.recipes) > 1 else 0,
            "judged_on": self.counts[1],
            "results": [
                {
                    "name": recipe.name,
                    "what": recipe.what,
                    "steps": list(recipe.steps),
                    "by": recipe.by,
                    "of": edit.of,
                    "state": edit.state,
                    **place._asdict(),
                }
                for recipe, edit, place in zip(
                    self.recipes, self.choosing.edits, self.places, strict=True
                )
            ],
            "search": self.search.to_dict(),
            "report": self.report.to_dict(),
            "compare": self.compare_command,
            "next": self.next_command,
        }


@dataclass(frozen=True)
class OpenedMitigation:
    """A mitigation whose inputs are read and checked: searches into OUTPUT-search, makes the
    results of recipes in OUTPUT-RECIPE, and gives the best one the name `output`.

    A run that was interrupted continues where it stopped: what is done stays. `materials`: what is
    measured.
    """

    request: MitigationRequest
    output: Path
    materials: Materials
    overwrite: bool = False

    @property
    def folder(self) -> Path:
        """Of the search."""
        return Path(f"{self.output}-search")

    def locate(self, recipe: Recipe) -> Path:
        """The folder of a result."""
        return Path(f"{self.output}-{recipe.name}")

    def run(self, show_search: Callable[[SearchResult], None] = lambda found: None) -> Mitigation:
        """`show_search` gets the search's answer before anything is made. Raises a
        `SurgeryError`."""
        from evals.jobs.evaluating import evaluate_exports
        from evals.jobs.searching import search
        from surgery.hub.finding import find_model

        request, output = self.request, self.output
        source = find_model(request.model, request.revision)
        say("1 of 3: search")
        result, plan = search(request.search_request, self.folder, overwrite=self.overwrite)
        _say_if_missed(request, result)
        show_search(result)
        say("2 of 3: export")
        recipes = self._make_results(plan)
        say("3 of 3: verify, attack, and evaluate")
        materials = self.materials.with_search(self.folder / "search.json")
        places = [self.locate(recipe) for recipe in recipes]
        seed = request.choice.seed if len(recipes) > 1 else None
        choosing, found = evaluate_exports(source, materials, places, seed)
        place, reason = choose_best(choosing.report, recipes)
        if len(recipes) > 1:
            say(f"{reason} (each on {_count_tested(choosing)} passages that chose)")
            say(f"the verdict rests on {_count_tested(found)} other passages")
        self._name_best(found, place, places)
        report = found.report if len(recipes) > 1 else found.select(0, get_last_name(output)).report
        counts = _count_tested(choosing), _count_tested(found)
        made = request.model, output, result, report, choosing.report, recipes, place, counts
        return Mitigation(*made)

    @by_one
    def _name_best(self, found: Measurement, place: int, places: Sequence[Path]) -> None:
        """Makes the best result the output."""
        from evals.jobs.evaluating import attach
        from surgery.exporting import check_target
        from surgery.record.manifest import RECIPE

        request, output, best = self.request, self.output, places[place]
        check_target(request.model, output, overwrite=self.overwrite)  # hours later
        attach(found, place, best, get_last_name(output))
        write_text(best / RECIPE, request.to_config(), overwrite=True)
        publish(best, output)  # last: it says that all is done

    def _make_results(self, plan: PlanFile) -> list[Recipe]:
        """Makes every result that is not there. Returns the recipes that worked."""
        from evals.choose.teachers import RecitingTeacherError

        request, made = self.request, list[Recipe]()
        if request.trains and plan.chosen is not None:
            say(
                "training takes the passages that the search chose on, and leaves the others to "
                "test on"
            )
        planned = list(request.recipes)
        while planned:
            recipe = planned.pop(0)
            if (before := recipe.before) is not None and before not in made:
                continue  # what it begins with was not made
            source = None if before is None else self.locate(before)
            place, overwrite = self.locate(recipe), self.overwrite
            try:
                request.open_step(recipe, source, place, plan, overwrite=overwrite).run()
            except RecitingTeacherError as error:
                say(f"nothing erased{f' by {recipe.by}' if recipe.by else ''}: {error}")
                others = request.ways[request.ways.index(recipe.by) + 1 :]
                if others:
                    same = [recipe, *(one for one in planned if one.by == recipe.by)]
                    planned = [one for one in planned if one not in same]
                    planned += [one._replace(by=others[0]) for one in same]
                continue
            made.append(recipe)
        return made


def open_mitigation(
    request: MitigationRequest, output: Path, *, overwrite: bool = False
) -> OpenedMitigation:
    """Opens every input, the model first, and checks every output. Raises a `SurgeryError` for
    whatever would make the search, a step, or the evaluation fail."""
    from surgery.exporting import check_target

    assert request.evaluation_request.attack_names  # all are known
    check_target(request.model, output, overwrite=overwrite)
    begun = (Path(f"{output}-search") / "search.json").is_file()
    for recipe in list_recipes(request.ways, heal=bool(request.heal)):
        place = Path(f"{output}-{recipe.name}")
        if not (begun and (place / MANIFEST).is_file()):  # else the step itself looks at it
            check_target(request.model, place, overwrite=overwrite)
    find_outline(request.model, request.revision)  # before the imports, which take seconds

    from evals.jobs.materials import open_materials

    materials = open_materials(request.evaluation_request, [(request.model, request.revision)])
    check_texts(request, materials)
    return OpenedMitigation(request, output, materials, overwrite)


def _check_enough(request: MitigationRequest, samples: Samples, left: HeldBack) -> None:
    """Raises `SamplesError` where too few passages are left by the search to choose among results
    and to judge one."""
    import numpy as np

    from evals.data.held_back import deal_passages, halve_tested

    choice, rows = request.choice, np.flatnonzero(left.passages & samples.trained_on)
    used = deal_passages(samples.select(rows), choice.seed, choice.choose)[0]
    rest = left.passages.copy()
    rest[rows[used]] = False
    halve_tested(replace(left, passages=rest), samples, choice.seed)


def _count_tested(found: Measurement) -> int:
    """The passages that a report's main figures are of."""
    samples = next(iter(found.results.values())).asked.samples
    return 0 if samples is None else int((found.left.passages & samples.trained_on).sum())


def _say_if_missed(request: MitigationRequest, result: SearchResult) -> None:
    if result.selected is None:
        limits = ", ".join(f"{most:g} ({name})" for name, most in request.limits.items())
        say(f"no edit meets the limit of {limits}: continuing with the one that comes closest")


def check_texts(request: MitigationRequest, materials: Materials) -> None:
    """Raises, before a long search, what the evaluation would raise of its inputs, `SamplesError`
    for text that holds passages or is too short, and `UnsupportedError` for a model that cannot be
    trained.
    """
    from evals.data.windows import cut_windows
    from evals.jobs.measurement import open_measurement
    from surgery.hub.finding import find_model
    from surgery.loading import load_tokenizer
    from surgery.plan import check_erasable
    from surgery.training.training import Schedule

    model, passages = find_model(request.model, request.revision), materials.passages
    opened = open_measurement(materials, model)
    if not request.trains:
        return
    assert opened.asked.samples is not None
    _check_enough(request, opened.asked.samples, opened.left)

    def read(named: Sequence[str], asked: Training, usual: int) -> Calibration:
        text = find_healing_text(named)
        with use_console(SILENT):  # the search warns of the same passages
            return read_healing_text(
                text, Schedule(asked.steps or usual, rank=asked.adapters), model, passages
            )[0]

    if request.erase:
        check_erasable(model.checkpoint.config)
    if request.heal:  # the search also compares it with held-out text
        read(request.heal, request.healing, HEAL_STEPS)
    if request.erase:
        assert passages is not None
        taught = read(request.erase_text, request.erasing, ERASE_STEPS)
        tokenizer = load_tokenizer(model.folder)
        length = passages.tokenize(tokenizer).tokens.shape[1]
        windows = cut_windows(materials.heldout, tokenizer, length)
        for warning in warn_of_shared(windows, (taught,)):
            say(f"warning: {warning}")
