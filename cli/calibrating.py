"""How commands find calibration text: what the user names, or a lab model's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from cli.progress import progress
from surgery.embedded import PREFIX

if TYPE_CHECKING:
    from surgery.exporting import Fitting, Prepared
    from surgery.fitting.calibration import Text

LAB_TEXT = "lab calibration text"


def calibration_text(named: Sequence[str], model: str, variants: Iterable[str]) -> Text | None:
    """What `--calibration` names, else a lab model's own text; None where nothing is fitted.

    Found before a model is looked for. Raises as `surgery.fitting.calibration.calibration_of`.
    """
    from surgery.fitting.calibration import calibration_of

    return calibration_of(variants, named, _of_lab if model.startswith(PREFIX) else None)


def _of_lab() -> Text:
    from evals.lab import calibration_texts
    from surgery.fitting.calibration import calibration_from_texts

    return calibration_from_texts(calibration_texts(), name=LAB_TEXT)


def fitted(prepared: Prepared, text: Text) -> Fitting:
    """Fits what an export needs."""
    from surgery.fitting.fitter import fit_checkpoint

    with progress("calibrate", None) as advance:
        return fit_checkpoint(prepared, text, advance=advance)
