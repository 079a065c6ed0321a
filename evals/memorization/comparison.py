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
from evals.models import LoadedModel
from evals.running.predictions import Sampling
from evals.running.processes import Processes
from evals.samples import Samples, Tokens
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
    """The JSON object of `extract --json`."""
    test = measured.test
    result = {
        "metrics": "full" if test.sampling else "exact",
        **summarize(test, measured.control),
        "samples": _described(test.samples),
    }
    if baseline is not None:
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


def _described(samples: Samples) -> dict[str, Any]:
    def noted(*, kept: bool) -> list[dict[str, str]]:
        notes = (note for note in samples.notes if note.kept == kept)
        return [{"id": note.id, "reason": note.reason} for note in notes]

    return {
        "source": samples.source,
        "sha256": samples.sha256,
        "rows": len(samples),
        "left_out": noted(kept=False),
        "reservations": noted(kept=True),
    }


def warnings_of(result: dict[str, Any]) -> list[str]:
    """What to know before believing a figure of `report`. A published one gives no reasons."""
    found = [
        f"membership score {name}: AUC {area['auc']:.2f} is far below 0.5: members are told apart "
        "by being avoided, which leaks them as well (over-correction)"
        for name, area in result.get("membership", {}).items()
        if area["overcorrected"]
    ]
    for key, text in (("left_out", "left out"), ("reservations", "kept with a reservation")):
        rows = result["samples"][key]
        if rows:
            which = f"{len(rows)} rows {text}, the first {rows[0]['id']!r}"
            found.append(": ".join((which, *filter(None, [rows[0].get("reason")]))))
    return found
