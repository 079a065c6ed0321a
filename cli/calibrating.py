"""How commands find calibration text: what the user names, or a lab model's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cli.progress import progress

if TYPE_CHECKING:
    from surgery.calibration import Calibration
    from surgery.exporting import Fitting, Prepared

LAB_TEXT = "lab calibration text"


def calibration_text(
    named: Sequence[str], model: str, tokenizer: Any, max_positions: int
) -> Calibration | None:
    """The text that `--calibration` names; a lab model's own; None where there is neither."""
    from surgery.calibration import calibration_from_texts, open_calibration

    if named:
        return open_calibration(named, tokenizer, max_positions=max_positions)
    if not model.startswith("lab:"):
        return None
    from evals.lab import calibration_texts

    return calibration_from_texts(
        calibration_texts(), tokenizer, max_positions=max_positions, name=LAB_TEXT
    )


def fitted(prepared: Prepared, named: Sequence[str], model: str) -> Fitting | None:
    """Fits what an export needs; None where there is no text (the export then says so)."""
    from surgery.fitting import fit_checkpoint
    from surgery.loading import load_tokenizer

    dimensions = prepared.plan.inventory.dimensions
    tokenizer = load_tokenizer(prepared.checkpoint.folder)
    text = calibration_text(named, model, tokenizer, dimensions.max_positions)
    if text is None:
        return None
    with progress("calibrate", None) as advance:
        return fit_checkpoint(prepared, text, advance=advance)
