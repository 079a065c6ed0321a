"""What `extract`, `audit`, and `evaluate` ask for: one request with other defaults."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from evals.measure.attacks.request import Auditing
from evals.run.lm_eval.request import Limiting
from evals.run.lm_eval.tasks import SUITES
from evals.run.request import (
    Count,
    Cutting,
    Fraction,
    HeldoutText,
    Listing,
    Measuring,
    Option,
    Passages,
    Storing,
)
from surgery.hub.embedded import find_lab
from surgery.privacy import make_public_name


class Gating(Limiting, Auditing):
    """The tasks to run, the attacks to try, and the limits on what they show."""

    no_benchmarks: Annotated[
        bool,
        "Run no benchmark tasks. Otherwise, without `tasks` and `suite`, a lab model runs "
        "those of the suite lab, and any other model those of standard.",
        Option("measure"),
    ] = False


class MeasureRequest(Measuring, Gating, Listing, Storing):
    """Measures each of `models`, and `baseline` if there is one, on the same documents, passages,
    and text.

    `command`: which of the three asks. `omits`: fields that it has no option for.
    """

    command: Literal["extract", "audit", "evaluate"]
    omits: ClassVar[frozenset[str]] = frozenset({"command"})

    models: tuple[str, ...] = Field(min_length=1)
    baseline: Annotated[
        str | None,
        "The model before the edit, to compare with on the same rows; a Hub id, at the commit that "
        "MODEL records.",
        Option("input", "BASE", "none: measure MODEL alone"),
    ] = None
    samples: Passages = None
    heldout: HeldoutText = ()
    metrics: Annotated[
        Literal["exact", "full"],
        "exact: one pass and no decoding. full: also near matches, free-running scores, "
        "entropy, probabilistic extraction, and min-k++.",
        Option("measure"),
    ] = "exact"
    top_k: Annotated[
        Count,
        "With `metrics=full`: the k of top-k sampling in probabilistic extraction.",
        Option("measure"),
    ] = 40
    temperature: Annotated[
        float,
        Field(gt=0),
        "With `metrics=full`: the temperature of that sampling.",
        Option("measure"),
    ] = 1.0
    max_extraction: Annotated[
        Fraction | None,
        "Limit: the model may still recite at most this share of the passages.",
        Option("limits"),
    ] = None
    audit: Annotated[
        bool,
        "Try attacks: those of `attack`, or else the default ones. `attack` and `max` imply this.",
        Option("measure"),
    ] = False
    front: Annotated[
        Path | None,
        "JSON of a search, to show its edits in the picture of the trade-off.",
        Option("input", place="file"),
    ] = None
    show_text: Annotated[
        bool,
        "Write the text of the passages that the report shows into a separate file.",
        Option("output"),
    ] = False

    @model_validator(mode="after")
    def _agree(self) -> MeasureRequest:
        if self.metrics != "full":
            self._refuse_unused("metrics=full", "top_k", "temperature")
        if self.baseline is None:
            self._refuse_unused("baseline", "twin")
        if not (self.lab or self.samples):
            if self.leave_out is not None:
                raise ValueError("`leave_out` needs passages: give `samples`")
            if self.max_extraction is not None:
                raise ValueError("`max_extraction` needs passages: give `samples`")
            cutting = set(Cutting.model_fields) - {"revision"}
            self._refuse_unused("samples", *sorted(cutting))
        if not self._attacked:
            self._refuse_unused("audit", "sibling", "draws")
        if len(self.models) > 1 and self.revision is not None:
            raise ValueError(
                "`revision` applies to one MODEL only: export or download the others first"
            )
        return self

    @property
    def lab(self) -> str | None:
        """The lab model among those compared, if any; it has text of its own."""
        return find_lab(*self.models, self.baseline)

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, groups and patterns to run: none but for `evaluate`."""
        if self.command != "evaluate" or self.no_benchmarks or self.baseline is None:
            return ()
        return super().task_names or tuple(SUITES["lab" if self.lab else "standard"])

    @property
    def attacks(self) -> tuple[str, ...]:
        """The attacks to try: none unless `audit`, `attack` or `max` is given."""
        from evals.measure.attacks.names import choose_attacks

        if not self._attacked:
            return ()
        return choose_attacks(self.attack, self.max, sibling=self.sibling is not None)

    @property
    def limits(self) -> list[tuple[str, float]]:
        """The attacks with a limit, and the highest share that each may recover."""
        recited = [] if self.max_extraction is None else [("greedy", self.max_extraction)]
        return [*recited, *self.max.items()]

    @property
    def _attacked(self) -> bool:
        return bool(self.command == "audit" or self.audit or self.attack or self.max)

    def to_record(self, models: Sequence[str], baseline: str | None, **measured: Any) -> Any:
        """The request as a report records it, with names for paths and `measured` defaults."""
        return self.model_copy(
            update={
                "models": tuple(models),
                "baseline": baseline,
                "tasks": self.task_names,
                "suite": None,
                "include_path": tuple(Path(make_public_name(place)) for place in self.include_path),
                "twin": self.twin and make_public_name(self.twin),
                "sibling": self.sibling and make_public_name(self.sibling),
                "front": self.front and Path(make_public_name(self.front)),
                "audit": False,
                "attack": self.attacks,
                "no_cache": False,
                "device": None,
                "heldout": tuple(Path(make_public_name(file)) for file in self.heldout),
                **measured,
            }
        )

    def to_command(self) -> str:
        """The command for the same request, as you would type it."""
        from evals.measure.attacks.names import shorten_names

        plain = self.model_dump(exclude={"models"}) | {
            "tasks": ",".join(self.tasks) or None,
            "attack": shorten_names(self.attack, sibling=self.sibling is not None),
        }
        words = ["attn-surgery", self.command, *self.models]
        for name, value in plain.items():
            if name not in self.omits:
                words += _type_option(f"--{name.replace('_', '-')}", value)
        return shlex.join(words)


_BENCHMARKS = MeasureRequest.omits | {*Limiting.model_fields, "no_benchmarks"}
_REPORTED = frozenset({"front", "max_extraction", "audit"})
_FULL = frozenset({"metrics", "top_k", "temperature"})


class ExtractionRequest(MeasureRequest):
    """Tests which of `samples` each model recites, and which `baseline` does."""

    command: Literal["extract"] = "extract"
    omits = (
        _BENCHMARKS
        | _REPORTED
        | {"leave_out", "max", "no_cache"}
        | frozenset(Auditing.model_fields)
    )

    samples: Annotated[
        str | None,
        "Passages to test. The forms are listed above.",
        Option("input", "SAMPLES", "a lab model's own"),
    ] = None
    show_text: Annotated[
        bool, "Also write the text of the passages into the rows.", Option("output")
    ] = False

    @model_validator(mode="after")
    def _can_be_tested(self) -> ExtractionRequest:
        if not (self.samples or self.lab):
            raise ValueError("extract needs passages: give `samples`")
        return self


class AuditRequest(MeasureRequest):
    """Measures what attackers recover of `samples` from each model and, if given, from `baseline`.

    Raises `UnknownNameError` for an unknown attack.
    """

    command: Literal["audit"] = "audit"
    omits = _BENCHMARKS | _REPORTED | _FULL | {"show_text"}

    @model_validator(mode="after")
    def _can_be_tried(self) -> AuditRequest:
        if not (self.samples or self.lab):
            raise ValueError("audit needs passages: give `samples`")
        assert self.attacks
        return self


class EvaluationRequest(MeasureRequest):
    """Compares each of `models` with `baseline` on the same documents, passages and text."""

    command: Literal["evaluate"] = "evaluate"
    omits = MeasureRequest.omits | _FULL

    baseline: Annotated[
        str,
        "The model before the edit, to compare with on the same rows; a Hub id, at the commit that "
        "MODEL records.",
        Option("input", "BASE"),
    ]

    @model_validator(mode="after")
    def _can_be_compared(self) -> EvaluationRequest:
        if self.lab is None and self._attacked:
            for name in ("samples", "heldout"):
                if not getattr(self, name):
                    what = "passages and held-out text"
                    raise ValueError(f"attacks need {what}: give `{name}`")
        for name in ("tasks", "suite", "limit", "include_path", "num_fewshot"):
            if self.no_benchmarks and getattr(self, name) not in (None, ()):
                raise ValueError(f"`no_benchmarks` excludes `{name}`")
        if self.no_benchmarks and not (self.lab or self.samples or self.heldout):
            raise ValueError("nothing is left to measure: give `samples` or `heldout`")
        return self


def _type_option(option: str, value: Any) -> list[str]:
    if value is None or isinstance(value, bool):
        return [option] if value else []
    if isinstance(value, Mapping):
        value = [f"{name}={str(limit).removesuffix('.0')}" for name, limit in value.items()]
    values = value if isinstance(value, list | tuple) else [value]
    return [word for one in values for word in (option, str(one))]
