"""What commands need that measure many edits of one model: held-out text, and fits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cli.calibrating import calibration_text
from cli.options import resolve_model
from cli.progress import progress

if TYPE_CHECKING:
    from evals.samples import Tokens
    from evals.subjects import Subject
    from surgery.fitting import Fitter
    from surgery.selection import Selection


def heldout_windows(
    corpora: Sequence[Path], model: str, subject: Subject, length: int, *, most: int | None = None
) -> Tokens:
    """int32 [M, length] windows of the corpora, or of a lab model's own held-out text.

    They are those that `extract --control` makes of the same files. Raises `SamplesError` when
    there is no text, or no tokenizer for it.
    """
    from evals.controls import MOST_WINDOWS, control_windows
    from evals.lab import heldout_texts
    from surgery.corpus import documents, open_corpus
    from surgery.errors import SamplesError

    if subject.tokenizer is None:
        raise SamplesError("held-out text needs a tokenizer", where=subject.name)
    if corpora:
        files = open_corpus(corpora).files
        texts = ["".join(document) for file in files for document in documents(file)]
    elif model.startswith("lab:"):
        texts = heldout_texts()
    else:
        raise SamplesError(
            "no held-out text to measure the cost of an edit on",
            where=model,
            fix="name text that the model was not trained on with --corpus",
        )
    return control_windows(texts, subject.tokenizer, length, most=most or MOST_WINDOWS)


def stored_dtype(model: str, revision: str | None) -> str:
    """The tag (F16, …) of the parameters of MODEL's checkpoint, which exports are rounded to."""
    from surgery.checkpoint.source import open_checkpoint
    from surgery.hub import find_model
    from surgery.inventory import take_inventory

    checkpoint = open_checkpoint(find_model(resolve_model(model)[0], revision)[0])
    return take_inventory(checkpoint.config, checkpoint.infos).dtype


def fitter_for(
    selections: Iterable[Selection],
    calibration: Sequence[str],
    model: str,
    subject: Subject,
    stored: str,
    *,
    layout: str = "auto",
) -> Fitter | None:
    """A fitter that has fitted what `selections` need; None where they need none.

    Raises `UnsupportedError` where there is no calibration text.
    """
    from surgery.errors import SamplesError
    from surgery.exporting import check_fitted
    from surgery.families import family_of
    from surgery.fitting import Fitter
    from surgery.in_memory import plan_for

    plans = [plan_for(subject.model, selection, layout=layout) for selection in selections]
    fitted = [plan for plan in plans if plan.fitted]
    if not fitted:
        return None
    config = subject.model.config.to_dict()
    positions = family_of(config).dimensions(config).max_positions
    if subject.tokenizer is None:
        raise SamplesError("calibration text needs a tokenizer", where=subject.name)
    text = calibration_text(calibration, model, subject.tokenizer, positions)
    if text is None:
        check_fitted(fitted[0], {})
    assert text is not None
    with progress("calibrate", None) as advance:
        fitter = Fitter(
            subject.model, text, stored_dtype=stored, layout=layout, together=True, advance=advance
        )
        for plan in fitted:
            fitter.fits(plan.selection)
    return fitter
