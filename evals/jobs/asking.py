"""What `extract`, `audit`, and `evaluate` ask for: one request, of which each takes a part."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import to_jsonable_python

from evals.measure.attacks.request import Attacks, Extraction
from evals.run.groups import Never, Passages, Revision, Run, ShowText, Texts
from evals.run.lm_eval.request import Tasks
from evals.run.lm_eval.tasks import SUITES
from evals.run.request import Option, Request, Use, list_places, refuse_unused
from surgery.lab import find_lab
from surgery.privacy import make_public_name

_TASKS = ("tasks", "suite", "include_path", "limit", "num_fewshot", "max_drop")
_REPORTED = ("front", "max_extraction", "max_form")
_ATTACKS = ("attack", "draws", "twin", "max", "sibling")
OMITTED: dict[str, frozenset[str]] = {
    "extract": frozenset(
        {"command", "leave_out", "never", "no_cache", *_TASKS, *_REPORTED, *_ATTACKS}
    ),
    "audit": frozenset({"command", "show_text", *_TASKS, *_REPORTED, "metrics"}),
    "evaluate": frozenset({"command", "metrics"}),
}
"""Command → the flat names that mean nothing to it."""
TYPED = {
    "extract": "baseline samples heldout prefix_length suffix_length secret skip_short revision "
    "metrics show_text device dtype batch_size",
    "audit": "baseline samples heldout prefix_length suffix_length secret skip_short leave_out "
    "revision twin sibling attack max device",
    "evaluate": "baseline samples heldout secret skip_short leave_out never revision twin sibling "
    "tasks suite attack max_extraction max_form max max_drop",
}
"""Command → the flat names that it has options for."""


def take(command: Literal["extract", "audit", "evaluate"]) -> dict[str, Any]:
    """What one of the commands takes of the request."""
    return {"command": command, "typed": TYPED[command], "omitted": OMITTED[command]}


class MeasureRequest(Request):
    """Measures each of `models`, and `baseline` if there is one, on the same documents, passages,
    and text.

    `command`: extract tests which passages a model recites; audit, what attackers recover; evaluate
    compares with `baseline` in all that can be measured. Raises `UnknownNameError` for an unknown
    attack.
    """

    command: Literal["extract", "audit", "evaluate"]
    models: tuple[str, ...] = Field(min_length=1)
    baseline: Annotated[
        str | None,
        "The model before the edit, to compare with on the same rows; a Hub id, at the commit that "
        "MODEL records.",
        Option("input", "BASE", "none: measure MODEL alone"),
    ] = None
    passages: Passages = Passages()
    never: Never = None
    texts: Annotated[Texts, Use(without=("calibration",))] = Texts()
    revision: Revision = None
    metrics: Annotated[
        Literal["exact", "full"],
        "Measures to compute. exact: those of one pass, without decoding. full: also near "
        "matches, free-running scores, and entropy.",
        Option("measure"),
    ] = "exact"
    attacks: Attacks = Attacks()
    benchmarks: Tasks = Tasks()
    extraction: Annotated[Extraction, Use(without=("measure",))] = Extraction()
    front: Annotated[
        Path | None,
        "JSON of a search, to show its edits in the picture of the trade-off.",
        Option("input", place="file"),
    ] = None
    show_text: ShowText = False
    run: Run = Run()

    @property
    def omitted(self) -> Collection[str]:
        return OMITTED[self.command]

    @model_validator(mode="after")
    def _takes_these(self) -> MeasureRequest:
        places = list_places(type(self))
        for flat in sorted(OMITTED[self.command] - {"command"}):
            if places[flat][0].read(self) != places[flat][0].default:
                raise ValueError(f"{self.command} takes no `{flat}`")
        return self

    @model_validator(mode="after")
    def _agree(self) -> MeasureRequest:
        passages = self.passages
        if self.baseline is None:
            refuse_unused(self.attacks, "baseline", "twin")
        if not (self.lab or passages.samples):
            if passages.leave_out is not None:
                raise ValueError("`leave_out` needs passages: give `samples`")
            for limit in ("max_extraction", "max_form"):
                if getattr(self.extraction, limit) is not None:
                    raise ValueError(f"`{limit}` needs passages: give `samples`")
            refuse_unused(self, "samples", "never")
            refuse_unused(passages, "samples", *sorted(passages.cutting))
        if not self._attacked:
            refuse_unused(self.attacks, "attack", "sibling", "draws")
        return self

    @model_validator(mode="after")
    def _can_be_measured(self) -> MeasureRequest:
        if self.command != "evaluate":
            if not (self.passages.samples or self.lab):
                raise ValueError(f"{self.command} needs passages: give `samples`")
            assert self.command == "extract" or self.attack_names
            return self
        if self.baseline is None:
            raise ValueError("evaluate needs the model before the edit: give `baseline`")
        no_tasks = self.benchmarks.suite == "none"
        for name in ("limit", "include_path", "num_fewshot") if no_tasks else ():
            if getattr(self.benchmarks, name) not in (None, ()):
                raise ValueError(f"`suite=none` excludes `{name}`")
        named = {"samples": self.passages.samples, "heldout": self.texts.heldout}
        if self.lab is None and self._attacked:
            for name, given in named.items():
                if not given:
                    what = "passages and held-out text"
                    raise ValueError(f"attacks need {what}: give `{name}`")
        if no_tasks and not (self.lab or any(named.values())):
            raise ValueError("nothing is left to measure: give `samples` or `heldout`")
        return self

    @property
    def lab(self) -> str | None:
        """The lab model among those compared, if any; it has text of its own."""
        return find_lab(*self.models, self.baseline)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, groups and patterns to run: none but for `evaluate`."""
        if self.command != "evaluate" or self.benchmarks.suite == "none" or self.baseline is None:
            return ()
        return self.benchmarks.names or tuple(SUITES["lab" if self.lab else "standard"])

    @property
    def attack_names(self) -> tuple[str, ...]:
        """The attacks to try: none, but in an audit, unless `attack` or `max` is given."""
        from evals.measure.attacks.names import choose_attacks

        asked = self.attacks
        if not self._attacked:
            return ()
        return choose_attacks(asked.attack, asked.max, sibling=asked.sibling is not None)

    @property
    def limits(self) -> list[tuple[str, float]]:
        """The attacks with a limit, and the highest share that each may recover."""
        most = self.extraction.max_extraction
        return [*([] if most is None else [("greedy", most)]), *self.attacks.max.items()]

    @property
    def _attacked(self) -> bool:
        return bool(self.command == "audit" or self.attacks.attack or self.attacks.max)

    def to_record(self, models: Sequence[str], baseline: str | None, **measured: Any) -> Any:
        """The request as a report records it, with names for paths and `measured` defaults."""
        attacks, folders = self.attacks, self.benchmarks.include_path
        changes = {
            "models": tuple(models),
            "baseline": baseline,
            "tasks": self.task_names,
            "suite": "none" if self.benchmarks.suite == "none" else None,
            "include_path": tuple(Path(make_public_name(place)) for place in folders),
            "twin": attacks.twin and make_public_name(attacks.twin),
            "sibling": attacks.sibling and make_public_name(attacks.sibling),
            "front": self.front and Path(make_public_name(self.front)),
            "never": self.never and make_public_name(self.never),
            "attack": self.attack_names,
            "no_cache": False,
            "device": None,
            "heldout": tuple(Path(make_public_name(file)) for file in self.texts.heldout),
            **measured,
        }
        return self.change(**changes)

    def to_settings(self) -> dict[str, Any]:
        """What a report says was asked, by flat names, as JSON has it."""
        settings: dict[str, Any] = to_jsonable_python(dict(self.list_values()))
        return settings
