"""The request for a sweep."""

from __future__ import annotations

from typing import Annotated

from pydantic import model_validator

from evals.run.groups import Passages, Revision, Run, Texts, Variants
from evals.run.lm_eval.request import Tasks
from evals.run.request import Option, Request, Use
from surgery.lab import find_lab


class SweepRequest(Request):
    """Edits of `model`, measured on passages, on held-out text, and on the tasks named."""

    typed = (
        "samples heldout calibration prefix_length suffix_length secret skip_short revision "
        "variant last ranges heads estimate tasks suite device"
    )

    model: str
    revision: Revision = None
    passages: Annotated[Passages, Use(without=("leave_out",))] = Passages()
    texts: Texts = Texts()
    variant: Variants = ()
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

    benchmarks: Annotated[Tasks, Use(without=("num_fewshot", "max_drop"))] = Tasks()
    run: Run = Run()

    @model_validator(mode="after")
    def _agree(self) -> SweepRequest:
        if not (self.passages.samples or find_lab(self.model)):
            raise ValueError(f"{self.model} brings no passages of its own: give `samples`")
        if not self.benchmarks.names and (self.benchmarks.include_path or self.benchmarks.limit):
            raise ValueError("`include_path` and `limit` say which tasks: give `tasks` or `suite`")
        return self
