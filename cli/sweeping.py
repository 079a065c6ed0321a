"""What commands need that measure many edits of one model: its stored dtype, and fits."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from cli.progress import progress

if TYPE_CHECKING:
    from evals.subjects import Subject
    from surgery.fitting.calibration import Text
    from surgery.fitting.fitter import Fitter
    from surgery.selection import Selection


def stored_dtype(model: str, revision: str | None) -> str:
    """The tag (F16, …) of the parameters of MODEL's checkpoint, which exports are rounded to."""
    from surgery.checkpoint.source import open_checkpoint
    from surgery.hub import find_model
    from surgery.inventory import take_inventory

    checkpoint = open_checkpoint(find_model(model, revision)[0])
    return take_inventory(checkpoint.config, checkpoint.infos).dtype


def fitter_for(
    selections: Iterable[Selection],
    text: Text | None,
    subject: Subject,
    stored: str,
    *,
    layout: str = "auto",
) -> Fitter | None:
    """A fitter that has fitted what `selections` need; None where there is no text for it."""
    from surgery.errors import SamplesError
    from surgery.families import family_of
    from surgery.fitting.fitter import Fitter
    from surgery.in_memory import plan_for

    if text is None:
        return None
    if subject.tokenizer is None:
        raise SamplesError("calibration text needs a tokenizer", where=subject.name)
    config = subject.model.config.to_dict()
    positions = family_of(config).dimensions(config).max_positions
    plans = [plan_for(subject.model, selection, layout=layout) for selection in selections]
    with progress("calibrate", None) as advance:
        fitter = Fitter(
            subject.model,
            text.tokenized(subject.tokenizer, max_positions=positions),
            stored_dtype=stored,
            layout=layout,
            together=True,
            advance=advance,
        )
        for plan in plans:
            if plan.fitted:
                fitter.fits(plan.selection)
    return fitter
