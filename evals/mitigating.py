"""The whole job: search for an edit, export it, verify it, attack it, and evaluate it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from evals.evaluation.request import EvaluationRequest
from evals.exporting import ExportRequest, run_export
from evals.inputs import Progress, Say, say_nothing, show_nothing
from evals.running.request import Names
from evals.search.request import SearchRequest
from surgery.hub.embedded import find_lab

if TYPE_CHECKING:
    from evals.evaluation.report import Report
    from surgery.record.plan_file import PlanFile


class MitigationRequest(SearchRequest):
    """Leave at most `max_extraction` of `samples` recovered from `model`, at the least cost.

    `max_extraction` is 0.01 unless `max` limits `measure`. A lab model brings its own `samples` and
    `corpus`. The fields beyond those of `SearchRequest` say what is evaluated, and which gates hold
    beside the limits: they are those of `EvaluationRequest`.
    """

    samples: str = ""
    max_loss_increase: None = None
    tasks: Names = ()
    suite: Literal["standard", "lab"] | None = None
    include_path: tuple[Path, ...] = ()
    limit: int | float | None = None
    num_fewshot: int | None = Field(default=None, ge=0)
    max_drop: dict[str, float] = Field(default_factory=dict)
    attack: tuple[str, ...] = ()

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

    @property
    def search_request(self) -> SearchRequest:
        return SearchRequest.of(dict(self))

    def make_export_request(
        self, plan: PlanFile, output: Path, *, overwrite: bool
    ) -> ExportRequest:
        edit = {"plan": plan, "variant": None, "output": output, "overwrite": overwrite}
        return ExportRequest.of(dict(self), **edit)

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
        )


@dataclass(frozen=True)
class Mitigation:
    """A mitigated model, the object of `search --json`, and the report.

    `passed`: whether the search met its limit and every gate holds.
    """

    output: Path
    search: dict[str, Any]
    report: Report

    @property
    def passed(self) -> bool:
        gates = (gate.ok for edit in self.report.edits for gate in edit.gates)
        return self.search["selected"] is not None and all(gates)

    @property
    def next_command(self) -> str | None:
        """The command that publishes it. None where a limit is missed, or benchmarks were measured
        in part."""
        whole = self.report.settings.limit is None
        return f"attn-surgery push {self.output} OWNER/NAME" if self.passed and whole else None

    def to_dict(self) -> dict[str, Any]:
        """The object of `mitigate --json`."""
        return {
            "output": str(self.output),
            "passed": self.passed,
            "search": self.search,
            "report": self.report.to_dict(),
            "next": self.next_command,
        }


def mitigate(
    request: MitigationRequest,
    output: Path,
    *,
    overwrite: bool = False,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
    show_search: Callable[[dict[str, Any], Path], None] = lambda found, folder: None,
) -> Mitigation | None:
    """Searches into OUTPUT-search, exports into `output`, and puts report, card, and recipe there.

    A run that was interrupted continues where it stopped. `show_search` gets the search's answer
    and folder before the export starts. Returns None on all processes but the main one. Raises
    `SurgeryError`, and a `ValueError` for a request that contradicts itself.
    """
    search_request, evaluation_request = request.search_request, request.evaluation_request

    from evals.evaluation.evaluating import evaluate_exports
    from evals.evaluation.materials import open_materials
    from evals.search.searching import search
    from surgery.exporting import check_target
    from surgery.output import write_text
    from surgery.record.manifest import RECIPE

    folder = Path(f"{output}-search")
    begun = folder.exists() and output.exists() and not (output / RECIPE).exists()
    if overwrite or not begun:
        check_target(request.model, output, overwrite=overwrite)
    models = [(request.model, request.revision)]
    materials = open_materials(evaluation_request, models, progress=progress)
    say("1 of 3: search")
    found = search(search_request, folder, overwrite=overwrite, say=say, progress=progress)
    if found is None:
        return None
    result, plan = found
    if result["selected"] is None:
        limits = ", ".join(f"{most:g} ({name})" for name, most in request.limits.items())
        say(f"no edit meets the limit of {limits}: continuing with the best one")
    show_search(result, folder)
    say("2 of 3: export")
    export_request = request.make_export_request(plan, output, overwrite=overwrite)
    keep = begun and not overwrite
    prepared, made = run_export(export_request, keep=keep, say=say, progress=progress)
    if made is None:
        say(f"{output}: exported by an earlier run")
    say("3 of 3: verify, attack, and evaluate")
    report = evaluate_exports(prepared.model, materials, [output], say=say, progress=progress)
    write_text(output / RECIPE, request.to_config())
    return Mitigation(output, result, report)
