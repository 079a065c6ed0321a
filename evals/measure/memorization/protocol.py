"""Runs the memorization test on models, and on text that they were not trained on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from evals.data import Samples, Tokens
from evals.measure.memorization.extraction import Extraction, extract, run_pass
from evals.measure.memorization.measures import Flags, suffix_nll
from evals.measure.memorization.summary import ControlLoss
from evals.run.models import LoadedModel


@dataclass(frozen=True)
class Protocol:
    """What to measure and how, the same for every model that is compared.

    `controls`: int32 [M, T], windows of text that no model was trained on. None: rows marked as
    non-members are the control, if there are any. `documents`: int64 [M], the text of each window.
    """

    samples: Samples
    controls: Tokens | None = None
    full: bool = False
    batch_size: int | None = None
    documents: npt.NDArray[np.int64] | None = None

    @property
    def rows(self) -> int:
        """How many rows are read, including controls."""
        return len(self.samples) + (0 if self.controls is None else len(self.controls))


@dataclass(frozen=True)
class ExtractionResults:
    """One model's results, without the model."""

    test: Extraction
    control: ControlLoss | None
    provenance: dict[str, Any]

    @property
    def recited(self) -> Flags:
        """Which of the passages that were trained on are recited word for word."""
        return self.test.exact[self.test.samples.trained_on]

    def select(self, passages: Flags, windows: Flags) -> ExtractionResults:
        """The results on some passages (bool [N]) and some windows (bool [M]) of the control."""
        control = self.control and self.control.select(windows)
        return replace(self, test=self.test.select(passages), control=control)


def measure(
    loaded: LoadedModel, protocol: Protocol, *, advance: Callable[[int], None] = lambda rows: None
) -> ExtractionResults:
    """Runs `protocol` on one model. `advance` counts finished rows, including controls."""
    samples, model = protocol.samples, loaded.model
    test = extract(
        model,
        samples,
        full=protocol.full,
        batch_size=protocol.batch_size,
        advance=advance,
    )
    control = None
    if protocol.controls is not None:
        control = measure_text(
            model,
            protocol.controls,
            protocol.documents,
            batch_size=test.batch_size,
            advance=advance,
        )
    elif samples.members is not None and not samples.members.all():
        outside: Flags = ~samples.members
        control = ControlLoss("non-members", test.nll[outside], samples.tokens[outside])
    return ExtractionResults(test, control, {**loaded.provenance, "batch_size": test.batch_size})


def measure_text(
    model: PreTrainedModel,
    windows: Tokens,
    documents: npt.NDArray[np.int64] | None = None,
    **running: Any,
) -> ControlLoss:
    """NLL of int32 [M, T] windows: of every token but the first, as in a sweep.

    `documents`: int64 [M], the text that each window is from. `running`: for `run_pass`.
    """
    result = run_pass(model, windows, 1, **running)
    loss = suffix_nll(result.predictions.log_likelihood, result.suffix)
    return ControlLoss("text", loss, windows, documents)
