"""What a memorization test is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from evals.running.request import Measuring


class ExtractionRequest(Measuring):
    """Which of `samples` does `model` recite, and which does `baseline`, the unedited model?

    - `metrics`: "exact" takes one pass; "full" also decodes, and measures distributions.
    - `top_k`, `temperature`: the sampling scheme of probabilistic extraction, under "full".
    - `controls`: text that was not trained on. Empty: a lab model's own, or the non-members.
    """

    model: str
    samples: str
    baseline: str | None = None
    metrics: Literal["exact", "full"] = "exact"
    top_k: int = Field(default=40, ge=1)
    temperature: float = Field(default=1.0, gt=0)
    controls: tuple[Path, ...] = Field(default=(), serialization_alias="control")
