"""The whole job: search for an edit, export it, verify it, attack it, and evaluate it."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, model_validator

from evals.choose.search.request import SearchRequest
from evals.jobs.asking import EvaluationRequest, Gating
from evals.jobs.erasing import EraseRequest, RecitingTeacherError, run_erase
from evals.jobs.exporting import ExportRequest, run_export
from evals.jobs.keeping import (
    RESULTS,
    Choose,
    Result,
    choose_result,
)
from evals.jobs.printing import PRINTED, find_browser
from evals.measure.attacks.request import Limits
from evals.measure.healing import find_healing_text, read_healing_text, warn_of_shared
from evals.measure.memorization.recovery import name_plainly
from evals.run.console import SILENT, say, use_console
from evals.run.lm_eval.request import Drops, Limiting
from evals.run.request import (
    Erasing,
    Fraction,
    Healing,
    Option,
    Request,
    describe_mistakes,
)
from surgery.hub.embedded import find_lab
from surgery.hub.finding import find_outline, lacks_weights
from surgery.output import check_output, publish, write_text
from surgery.untrusted import read_json
from surgery.variants import variant_of

if TYPE_CHECKING:
    from evals.choose.search.report import SearchResult
    from evals.jobs.materials import Materials
    from surgery.fitting.calibration import Calibration
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.measured import State
    from surgery.record.plan_file import PlanFile
    from surgery.record.report import Report


class MitigationRequest(SearchRequest, Gating, Erasing):
    """Leave at most `max_extraction` of `samples` recovered from `model`, at the least cost.

    `max_extraction` is 0.01 unless `max` limits `measure`. A lab model brings its own `samples` and
    `heldout`. The fields beyond those of `SearchRequest` say what is evaluated, and which gates
    hold beside the limits: they are those of `EvaluationRequest`.

    With `heal`, a healed result is made beside the cut. With `erase`, so are one that
    the cut taught to forget passages in `erase_steps` steps, with other `text` (default: that
    of `heal`), and one that is cut as well. Training takes the passages that the search chose on;
    the others test the results. Of those with the best verdict, the cheapest is kept, unless `keep`
    names another.
    """

    samples: Annotated[
        str,
        "Passages that must not be recovered, as for extract.",
        Option("input", "SAMPLES", "a lab model's own"),
    ] = ""
    max_extraction: Annotated[
        Fraction | None,
        "Leave at most this share of the passages recovered, by `measure`.",
        Option("limits", default="0.01, unless `max` limits the measure"),
    ] = None
    max: Annotated[
        Limits,
        "Limit, for the search and the verdict: attack A may recover at most the share X of the "
        "passages. A runs even if `attack` does not name it.",
        Option("limits", "A=X", example="hints:2=0.02"),
    ] = Field(default_factory=dict)
    max_drop: Annotated[
        Drops,
        "Limit, for the search and the verdict: TASK, or every task that a pattern such as '*' "
        "matches, may lose at most X.",
        Option("limits", "TASK=X", example="lambada_openai=0.03"),
    ] = Field(default_factory=dict)
    max_loss_increase: None = None
    keep: Annotated[
        Result | None,
        "With `heal` or `erase`: keep this of the results.",
        Option("output", default="the cheapest one with the best verdict"),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _one_goal(cls, given: Any) -> Any:
        model = given.get("model")
        if model is None:
            raise ValueError("name a MODEL, or give a `config` that does")
        lab = find_lab(model)
        for name, what in (("samples", "passages"), ("heldout", "held-out text")):
            if lab is None and not given.get(name) and not lacks_weights(model):
                raise ValueError(f"{model} brings no {what} of its own: give `{name}`")
        found = {**given, "samples": given.get("samples") or lab or ""}
        if given.get("max_extraction") is None:
            limited = {name_plainly(str(name)) for name in given.get("max") or ()}
            named = name_plainly(str(given.get("measure", "any"))) in limited
            found["max_extraction"] = None if named else 0.01
        return found

    @model_validator(mode="after")
    def _can_be_erased(self) -> MitigationRequest:
        if not self.erase:
            self._refuse_unused("erase", "erase_steps", "text")
        elif not (self.text or self.heal or find_lab(self.model)):
            raise ValueError("`erase` needs `text`")
        return self

    @model_validator(mode="after")
    def _can_be_kept(self) -> MitigationRequest:
        if self.keep is not None and self.keep not in (made := self.list_results()):
            raise ValueError(f"`keep` names {self.keep}, and only {', '.join(made)} will be made")
        return self

    @model_validator(mode="after")
    def _can_be_evaluated(self) -> MitigationRequest:
        if lacks_weights(self.model):
            return self  # it can only be planned for
        try:
            assert self.evaluation_request
        except ValidationError as error:  # a message of its own, without the other's frame
            raise ValueError(describe_mistakes(error)) from None
        return self

    @model_validator(mode="after")
    def _tasks_are_limited(self) -> MitigationRequest:
        return self  # the evaluation runs them without a limit, too

    @property
    def search_request(self) -> SearchRequest:
        given = dict(self)
        if not self.max_drop:
            given = {name: one for name, one in given.items() if name not in Limiting.model_fields}
        return SearchRequest.of(given)

    def list_results(self) -> list[Result]:
        """The names of `RESULTS` to make and to choose from."""
        without = [word for word in ("heal", "erase") if not getattr(self, word)]
        return [name for name in RESULTS if not any(word in name for word in without)]

    def list_exports(self, output: Path) -> dict[Result, Path]:
        """The folder of each result, until one of them becomes the output."""
        return {name: Path(f"{output}-{name}") for name in self.list_results()}

    def make_export_request(
        self, plan: PlanFile, output: Path, name: str, *, overwrite: bool
    ) -> ExportRequest | EraseRequest:
        fitted = any(variant_of(edit.variant).fitted for edit in plan.edits)
        edit: dict[str, Any] = {
            "plan": plan,
            "variant": None,
            "calibration": self.calibration if fitted else (),
            "output": output,
            "overwrite": overwrite,
        }
        text = self.text or self.heal
        if name == "erased":
            return EraseRequest.of(dict(self), **edit, text=text, steps=self.erase_steps, seed=0)
        if "heal" not in name:
            edit |= _list_defaults(Healing)
        edit |= {"text": text} if "erase" in name else _list_defaults(Erasing)
        return ExportRequest.of(dict(self), **edit)

    @property
    def evaluation_request(self) -> EvaluationRequest:
        """The default attacks unless some are named; the limits of the search are gates."""
        return EvaluationRequest.of(
            dict(self),
            models=(self.model,),
            baseline=self.model,
            revision=None,
            audit=True,
            max=self.limits,
            max_extraction=None,
            limit=None if self.no_benchmarks else self.limit,
        )


def _list_defaults(kind: type[Request]) -> dict[str, Any]:
    """The values of fields that ask for nothing."""
    return {name: field.default for name, field in kind.model_fields.items()}


@dataclass(frozen=True)
class Mitigation:
    """A mitigated model, what the search found, and the report on all `results`.

    `place`: which of the results the model is.
    """

    source: str
    output: Path
    search: SearchResult
    report: Report
    results: tuple[Result, ...]
    place: int

    @property
    def state(self) -> State | None:
        """Of all limits of the result together."""
        return self.report.edits[self.place].state

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
            "result": self.results[self.place],
            "healed": "healed" in self.results[self.place],
            "results": [
                {"name": name, "what": RESULTS[name], "of": edit.of, "state": edit.state}
                for name, edit in zip(self.results, self.report.edits, strict=True)
            ],
            "search": self.search.to_dict(),
            "report": self.report.to_dict(),
            "compare": self.compare_command,
            "next": self.next_command,
        }


@dataclass(frozen=True)
class Job:
    """The work towards one output. `search`: the folder of its search.

    Its exports record its name, the key of the question that the search answers. So it takes up
    and replaces its own exports, as long as the output is not done, and nobody else's.
    """

    output: Path
    search: Path

    @property
    def page(self) -> Path:
        """Where the report goes once it is printed."""
        return self.output.with_name(f"{self.output.name}.pdf")

    @property
    def name(self) -> str | None:
        """None before the search is done: then there is no export yet."""
        key: str | None = read_json(self.search / "search.json").get("key")
        return key

    def made(self, place: Path) -> bool:
        """Whether it exported what is at `place`, and nothing there is done."""
        from surgery.record.manifest import RECIPE, read_manifest

        if any((folder / RECIPE).exists() for folder in (self.output, place)):
            return False
        there, name = read_manifest(place), self.name
        return there is not None and name is not None and there.edit.job == name


def find_job(request: MitigationRequest, output: Path, *, overwrite: bool = False) -> Job:
    """Returns the job. Raises `OutputError` if something else is at `output`."""
    from surgery.exporting import check_target

    job = Job(output, Path(f"{output}-search"))
    for place in dict.fromkeys((output, *request.list_exports(output).values())):
        check_target(request.model, place, overwrite=overwrite or job.made(place))
    return job


def mitigate(
    request: MitigationRequest,
    output: Path,
    *,
    overwrite: bool = False,
    pdf: bool = False,
    show_search: Callable[[SearchResult], None] = lambda found: None,
    choose: Choose | None = None,
) -> Mitigation | None:
    """Searches into OUTPUT-search, exports to OUTPUT-RESULT, and moves the kept one to `output`.

    A run that was interrupted continues where it stopped. `show_search` gets the search's answer
    before the export starts. `choose` is asked which result to keep, if there are several and the
    request names none; by then, each has its report. `pdf`: also print the page to OUTPUT.pdf.
    Returns None on all processes but the main one. Raises `SurgeryError`; `MeasurementError`, at
    once, if there is no browser to print with.
    """
    assert lacks_weights(request.model) or request.evaluation_request.attacks  # all are known
    job = find_job(request, output, overwrite=overwrite)
    folder, browser = job.search, find_page_browser(job.page, overwrite) if pdf else None
    find_outline(request.model, request.revision)  # before the imports, which take seconds

    from evals.jobs.evaluating import evaluate_exports, print_pdf
    from evals.jobs.materials import open_materials
    from evals.jobs.searching import search
    from surgery.exporting import check_target
    from surgery.record.manifest import RECIPE

    materials = open_materials(request.evaluation_request, [(request.model, request.revision)])
    check_texts(request, materials)
    say("1 of 3: search")
    found = search(request.search_request, folder, overwrite=overwrite)
    if found is None:
        return None
    result, plan = found
    _say_if_missed(request, result)
    show_search(result)
    say("2 of 3: export")
    source, exports = _export(request, plan, job, overwrite=overwrite)
    say("3 of 3: verify, attack, and evaluate")
    materials = materials.with_search(folder / "search.json")

    names, places, place = tuple(exports), list(exports.values()), 0

    def arrange(report: Report) -> Sequence[Path]:
        nonlocal place
        place, reason = choose_result(report, names, request.keep, choose)
        if len(names) > 1:
            say(reason)
        check_target(request.model, output, overwrite=overwrite or job.made(output))  # hours later
        return _publish_kept(output, places, place)

    report = evaluate_exports(source, materials, places, arrange)
    if browser is not None:
        print_pdf(browser, output, job.page, overwrite=overwrite)
    write_text(output / RECIPE, request.to_config())  # last: it says that all is done
    return Mitigation(request.model, output, result, report, names, place)


def find_page_browser(page: Path, overwrite: bool) -> str:
    """A browser to print `page` with, before any work. Raises if it could not be written."""
    check_output(page, PRINTED, overwrite=overwrite)
    return find_browser()


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
    from evals.jobs.measurement import check_inputs
    from surgery.editing.loading import load_tokenizer
    from surgery.hub.finding import find_model
    from surgery.plan import check_erasable
    from surgery.training.training import Schedule

    model, passages = find_model(request.model, request.revision), materials.passages
    check_inputs(model, materials)
    if not (request.heal or request.erase):
        return

    def read(named: Sequence[str], steps: int) -> Calibration:
        text = find_healing_text(named)
        with use_console(SILENT):  # the search warns of the same passages
            return read_healing_text(text, Schedule(steps), model, passages)[0]

    if request.erase:
        check_erasable(model.inventory)
    if request.heal:
        read(request.heal, request.heal_steps)  # the search also compares it with held-out text
    if request.erase:
        assert passages is not None
        taught = read(request.text or request.heal or (request.model,), request.erase_steps)
        tokenizer = load_tokenizer(model.folder)
        length = passages.tokenize(tokenizer).tokens.shape[1]
        windows = cut_windows(materials.heldout, tokenizer, length)
        for warning in warn_of_shared(windows, (taught,)):
            say(f"warning: {warning}")


def _export(
    request: MitigationRequest,
    plan: PlanFile,
    job: Job,
    *,
    overwrite: bool,
) -> tuple[ResolvedModel, dict[Result, Path]]:
    """Makes every result that is not there. Returns the source, and where the results are."""
    from surgery.hub.finding import find_model

    exports = request.list_exports(job.output)
    if (request.erase or request.heal) and plan.chosen is not None:
        say(
            "training takes the passages that the search chose on, and leaves the others to test on"
        )
    for name, place in exports.items():
        ours = job.made(place)
        replaces = overwrite or ours  # a smaller budget may have found another edit
        wanted = request.make_export_request(plan, place, name, overwrite=replaces)
        keep = ours and not overwrite
        try:
            if isinstance(wanted, EraseRequest):
                made = run_erase(wanted, keep=keep, job=job.name)
            else:
                erased = exports["erased"] if wanted.erase else None
                _, made = run_export(wanted, keep=keep, job=job.name, erased=erased)
        except RecitingTeacherError as error:
            say(f"nothing erased: {error}")
            exports = {name: place for name, place in exports.items() if "erase" not in name}
            break
        if made is None:
            say(f"{place}: exported by an earlier run")
    return find_model(request.model, request.revision), exports


def _publish_kept(output: Path, exports: Sequence[Path], place: int) -> Sequence[Path]:
    """Renames the folder of one export to `output`. Returns where the exports are then."""
    chosen = exports[place]
    publish(chosen, output)
    if chosen.exists():  # the output of an earlier run, which has taken its place
        shutil.rmtree(chosen)
    return [output if one == chosen else one for one in exports]
