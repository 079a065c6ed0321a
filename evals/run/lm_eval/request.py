"""The group of a request that names benchmark tasks, and what they may lose."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from evals.run.groups import Names
from evals.run.lm_eval.tasks import QUICK_LIMIT, SUITES
from evals.run.request import Group, Option

Drops = dict[str, Annotated[float, Field(ge=0)]]
"""Task, or pattern → the most that it may lose."""


class Tasks(Group):
    """Which lm-eval tasks to run, and what they may lose. `limit` is `QUICK_LIMIT` by default for
    the suite "quick"."""

    tasks: Annotated[
        Names,
        "lm-eval tasks, groups, or patterns, separated by commas.",
        Option("measure", "A,B", "those of the suite", decides=False),
    ] = ()
    suite: Annotated[
        Literal["standard", "quick", "lab", "none"] | None,
        "Benchmarks to run. standard: lambada_openai, hellaswag, piqa, winogrande, arc_easy, "
        "arithmetic_2da, webqs. quick: 250 documents each of three of them. lab: three tasks "
        "that need no download. none: run no tasks.",
        Option(
            "measure",
            default="in an evaluation, lab for a lab model, standard for any other",
            decides=False,
        ),
    ] = None
    include_path: Annotated[
        tuple[Path, ...],
        "Folder with more lm-eval task files.",
        Option("measure", "DIR", place="folder", decides=False),
    ] = ()
    limit: Annotated[
        int | float | None,
        Field(gt=0),
        "Use only the first N documents of each task, or this share of them.",
        Option("measure", "N"),
    ] = None

    num_fewshot: Annotated[
        int | None,
        Field(ge=0),
        "Examples before each question.",
        Option("measure", default="the task's own"),
    ] = None
    max_drop: Annotated[
        Drops,
        "Limit: TASK may lose at most X. A pattern such as '*' limits every task that it matches.",
        Option("limits", "TASK=X", example="lambada_openai=0.03"),
    ] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _limit_quick(cls, given: Any) -> Any:
        if given.get("suite") == "quick" and given.get("limit") is None:
            return {**given, "limit": QUICK_LIMIT}
        return given

    @field_validator("limit")
    @classmethod
    def _whole_or_share(cls, limit: float | None) -> float | None:
        if limit is None or 0 < limit < 1:
            return limit
        if limit < 1 or limit != int(limit):
            raise ValueError(f"{limit} is neither a whole number from 1 on nor a share below 1")
        return int(limit)

    @model_validator(mode="after")
    def _one_choice(self) -> Tasks:
        if self.tasks and self.suite:
            raise ValueError("`tasks` and `suite` exclude each other")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The tasks, groups, and patterns that are named."""
        return self.tasks or tuple(SUITES.get(self.suite or "none", ()))
