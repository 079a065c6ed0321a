"""What a memorization test, and a search for what a model recites, are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from evals.running.request import Measuring, Request, Running
from surgery.errors import SamplesError


class ExtractionRequest(Measuring):
    """Which of `samples` does `model` recite, and which does `baseline`, the unedited model?

    - `metrics`: "exact" takes one pass; "full" also decodes, and measures distributions.
    - `top_k`, `temperature`: the sampling scheme of probabilistic extraction, under "full".
    - `control`: text that was not trained on. Empty: a lab model's own, or the non-members.
    """

    model: str
    samples: str
    baseline: str | None = None
    metrics: Literal["exact", "full"] = "exact"
    top_k: int = Field(default=40, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    control: tuple[Path, ...] = ()


class Cut(Request):
    """How a corpus is cut and what is kept.

    Windows of prefix + suffix tokens start at every multiple of `stride`; a window is kept when at
    least `min_score` of its suffix is right: 1.0 keeps exact repetitions (greedy decoding), less
    is the next-token accuracy. Raises `SamplesError` for values that mean nothing.
    """

    prefix_length: int = 32
    suffix_length: int = 32
    stride: int = 16
    min_score: float = 1.0

    @model_validator(mode="after")
    def _means_something(self) -> Cut:
        for name in ("prefix_length", "suffix_length", "stride"):
            if (value := getattr(self, name)) < 1:
                what = f"wrong {name.replace('_', ' ')}"
                raise SamplesError(what, expected="at least 1", got=value)
        if not 0 < self.min_score <= 1:
            what, expected = "wrong least score", "above 0, at most 1"
            raise SamplesError(what, expected=expected, got=self.min_score)
        return self

    @property
    def length(self) -> int:
        """Tokens of a window."""
        return self.prefix_length + self.suffix_length


class CollectRequest(Running):
    """The windows of `corpus` that `model` recites: files, folders or data sets of text."""

    model: str
    corpus: tuple[Path, ...]
    cut: Cut = Cut()
    revision: str | None = None
