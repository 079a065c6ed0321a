"""The part of a request that names benchmark tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator, model_validator

from evals.run.lm_eval.tasks import QUICK_LIMIT, SUITES
from evals.run.request import Names, Request


class Benchmarking(Request):
    """Which lm-eval tasks to run.

    - `tasks`: tasks, groups, or patterns; or `suite`: the tasks of a suite.
    - `include_path`: folders with more tasks. `limit`: documents of each task, or a share below 1;
      by default all, and `QUICK_LIMIT` for the suite "quick".
    """

    tasks: Names = ()
    suite: Literal["standard", "quick", "lab"] | None = None
    include_path: tuple[Path, ...] = ()
    limit: int | float | None = None

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
    def _one_choice(self) -> Benchmarking:
        if self.tasks and self.suite:
            raise ValueError("`tasks` and `suite` exclude each other")
        return self

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, groups, and patterns that are named."""
        return self.tasks or tuple(SUITES[self.suite] if self.suite else ())
