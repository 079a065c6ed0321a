"""A memorization test from its request to its files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from evals.data.inputs import open_passages, read_heldout_texts, warn_of_bare_rows
from evals.run.console import say, show_progress
from evals.run.finding import check_tokens, find_baseline
from evals.run.request import HELD_OUT, HELD_OUT_BEFORE, Count, Measuring, Option
from surgery.output import OwnFile, check_output, recognize_lines, write_lines
from surgery.processes import join_launch, leave_launch
from surgery.untrusted import read_json

if TYPE_CHECKING:
    from evals.data import Passages
    from evals.data.held_back import HeldBack
    from evals.measure.memorization.protocol import ExtractionResults, Protocol
    from evals.run.models import LoadedModel
    from surgery.hub.resolved import ResolvedModel

    Shared = tuple[Protocol, HeldBack, Any]


ROWS = recognize_lines("a file of rows", "id", "hash", "exact", "first_divergence")
_KEYS = {"metrics", "exact_match", "samples", "provenance"}
RESULT = OwnFile("a result of an extraction", lambda file: read_json(file).keys() >= _KEYS)


class ExtractionRequest(Measuring):
    """Tests which of `samples` `model` recites, and which `baseline` does."""

    model: str
    samples: Annotated[
        str, "Passages to test. The forms are listed above.", Option("input", "SAMPLES")
    ]
    baseline: Annotated[
        str | None,
        "The unedited model, to compare with on the same rows; a Hub id, at the commit that "
        "MODEL records.",
        Option("input", "MODEL"),
    ] = None
    metrics: Annotated[
        Literal["exact", "full"],
        "exact: one pass and no decoding. full: also near matches, free-running scores, "
        "entropy, probabilistic extraction, and min-k++.",
        Option("measure"),
    ] = "exact"
    top_k: Annotated[
        Count,
        "With `metrics=full`: the k of top-k sampling in probabilistic extraction.",
        Option("measure"),
    ] = 40
    temperature: Annotated[
        float,
        Field(gt=0),
        "With `metrics=full`: the temperature of that sampling.",
        Option("measure"),
    ] = 1.0
    heldout: Annotated[
        tuple[Path, ...],
        HELD_OUT,
        Option(
            "input", default="a lab model's own, or the samples' non-members", old=HELD_OUT_BEFORE
        ),
    ] = ()

    @model_validator(mode="after")
    def _samples_or_not(self) -> ExtractionRequest:
        if self.metrics != "full":
            self._refuse_unused("metrics=full", "top_k", "temperature")
        return self


def run_extraction(
    request: ExtractionRequest,
    *,
    rows: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    show_text: bool = False,
) -> dict[str, Any] | None:
    """Returns the object of `extract --json`; writes it to `output`, and the rows to `rows`.

    `show_text`: rows hold the passages' text. Returns None on all processes but the main one.
    Raises `SurgeryError` if the request names anything unusable, or if a file exists.
    """
    from evals.measure.memorization.protocol import measure, report_held_back
    from evals.measure.memorization.summary import list_rows
    from evals.run.models import find_last, measure_in_turn

    reads: list[str | Path] = [request.samples, *request.heldout]
    for file, owned, argument in ((rows, ROWS, "rows"), (output, RESULT, "output")):
        if file is not None:
            check_output(file, owned, overwrite=overwrite, argument=argument, reads=reads)
    passages = open_passages(request.samples, request)
    texts = read_heldout_texts(request.heldout, request.model, request.baseline, request.samples)
    join_launch(say)
    edited = find_last(request.model, request)
    bases = [find_baseline(name, [edited]) for name in (request.baseline,) if name]
    for one in bases:
        check_tokens(one, [edited])

    def measure_one(loaded: LoadedModel, shared: Shared, is_last: bool) -> ExtractionResults:
        protocol, _, _ = shared
        with show_progress(f"extract {loaded.name}", protocol.rows) as advance:
            return measure(loaded, protocol, advance=advance)

    models = [*bases, edited]
    prepare = partial(_prepare, request, passages, texts, models)
    shared, results = measure_in_turn(models, request, prepare, measure_one)
    if not leave_launch():
        return None
    _, left, tokenizer = shared
    base, after = results[0] if bases else None, results[-1]
    result = report_held_back(after, base, left)
    for warning in result["warnings"]:
        say(f"warning: {warning}")
    if rows is not None:
        decoder = tokenizer if show_text else None
        records = list_rows(after.test, baseline=base.test if base else None, tokenizer=decoder)
        lines = (json.dumps(record, ensure_ascii=False) for record in records)
        write_lines(rows, lines, overwrite=overwrite, owned=ROWS)
    if output is not None:
        text = json.dumps(result, indent=2, ensure_ascii=False)
        write_lines(output, [text], overwrite=overwrite, owned=RESULT)
    return result


def _prepare(
    request: ExtractionRequest,
    passages: Passages,
    texts: Sequence[str],
    models: Sequence[ResolvedModel],
    loaded: LoadedModel,
) -> Shared:
    """What all models share: how to measure them, what chose any of them, and the tokenizer."""
    from evals.data.held_back import hold_back
    from evals.data.windows import cut_windows
    from evals.measure.memorization.protocol import Protocol
    from evals.run.batching import rows_per_batch
    from evals.run.predictions import Sampling

    tokenizer, windows = loaded.tokenizer, None
    samples = passages.tokenize(tokenizer)
    warn_of_bare_rows(passages, samples, tokenizer)
    length = samples.tokens.shape[1]
    if texts and (request.heldout or tokenizer is not None):
        windows = cut_windows(texts, tokenizer, length)
    size = request.batch_size or rows_per_batch(loaded.model, length)
    sampling = Sampling(request.top_k, request.temperature)
    protocol = Protocol(samples, windows, request.metrics == "full", sampling, size)
    return protocol, hold_back([one.manifest for one in models], samples, windows), tokenizer
