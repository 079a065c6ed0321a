"""The requests for a memorization test and for collecting what a model recites."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from evals.run.request import Measuring, Request, Running
from surgery.errors import SamplesError


class ExtractionRequest(Measuring):
    """Tests which of `samples` `model` recites, and which `baseline` (the unedited model) does.

    - `metrics`: "exact" takes one pass; "full" also decodes and measures distributions.
    - `top_k`, `temperature`: the sampling scheme of probabilistic extraction, under "full".
    - `control`: text that no model was trained on. Empty: a lab model's own, or the non-members.
    """

    model: str
    samples: str
    baseline: str | None = None
    metrics: Literal["exact", "full"] = "exact"
    top_k: int = Field(default=40, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    control: tuple[Path, ...] = ()

    @model_validator(mode="after")
    def _samples_or_not(self) -> ExtractionRequest:
        if self.metrics != "full":
            self._refuse_unused("metrics=full", "top_k", "temperature")
        return self


class Cut(Request):
    """How to cut a corpus into windows, and which windows to keep.

    Windows of prefix + suffix tokens start at every multiple of `stride`. A window stays if at
    least `min_score` of its suffix is right: 1.0 means exact repetition by greedy decoding, less
    means next-token accuracy. Raises `SamplesError` for invalid values.
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
            what, expected = "wrong minimum score", "above 0, at most 1"
            raise SamplesError(what, expected=expected, got=self.min_score)
        return self

    @property
    def length(self) -> int:
        """Tokens in a window."""
        return self.prefix_length + self.suffix_length


class CollectRequest(Running):
    """Collects what a model recites of `corpus`: files, folders, or data sets of text."""

    model: str
    corpus: tuple[Path, ...]
    cut: Cut = Cut()
    revision: str | None = None
