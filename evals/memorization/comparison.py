"""The memorization test from its request to its figures: a model, or an edit beside its base."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from evals.inputs import (
    Progress,
    Say,
    find_last,
    heldout_texts,
    measure_in_turn,
    open_passages,
    say_nothing,
    show_nothing,
)
from evals.memorization.extraction import Extraction, extract, run_pass
from evals.memorization.measures import Flags, suffix_nll
from evals.memorization.request import ExtractionRequest
from evals.memorization.summary import Control, compare, rows, summarize
from evals.models import LoadedModel
from evals.running.batching import rows_per_batch
from evals.running.predictions import Sampling
from evals.samples import Samples, Tokens, row_warnings
from evals.samples.held_back import HeldBack, held_back
from evals.samples.windows import control_windows
from evals.statistics import SEED, rate
from surgery.output import check_output, write_lines
from surgery.processes import current_processes, join_launch, leave_launch
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

    @property
    def rows(self) -> int:
        """How many are read, controls included."""
        return len(self.samples) + (0 if self.controls is None else len(self.controls))


@dataclass(frozen=True)
class Measured:
    """One model's results, without the model."""

    test: Extraction
    control: Control | None
    provenance: dict[str, Any]

    def select(self, passages: Flags, windows: Flags) -> Measured:
        """The results on some passages (bool [N]), and on some windows (bool [M]) of the control.

        A control of passages that were not trained on stays whole.
        """
        control = self.control
        if control is not None and control.kind == "text":
            control = control.select(windows)
        return replace(self, test=self.test.select(passages), control=control)


def run_extraction(
    request: ExtractionRequest,
    *,
    rows_file: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    show_text: bool = False,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
) -> dict[str, Any] | None:
    """The object of `extract --json`, also written to `output`, and a JSON line a row to a file.

    `show_text`: rows hold the passages' text. None on all processes but the main one. Raises
    `SurgeryError` for what the request names and cannot be used, and for files that exist.
    """
    for file, argument in ((rows_file, "rows"), (output, "output")):
        if file is not None:
            check_output(file, overwrite=overwrite, argument=argument)
    passages = open_passages(request.samples, request)
    texts = heldout_texts(request.controls, request.model, request.baseline, request.samples)
    join_launch(say)
    edited = find_last(request.model, request)
    tokenizer: Any = None

    def prepare(loaded: LoadedModel) -> tuple[Protocol, HeldBack]:
        nonlocal tokenizer
        tokenizer, windows = loaded.tokenizer, None
        samples = passages.tokenized(tokenizer)
        length = samples.tokens.shape[1]
        if texts and (request.controls or tokenizer is not None):
            windows = control_windows(texts, tokenizer, length)
        size = request.batch_size or rows_per_batch(loaded.model, length)
        sampling = Sampling(request.top_k, request.temperature)
        protocol = Protocol(samples, windows, request.metrics == "full", sampling, size)
        return protocol, held_back([edited.manifest], samples, windows)

    def measure_one(
        loaded: LoadedModel, shared: tuple[Protocol, HeldBack], is_last: bool
    ) -> Measured:
        protocol, _ = shared
        with progress(f"extract {loaded.name}", protocol.rows) as advance:
            return measure(loaded, protocol, advance=advance)

    models = (request.baseline, edited) if request.baseline else (edited,)
    shared, results = measure_in_turn(models, request, prepare, measure_one, say)
    if not leave_launch():
        return None
    _, left = shared
    base, after = results[0] if request.baseline else None, results[-1]
    result = report_held_back(after, base, left)
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    if rows_file is not None:
        decoder = tokenizer if show_text else None
        records = rows(after.test, baseline=base.test if base else None, tokenizer=decoder)
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        write_lines(rows_file, lines, overwrite=overwrite)
    if output is not None:
        write_lines(output, [json.dumps(result, indent=2, ensure_ascii=False)], overwrite=overwrite)
    return result


def report_held_back(edited: Measured, base: Measured | None, left: HeldBack) -> dict[str, Any]:
    """As `report`, of the rows that did not choose the edit, and how many of all are recited."""
    after, before = (
        one.select(left.passages, left.windows) if one else None for one in (edited, base)
    )
    assert after is not None
    result = report(after, before)
    result |= {"chose": left.chose.model_dump(), "all_passages": None}
    if left.chose.warning:
        result["warnings"] = [*result["warnings"], left.chose.warning]
    if not left.passages.all():
        whole = {"base": _recited(base.test) if base else None, "edited": _recited(edited.test)}
        n = int(edited.test.samples.trained_on.sum())
        result["all_passages"] = {"n": n, "recited": whole}
    return result


def _recited(test: Extraction) -> dict[str, Any]:
    exact = test.exact[test.samples.trained_on]
    return {"n": len(exact), **rate(exact)}


def measure(
    loaded: LoadedModel,
    protocol: Protocol,
    *,
    advance: Callable[[int], None] | None = None,
) -> Measured:
    """Runs `protocol` on one model. `advance` is told the rows done, controls included."""
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
        control = Control("non-members", test.nll[outside], samples.tokens[outside])
    provenance = current_processes().once(lambda: loaded.provenance)
    return Measured(test, control, {**provenance, "batch_size": test.batch_size})


def measure_control(model: PreTrainedModel, windows: Tokens, **running: Any) -> Control:
    """NLL of int32 [M, T] windows, of every token but the first, as a sweep measures it.

    `running`: as `run_pass` takes it.
    """
    result = run_pass(model, windows, 1, **running)
    return Control("text", suffix_nll(result.predictions.log_likelihood), windows)


def report(measured: Measured, baseline: Measured | None = None) -> dict[str, Any]:
    """The figures of one model, or of both on the same rows, as `extract --json` has them."""
    test = measured.test
    result = {
        "metrics": "full" if test.sampling else "exact",
        **summarize(test, measured.control),
        "samples": test.samples.described,
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


def warnings_of(result: dict[str, Any]) -> list[str]:
    """What to know before believing a figure of `report`. A published one gives no reasons."""
    found = [
        f"membership score {name}: AUC {area['auc']:.2f} is far below 0.5: members are told apart "
        "by being avoided, which leaks them as well (over-correction)"
        for name, area in result.get("membership", {}).items()
        if area["overcorrected"]
    ]
    return found + row_warnings(result["samples"])
