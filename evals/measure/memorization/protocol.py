"""Runs the memorization test on models, and puts an edit beside its base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from evals.data import Samples, Tokens, describe_samples, list_row_warnings
from evals.data.held_back import HeldBack
from evals.measure.memorization.extraction import Extraction, extract, run_pass
from evals.measure.memorization.measures import Flags, suffix_nll
from evals.measure.memorization.summary import (
    ControlLoss,
    compare_extractions,
    summarize_extraction,
)
from evals.run.models import LoadedModel
from evals.run.predictions import Sampling
from evals.run.statistics import SEED, rate
from surgery.processes import current_processes
from surgery.record.manifest import list_versions


@dataclass(frozen=True)
class Protocol:
    """What to measure and how, the same for every model that is compared.

    `controls`: int32 [M, T], windows of text that no model was trained on. None: rows marked as
    non-members are the control, if there are any.
    """

    samples: Samples
    controls: Tokens | None = None
    full: bool = False
    sampling: Sampling = field(default_factory=Sampling)
    batch_size: int | None = None

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


def report_held_back(
    edited: ExtractionResults, base: ExtractionResults | None, left: HeldBack
) -> dict[str, Any]:
    """As `report_extraction`, without the rows that a search used or that were taught; also counts
    how many of all, or of the taught ones, are recited."""
    after, chose = edited.select(left.passages, left.windows), left.count(-1)
    result = report_extraction(after, base and base.select(left.passages, left.windows))
    if left.is_whole(-1):
        result = drop_intervals(result)
    result |= {"chose": chose.model_dump(), "all_passages": None, "taught": None}
    if chose.warning:
        result["warnings"].append(chose.warning)

    def count(rows: Flags) -> dict[str, Any]:
        some = rows[edited.test.samples.trained_on]
        found = (("base", base), ("edited", edited))
        n = int(some.sum())
        recited = {name: one and {"n": n, **rate(one.recited[some])} for name, one in found}
        return {"n": n, "recited": recited}

    if left.others is not None:
        result["taught"] = drop_intervals(count(left.others))
    elif not left.passages.all():
        result["all_passages"] = count(np.ones_like(left.passages))
    return result


def drop_intervals(figures: Any) -> Any:
    """The same figures of passages that the edited model was taught: `ci95` becomes None.

    They are all there is, so they estimate nothing. What is of other rows keeps its intervals.
    """
    if isinstance(figures, list):
        return [drop_intervals(one) for one in figures]
    if not isinstance(figures, dict):
        return figures
    return {
        key: None if key == "ci95" else one if key in _OTHERS else drop_intervals(one)
        for key, one in figures.items()
    }


_OTHERS = ("control", "non_members", "membership", "selectivity", "control_nll_difference")
"""Figures of rows that no model was trained on, or of these and the passages together."""


def measure(
    loaded: LoadedModel, protocol: Protocol, *, advance: Callable[[int], None] | None = None
) -> ExtractionResults:
    """Runs `protocol` on one model. `advance` counts finished rows, including controls."""
    samples, model = protocol.samples, loaded.model
    test = extract(
        model,
        samples,
        full=protocol.full,
        sampling=protocol.sampling,
        tokenizer=loaded.tokenizer,
        batch_size=protocol.batch_size,
        advance=advance,
    )
    control = None
    if protocol.controls is not None:
        control = measure_control(
            model, protocol.controls, batch_size=test.batch_size, advance=advance
        )
    elif samples.members is not None and not samples.members.all():
        outside: Flags = ~samples.members
        control = ControlLoss("non-members", test.nll[outside], samples.tokens[outside])
    provenance = current_processes().once(lambda: loaded.provenance)
    return ExtractionResults(test, control, {**provenance, "batch_size": test.batch_size})


def measure_control(model: PreTrainedModel, windows: Tokens, **running: Any) -> ControlLoss:
    """NLL of int32 [M, T] windows: of every token but the first, as in a sweep.

    `running`: for `run_pass`.
    """
    result = run_pass(model, windows, 1, **running)
    loss = suffix_nll(result.predictions.log_likelihood, result.suffix)
    return ControlLoss("text", loss, windows)


def report_extraction(
    measured: ExtractionResults, baseline: ExtractionResults | None = None
) -> dict[str, Any]:
    """The figures of one model, or of both on the same rows, as in `extract --json`."""
    test = measured.test
    result = {
        "metrics": "full" if test.sampling else "exact",
        **summarize_extraction(test, measured.control),
        "samples": describe_samples(test.samples),
    }
    if baseline is not None:
        before, after = baseline.control, measured.control
        result["baseline"] = summarize_extraction(baseline.test, before)
        controls = (before, after) if before is not None and after is not None else None
        result["paired"] = compare_extractions(baseline.test, test, controls)
    result["warnings"] = list_extraction_warnings(result)
    result["provenance"] = {
        "model": measured.provenance,
        "baseline": baseline and baseline.provenance,
        "samples_sha256": test.samples.sha256,
        "seeds": {"bootstrap": SEED},
        "versions": list_versions(),
    }
    return result


def list_extraction_warnings(result: dict[str, Any]) -> list[str]:
    """What to know before you rely on a figure of `report_extraction`."""
    found = [
        f"membership score {name}: AUC {area['auc']:.2f} is far below 0.5: the model avoids "
        "members so clearly that this reveals them, too (over-correction)"
        for name, area in result.get("membership", {}).items()
        if area["overcorrected"]
    ]
    return found + list_row_warnings(result["samples"])
