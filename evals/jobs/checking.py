"""Before a long run: which passages can be used, and whether there are enough, of texts as well."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from evals.data.inputs import find_calibration_text, open_passages, read_heldout_texts
from evals.run.console import say
from evals.run.request import CalibrationText, HeldoutText, Measuring, Option, Running
from surgery.errors import SamplesError
from surgery.hub.embedded import find_lab
from surgery.record.manifest import LENGTH
from surgery.record.measured import BASE
from surgery.variants import VARIANTS

if TYPE_CHECKING:
    from evals.data import Passages, Samples
    from evals.run.models import LoadedModel
    from surgery.fitting.calibration import Text

TESTED = 200
"""The most passages of the quick pass."""


class CheckRequest(Measuring):
    """Which of `samples` can be used, and whether they and the texts are enough.

    Without `model`, passages of text are only counted.
    """

    samples: str
    skip_short: bool = True  # as the result says which are too short
    model: Annotated[str | None, "The model that you want to edit.", Option("input", "MODEL")] = (
        None
    )
    heldout: HeldoutText = ()
    calibration: CalibrationText = ()
    show_text: Annotated[
        bool,
        "With `model`: show the text of three passages, and where each is cut.",
        Option("output"),
    ] = False
    max_extraction: Annotated[
        tuple[Annotated[float, Field(gt=0, le=1)], ...],
        "A limit for which to say how many passages it needs.",
        Option("limits"),
    ] = (0.05, 0.01, 0.001)

    @model_validator(mode="after")
    def _needs_a_model(self) -> CheckRequest:
        if self.model is None:
            unused = ("revision", "batch_size", "calibration", "show_text", *Running.model_fields)
            self._refuse_unused("model", *unused)
        return self


def check_inputs(request: CheckRequest) -> dict[str, Any]:
    """Returns the object of `check --json`. What needs the model's tokens is None without it.

    Raises `SurgeryError` for anything that cannot be read, or if no passage can be used.
    """
    from evals.data.columns import find_columns
    from evals.data.showing import count_given_numbers, show_cuts
    from evals.run.statistics import count_needed
    from evals.table.limits import describe_splits

    source, _, _ = find_columns(request.samples, request.id_column)
    passages = open_passages(source, request)
    heldout = read_heldout_texts(request.heldout, request.model, request.samples)
    text, named = None, request.calibration
    if named or find_lab(request.model):
        text = find_calibration_text(named, str(request.model), VARIANTS)
    loaded = None
    if request.model:
        from evals.run.models import open_model

        revision = request.revision
        loaded = open_model(request.model, revision=revision, **request.running)
    tokenizer = loaded and loaded.tokenizer
    samples = passages.ready
    if samples is None and loaded is not None:
        samples = passages.tokenize(tokenizer)
    rows = list(passages.table.rows)
    found: dict[str, Any] = {
        "samples": source,
        "n": len(rows),
        "prefix_length": passages.prefix,
        "suffix_length": passages.suffix,
        **dict.fromkeys(("usable", "too_short", "overlapping", "members", "non_members", "length")),
        "duplicates": len(rows) - len(set(rows)) if samples is None else 0,
        "left_out": [],
        "secrets": passages.marks_secrets,
        "cuts": [],
        "given_numbers": None,
        "recited": None,
        "splits": None,
        "needed": {f"{limit:g}": count_needed(limit) for limit in request.max_extraction},
    }
    if samples is not None:
        found |= _count_usable(passages, samples, tokenizer)
        found["cuts"] = list(show_cuts(passages, samples, tokenizer, text=request.show_text))
        found["given_numbers"] = count_given_numbers(passages, samples, tokenizer)
        found["splits"] = describe_splits(samples)
    if samples is not None and loaded is not None:
        found["recited"] = _count_recited(loaded, samples, request.batch_size)
    length = passages.prefix + (passages.suffix or LENGTH)
    length = length if samples is None else samples.tokens.shape[1]
    return found | {
        "corpus": _measure_heldout(heldout, loaded, length) if heldout else None,
        "calibration": _measure_calibration(text, loaded) if text else None,
    }


def _count_usable(passages: Passages, samples: Samples, tokenizer: Any) -> dict[str, Any]:
    """Rows by what becomes of them, and their lengths in tokens."""
    from evals.data import describe_samples
    from evals.data.cutting import SHORT
    from evals.data.repeats import MERGED, OVERLAPS

    numbers = {name: at for at, name in enumerate(passages.table.ids, 1)}
    left_out = [{"row": numbers[row["id"]], **row} for row in describe_samples(samples)["left_out"]]
    reasons = [note.reason for note in samples.notes]
    lengths = [sum(parts) for parts in passages.measure(tokenizer)]
    members = int(samples.trained_on.sum())
    return {
        "usable": len(samples),
        "too_short": sum(reason.startswith(SHORT) for reason in reasons),
        "duplicates": reasons.count(MERGED),
        "overlapping": reasons.count(OVERLAPS),
        "members": members,
        "non_members": len(samples) - members,
        "length": {"min": min(lengths), "median": median(lengths), "max": max(lengths)},
        "left_out": sorted(left_out, key=lambda row: row["row"]),
    }


def _count_recited(loaded: LoadedModel, samples: Samples, size: int | None) -> dict[str, Any]:
    """The rate of passages recited, among at most `TESTED` members spread over all."""
    from evals.measure.memorization.extraction import extract
    from evals.table.measured import measure_share

    some = samples.spread(samples.trained_on, TESTED)
    exact = extract(loaded.model, some, batch_size=size).exact
    return measure_share("recited", exact, of=BASE).model_dump(mode="json")


def _measure_heldout(
    texts: Sequence[str], loaded: LoadedModel | None, length: int
) -> dict[str, Any]:
    """Characters read, and the windows cut from them, `wanted` at most."""
    from evals.data.windows import MOST_WINDOWS, cut_windows

    windows = None
    if loaded is not None:
        try:
            windows = len(cut_windows(texts, loaded.tokenizer, length))
        except SamplesError as error:  # too short: how much is missing is the answer
            if loaded.tokenizer is None:
                raise
            say(f"warning: {error}")
            windows = 0
    return {"characters": sum(map(len, texts)), "windows": windows, "wanted": MOST_WINDOWS}


def _measure_calibration(text: Text, loaded: LoadedModel | None) -> dict[str, Any]:
    """Tokens read, and how many are `wanted` for a model of this width."""
    from surgery.fitting.calibration import FEWEST_TOKENS, TOKENS_PER_WIDTH

    if loaded is None:
        return {"tokens": None, "wanted": None}
    try:
        tokens = text.tokenize(loaded.tokenizer, loaded.dimensions).windows.size
    except SamplesError as error:
        if loaded.tokenizer is None:
            raise
        say(f"warning: {error}")
        tokens = 0
    return {"tokens": tokens, "wanted": max(FEWEST_TOKENS, TOKENS_PER_WIDTH * loaded.dimensions.d)}
