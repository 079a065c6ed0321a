"""The request for a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from evals.running.request import Choosing, Names


class SweepRequest(Choosing):
    """Edits of `model`, measured on `samples` and on held-out text.

    - `last`, `ranges`, `heads`: edits beside every single block.
    - `exact_only`: measure only which passages are recited.
    - `tasks` or `suite`: also run these lm-eval tasks under every edit.
      `include_path`: where more tasks are. `limit`: documents of each, or a share below 1.
    - `bounds`, `estimate`: also bound what mixing adds to each block; also estimate every head.
    """

    last: bool = True
    ranges: bool = False
    heads: bool = False
    exact_only: bool = False
    tasks: Names = ()
    suite: Literal["standard", "lab"] | None = None
    include_path: tuple[Path, ...] = ()
    limit: int | float | None = Field(default=None, gt=0)
    bounds: bool = False
    estimate: bool = False

    @model_validator(mode="after")
    def _agree(self) -> SweepRequest:
        if self.exact_only and (self.corpus or self.bounds or self.estimate):
            raise ValueError(
                "`exact_only` reads no held-out text, so no `corpus`, `bounds`, or `estimate`"
            )
        if self.tasks and self.suite:
            raise ValueError("`tasks` and `suite` exclude each other")
        if not (self.tasks or self.suite) and (self.include_path or self.limit):
            raise ValueError("`include_path` and `limit` say which tasks: give `tasks` or `suite`")
        return self

    @property
    def task_names(self) -> tuple[str, ...]:
        """The tasks, groups, and patterns that every edit is run on."""
        if self.suite is not None:
            from evals.benchmarks.tasks import SUITES

            return tuple(SUITES[self.suite])
        return self.tasks
