"""The request for a sweep."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from evals.run.lm_eval.request import Benchmarking
from evals.run.request import Choosing, Option


class SweepRequest(Choosing, Benchmarking):
    """Edits of `model`, measured on `samples`, on held-out text, and on the tasks named."""

    last: Annotated[
        bool,
        "Also edit the last 2, 3, … blocks together. Each takes as long as a single block.",
        Option("edit", default="`last`"),
    ] = True
    ranges: Annotated[bool, "Also edit every contiguous range of blocks.", Option("edit")] = False
    heads: Annotated[bool, "Also edit every head alone.", Option("edit")] = False
    estimate: Annotated[
        bool,
        "Also estimate the effect of editing every head and every block, from a few passes "
        "over the text. A lab model is then swept in all variants, unless you name some.",
        Option("measure"),
    ] = False

    @model_validator(mode="after")
    def _agree(self) -> SweepRequest:
        if not (self.tasks or self.suite) and (self.include_path or self.limit):
            raise ValueError("`include_path` and `limit` say which tasks: give `tasks` or `suite`")
        return self
