"""The whole memorization test: models measured on the same rows in the same way, and a report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from evals.memorization.extraction import Extraction, extract, run_pass
from evals.memorization.measures import suffix_nll
from evals.memorization.summary import Control, compare, summarize
from evals.models import LoadedModel, check_precision
from evals.running.predictions import Sampling
from evals.running.processes import Processes
from evals.samples import Samples, Tokens, row_warnings
from evals.statistics import SEED
from surgery.record.manifest import versions


@dataclass(frozen=True)
class Protocol:
    """What is measured, and how: the same for every model that is compared.

    `controls`: int32 [M, T] windows of text that was not trained on, or None: then rows that are
    marked as non-members serve, where there are any.
    """

    samples: Samples
    controls: Tokens | None = None
    full: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int | None = None


@dataclass(frozen=True)
class Measured:
    """One model's results, without the model."""

    test: Extraction
    control: Control | None
    provenance: dict[str, Any]


def measure(
    loaded: LoadedModel,
    protocol: Protocol,
    *,
    processes: Processes | None = None,
    advance: Callable[[int], None] | None = None,
) -> Measured:
    """Runs `protocol` on one model. `advance` is told the rows done, controls included."""
    samples, model = protocol.samples, loaded.model
    running: dict[str, Any] = {"processes": processes, "advance": advance}
    test = extract(
        model,
        samples,
        full=protocol.full,
        sampling=protocol.sampling,
        tokenizer=loaded.tokenizer,
        batch_size=protocol.batch_size,
        **running,
    )
    control = None
    if protocol.controls is not None:
        control = measure_control(model, protocol.controls, batch_size=test.batch_size, **running)
    elif samples.members is not None and not samples.members.all():
        outside: npt.NDArray[np.bool_] = ~samples.members
        control = Control("non-members", test.nll[outside], samples.tokens[outside])
    provenance = (processes or Processes()).once(lambda: loaded.provenance)
    return Measured(test, control, {**provenance, "batch_size": test.batch_size})


def measure_control(model: PreTrainedModel, windows: Tokens, **running: Any) -> Control:
    """NLL of int32 [M, T] windows, of every token but the first, as a sweep measures it.

    `running`: as `run_pass` takes it.
    """
    result = run_pass(model, windows, 1, **running)
    return Control("text", suffix_nll(result.predictions.log_likelihood), windows)


def report(measured: Measured, baseline: Measured | None = None) -> dict[str, Any]:
    """The JSON object of `extract --json`. Raises `MeasurementError` for different precisions."""
    test = measured.test
    result = {
        "metrics": "full" if test.sampling else "exact",
        **summarize(test, measured.control),
        "samples": test.samples.described,
    }
    if baseline is not None:
        ours = measured.provenance
        check_precision(baseline.provenance["dtype"], ours["dtype"], ours["model"])
        before, after = baseline.control, measured.control
        result["baseline"] = summarize(baseline.test, before)
        controls = (before, after) if before is not None and after is not None else None
        result["paired"] = compare(baseline.test, test, controls)
    result["warnings"] = warnings_of(result)
    result["provenance"] = {
        "model": measured.provenance,
        "baseline": baseline and baseline.provenance,
        "samples_sha256": test.samples.sha256,
        "seeds": {"bootstrap": SEED},
        "versions": versions(),
    }
    return result


def warnings_of(result: dict[str, Any]) -> list[str]:
    """What to know before believing a figure of `report`. A published one gives no reasons."""
    found = [
        f"membership score {name}: AUC {area['auc']:.2f} is far below 0.5: members are told apart "
        "by being avoided, which leaks them as well (over-correction)"
        for name, area in result.get("membership", {}).items()
        if area["overcorrected"]
    ]
    return found + row_warnings(result["samples"])
