"""The request for a sweep."""

from __future__ import annotations

from pydantic import model_validator

from evals.run.lm_eval.request import Benchmarking
from evals.run.request import Choosing


class SweepRequest(Choosing, Benchmarking):
    """Edits of `model`, measured on `samples` and on held-out text.

    - `last`, `ranges`, `heads`: edits beside every single block.
    - `exact_only`: measure only which passages are recited.
    - `tasks` or `suite`: also run these lm-eval tasks under every edit.
    - `estimate`: also estimate every head and every block.
    """

    last: bool = True
    ranges: bool = False
    heads: bool = False
    exact_only: bool = False
    estimate: bool = False

    @model_validator(mode="after")
    def _agree(self) -> SweepRequest:
        if self.exact_only and (self.corpus or self.estimate):
            raise ValueError("`exact_only` reads no held-out text, so no `corpus` or `estimate`")
        if not (self.tasks or self.suite) and (self.include_path or self.limit):
            raise ValueError("`include_path` and `limit` say which tasks: give `tasks` or `suite`")
        return self
