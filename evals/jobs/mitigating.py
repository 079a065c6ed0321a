"""The whole job: search for an edit, export it, verify it, attack it, and evaluate it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, ValidationError, model_validator

from evals.choose.search.request import SearchRequest
from evals.jobs.exporting import ExportRequest, run_export
from evals.measure.healing import read_healing_text
from evals.measure.verdicts import OK, settle, shorten_list
from evals.report.request import EvaluationRequest
from evals.run.console import SILENT, say, use_console
from evals.run.lm_eval.request import Benchmarking
from evals.run.request import describe_mistakes
from surgery.hub.embedded import find_lab
from surgery.hub.finding import find_outline
from surgery.output import publish, write_text
from surgery.untrusted import read_json
from surgery.variants import variant_of

if TYPE_CHECKING:
    from evals.jobs.materials import Materials
    from evals.measure.verdicts import State
    from evals.report.report import EditReport, Report
    from surgery.record.plan_file import PlanFile


class MitigationRequest(SearchRequest, Benchmarking):
    """Leave at most `max_extraction` of `samples` recovered from `model`, at the least cost.

    `max_extraction` is 0.01 unless `max` limits `measure`. A lab model brings its own `samples` and
    `corpus`. The fields beyond those of `SearchRequest` say what is evaluated, and which gates hold
    beside the limits: they are those of `EvaluationRequest`.

    With `heal`, the result is healed only if its verdict is then better than the cut's, or as good
    at a lower cost.
    """

    samples: str = ""
    max_loss_increase: None = None
    no_benchmarks: bool = False
    num_fewshot: int | None = Field(default=None, ge=0)
    max_drop: dict[str, float] = Field(default_factory=dict)
    attack: tuple[str, ...] = ()
    draws: int | None = Field(default=None, ge=1)
    twin: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _one_goal(cls, given: Any) -> Any:
        model = given.get("model")
        if model is None:
            raise ValueError("name a MODEL, or give a `recipe` that does")
        lab = find_lab(model)
        for name in ("samples", "corpus"):
            if lab is None and not given.get(name):
                raise ValueError(f"{model} brings no {name} of its own: give `{name}`")
        found = {**given, "samples": given.get("samples") or lab}
        if given.get("max_extraction") is None:
            named = given.get("measure", "any") in (given.get("max") or ())
            found["max_extraction"] = None if named else 0.01
        return found

    @model_validator(mode="after")
    def _can_be_evaluated(self) -> MitigationRequest:
        try:
            assert self.evaluation_request
        except ValidationError as error:  # a message of its own, without the other's frame
            raise ValueError(describe_mistakes(error)) from None
        return self

    @property
    def search_request(self) -> SearchRequest:
        return SearchRequest.of(dict(self))

    def list_exports(self, output: Path) -> list[Path]:
        """The folders to export to: the output, or the cut and the healed result to choose from."""
        return [Path(f"{output}-{name}") for name in ("cut", "healed")] if self.heal else [output]

    def make_export_request(
        self, plan: PlanFile, output: Path, *, overwrite: bool, healed: bool
    ) -> ExportRequest:
        fitted = any(variant_of(edit.variant).fitted for edit in plan.edits)
        edit = {
            "plan": plan,
            "variant": None,
            "calibration": self.calibration if fitted else (),
            "output": output,
            "overwrite": overwrite,
        }
        given = {name: value for name, value in self if healed or not name.startswith("heal")}
        return ExportRequest.of(given, **edit)

    @property
    def evaluation_request(self) -> EvaluationRequest:
        """The default attacks unless some are named; the limits of the search are gates."""
        return EvaluationRequest.of(
            dict(self),
            models=(self.model,),
            baseline=self.model,
            revision=None,
            control=self.corpus,
            audit=True,
            max=self.limits,
            max_extraction=None,
            limit=None if self.no_benchmarks else self.limit,
        )


@dataclass(frozen=True)
class Mitigation:
    """A mitigated model, the object of `search --json`, and the report."""

    output: Path
    search: dict[str, Any]
    report: Report

    @property
    def place(self) -> int:
        """Which of the report's edits the model is: the cut, or the cut healed."""
        return choose_healed(*self.report.edits)[0] if len(self.report.edits) > 1 else 0

    @property
    def state(self) -> State | None:
        """The state of every gate together; also missed if the search met no limit."""
        met = self.search["selected"] is not None
        return self.report.edits[self.place].state if met else "missed"

    @property
    def next_command(self) -> str | None:
        """The command that publishes it, if every limit is kept and benchmarks are whole."""
        ready = self.state == "kept" and self.report.settings.limit is None
        return f"attn-surgery push {self.output} OWNER/NAME" if ready else None

    def to_dict(self) -> dict[str, Any]:
        """The object of `mitigate --json`."""
        return {
            "output": str(self.output),
            "state": self.state,
            "passed": OK.get(self.state),
            "healed": self.place == 1,
            "search": self.search,
            "report": self.report.to_dict(),
            "next": self.next_command,
        }


@dataclass(frozen=True)
class Job:
    """The work towards one output. `search`: the folder of its search.

    Its exports record its name, the hash of the question that the search answers. So it takes up
    and replaces its own exports, as long as the output is not done, and nobody else's.
    """

    output: Path
    search: Path

    @property
    def name(self) -> str | None:
        """None before the search is done: then there is no export yet."""
        question = read_json(self.search / "search.json").get("question")
        if question is None:
            return None
        return hashlib.sha256(json.dumps(question, sort_keys=True).encode()).hexdigest()

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
    for place in dict.fromkeys((output, *request.list_exports(output))):
        check_target(request.model, place, overwrite=overwrite or job.made(place))
    return job


def mitigate(
    request: MitigationRequest,
    output: Path,
    *,
    overwrite: bool = False,
    show_search: Callable[[dict[str, Any]], None] = lambda found: None,
) -> Mitigation | None:
    """Searches into OUTPUT-search, exports into `output`, and puts report, card, and recipe there.

    A run that was interrupted continues where it stopped. `show_search` gets the search's answer
    before the export starts. Returns None on all processes but the main one. Raises
    `SurgeryError`.
    """
    search_request, evaluation_request = request.search_request, request.evaluation_request
    assert evaluation_request.attacks  # all are known
    job = find_job(request, output, overwrite=overwrite)
    folder = job.search
    find_outline(request.model, request.revision)  # before the imports, which take seconds

    from evals.jobs.evaluating import evaluate_exports
    from evals.jobs.materials import open_materials
    from evals.jobs.searching import search
    from surgery.exporting import check_target
    from surgery.record.manifest import RECIPE

    exports = request.list_exports(output)
    models = [(request.model, request.revision)]
    materials = open_materials(evaluation_request, models)
    _check_healing(request, materials)
    say("1 of 3: search")
    found = search(search_request, folder, overwrite=overwrite)
    if found is None:
        return None
    result, plan = found
    if result["selected"] is None:
        limits = ", ".join(f"{most:g} ({name})" for name, most in request.limits.items())
        say(f"no edit meets the limit of {limits}: continuing with the best one")
    show_search(result)
    say("2 of 3: export")
    for place in exports:
        healed, ours = place != exports[0], job.made(place)
        replaces = overwrite or ours  # a smaller budget may have found another edit
        wanted = request.make_export_request(plan, place, overwrite=replaces, healed=healed)
        keep = ours and not overwrite
        prepared, made = run_export(wanted, keep=keep, job=job.name)
        if made is None:
            say(f"{place}: exported by an earlier run")
    say("3 of 3: verify, attack, and evaluate")
    materials = materials.with_search(folder / "search.json")

    def check() -> None:
        check_target(request.model, output, overwrite=overwrite or job.made(output))

    arrange = partial(_keep_best, output, exports, check) if request.heal else None
    report = evaluate_exports(prepared.model, materials, exports, arrange=arrange)
    write_text(output / RECIPE, request.to_config())
    return Mitigation(output, result, report)


def _check_healing(request: MitigationRequest, materials: Materials) -> None:
    """Raises `SamplesError`, before a long search, for text that holds passages or is too short."""
    if materials.healing is None:
        return
    from surgery.healing.training import Schedule
    from surgery.hub.finding import find_model

    model, schedule = find_model(request.model, request.revision), Schedule(request.heal_steps)
    with use_console(SILENT):  # the search warns of the same passages
        read_healing_text(materials.healing, schedule, model, materials.passages)


def _keep_best(
    output: Path, exports: Sequence[Path], check: Callable[[], None], report: Report
) -> Sequence[Path]:
    """Renames the folder of one export to `output`. Returns where the exports are then.

    `check`: refuses an output that may not be replaced; hours have passed since it was looked at.
    """
    place, reason = choose_healed(*report.edits)
    say(reason)
    chosen = exports[place]
    check()
    publish(chosen, output)
    if chosen.exists():  # the output of an earlier run, which has taken its place
        shutil.rmtree(chosen)
    return [output if one == chosen else one for one in exports]


def choose_healed(cut: EditReport, healed: EditReport) -> tuple[int, str]:
    """Whether to keep the healed result (1) or the cut (0), and a sentence that says why.

    A result that keeps every gate beats one that does not decide it, and that one beats one that
    misses it. Of two alike, the healed one must cost less, where its base is healed the same way.
    """
    costs = [cut.heldout, healed.healed_base and healed.healed_base.heldout]
    before, after = (cost.difference.mean if cost else None for cost in costs)
    said = "the cost was not measured"
    if before is not None and after is not None:
        said = f"the cut costs {before:+.3f} nats, healed {after:+.3f} (base healed the same way)"
    if cut.state != healed.state:  # all have gates
        if settle((cut.state, healed.state)) == healed.state:
            return 0, f"kept the cut: healed, it {_describe_open(healed)}; {said}"
        return 1, f"kept the healed result: the cut {_describe_open(cut)}; {said}"
    if before is None or after is None or after >= before:
        return 0, f"kept the cut: {said}"
    return 1, f"kept the healed result: {said}"


def _describe_open(edit: EditReport) -> str:
    """Which gates keep a result from being the better one."""
    names = [gate.name for gate in edit.gates if gate.state == edit.state]
    return f"{'misses' if edit.state == 'missed' else 'does not decide'} {shorten_list(names)}"
