"""The requests for a memorization test and for collecting what a model recites."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from evals.run.request import UNTRAINED, Measuring, Option, Request, Revision, Running


class ExtractionRequest(Measuring):
    """Tests which of `samples` `model` recites, and which `baseline` does."""

    model: str
    samples: Annotated[
        str, Option("Passages to test. The forms are listed above.", "input", "SAMPLES")
    ]
    baseline: Annotated[
        str | None,
        Option(
            "The unedited model, to compare with on the same rows; a Hub id, at the commit that "
            "MODEL records.",
            "input",
            "MODEL",
        ),
    ] = None
    metrics: Annotated[
        Literal["exact", "full"],
        Option(
            "exact: one pass and no decoding. full: also near matches, free-running scores, "
            "entropy, probabilistic extraction, and min-k++.",
            "measure",
        ),
    ] = "exact"
    top_k: Annotated[
        int,
        Field(ge=1),
        Option(
            "With `metrics=full`: the k of top-k sampling in probabilistic extraction.", "measure"
        ),
    ] = 40
    temperature: Annotated[
        float,
        Field(gt=0),
        Option("With `metrics=full`: the temperature of that sampling.", "measure"),
    ] = 1.0
    control: Annotated[
        tuple[Path, ...],
        Option(UNTRAINED, "input", default="a lab model's own, or the samples' non-members"),
    ] = ()

    @model_validator(mode="after")
    def _samples_or_not(self) -> ExtractionRequest:
        if self.metrics != "full":
            self._refuse_unused("metrics=full", "top_k", "temperature")
        return self


class Cut(Request):
    """How to cut a corpus into windows, and which windows to keep.

    Windows of prefix + suffix tokens start at every multiple of `stride`.
    """

    prefix_length: Annotated[
        int, Field(ge=1), Option("Tokens of a window that the model is given.", "input")
    ] = 32
    suffix_length: Annotated[
        int, Field(ge=1), Option("Tokens of a window that the model must recite.", "input")
    ] = 32
    stride: Annotated[
        int,
        Field(ge=1),
        Option("Tokens from one window to the next. 1 finds most and takes longest.", "measure"),
    ] = 16
    min_score: Annotated[
        float,
        Field(gt=0, le=1),
        Option(
            "Keep windows with at least this next-token accuracy on the suffix. 1 is an exact "
            "match.",
            "measure",
        ),
    ] = 1.0

    @property
    def length(self) -> int:
        """Tokens in a window."""
        return self.prefix_length + self.suffix_length


class CollectRequest(Running):
    """Collects what a model recites of `corpus`."""

    model: str
    corpus: Annotated[
        tuple[Path, ...],
        Option(
            "Text, or JSON, CSV, or parquet with a column text: a file, a folder, or "
            "hf:DATASET:SPLIT:COLUMN.",
            "input",
        ),
    ]
    cut: Cut = Cut()
    revision: Revision = None
