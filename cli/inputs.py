"""What commands are given: the models and texts that are named, found and opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.options import note
from cli.progress import progress
from surgery.fitting.sharing import ALONE, Sharing
from surgery.hub.embedded import PREFIX

if TYPE_CHECKING:
    from evals.models import LoadedModel
    from evals.running.processes import Processes
    from evals.samples import Passages, Samples
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.fitting.calibration import Text
    from surgery.fitting.fitter import Fitter
    from surgery.hub.resolved import ResolvedModel
    from surgery.plan import Plan


def lab_of(*names: str | None) -> str | None:
    """The first embedded model among the names: it brings passages, texts and tasks of its own."""
    return next((name for name in names if name and name.startswith(PREFIX)), None)


def calibration_text(named: Sequence[str], model: str, variants: Iterable[str]) -> Text | None:
    """What `--calibration` names, else a lab model's own text; None where nothing is fitted.

    Found before a model is looked for. Raises as `surgery.fitting.calibration.calibration_of`.
    """
    from surgery.fitting.calibration import calibration_of

    return calibration_of(variants, named, _of_lab if lab_of(model) else None)


def _of_lab() -> Text:
    from evals.lab import calibration_texts
    from surgery.fitting.calibration import calibration_from_texts

    return calibration_from_texts(calibration_texts(), name="lab calibration text")


def fitted(prepared: Prepared, text: Text) -> Fitting:
    """Fits what an export needs."""
    from surgery.fitting.fitter import fit_checkpoint

    with progress("calibrate", None) as advance:
        return fit_checkpoint(prepared, text, advance=advance)


def heldout_texts(files: Sequence[Path], *names: str | None) -> list[str]:
    """Texts from all over what `--corpus` or `--control` name; else a lab model's own, else none.

    Read before a model is looked for. `names`: what the user named that may be of the lab. Raises
    `SamplesError` for what cannot be read.
    """
    from evals import lab
    from surgery.reading.corpus import open_corpus
    from surgery.reading.passages import texts

    if files:
        return texts(open_corpus(files))
    return lab.heldout_texts() if lab_of(*names) else []


def needed_texts(files: Sequence[Path], model: str, *, option: str = "--corpus") -> list[str]:
    """As `heldout_texts`. Raises `SamplesError` where there is none."""
    from surgery.errors import SamplesError

    texts = heldout_texts(files, model)
    if not texts:
        raise SamplesError(
            "no held-out text to measure the cost of an edit on",
            where=model,
            fix=f"name text that the model was not trained on with {option}",
        )
    return texts


def open_passages(samples: str, asked: Mapping[str, Any]) -> Passages:
    """SAMPLES as typed → passages, found. `asked`: by the names of `cli.options.length_options`."""
    from evals.samples import open_samples

    lengths = {key: asked[key] for key in ("prefix_length", "suffix_length")}
    return open_samples(samples, **lengths)


def look_up(model: str, revision: str | None = None) -> None:
    """Raises `SurgeryError` where there is no such model, or none that can be edited.

    Of a Hub model only small files and headers are fetched.
    """
    from surgery.hub.finding import find_outline

    find_outline(model, revision)


def tokenized(passages: Passages, loaded: LoadedModel) -> Samples:
    """The passages in a model's tokens; says which rows are left out, merged, or not independent.

    Raises as `Passages.tokenized`.
    """
    from evals.samples import row_warnings

    samples = passages.tokenized(loaded.tokenizer)
    for warning in row_warnings(samples.described):
        note(f"warning: {warning}")
    return samples


def open_model(
    model: str | ResolvedModel,
    asked: Mapping[str, Any],
    processes: Processes,
    revision: str | None = None,
) -> LoadedModel:
    """MODEL as typed, or as it was found → the loaded model.

    `asked`: by the names of `cli.options.running_options`.
    """
    from evals.models import open_model

    running = {key: asked[key] for key in ("dtype", "device", "device_map")}
    running["device"] = running["device"] or processes.device
    return open_model(model, revision=revision, **running, say=note)


def fitter_for(
    plans: Sequence[Plan],
    text: Text | None,
    loaded: LoadedModel,
    *,
    layout: str = "auto",
    processes: Sharing = ALONE,
) -> Fitter | None:
    """A fitter that has fitted what `plans` need; None where there is no text for it.

    `processes` share the work.
    """
    from surgery.errors import SamplesError
    from surgery.fitting.fitter import Fitter

    if text is None:
        return None
    if loaded.tokenizer is None:
        raise SamplesError("calibration text needs a tokenizer", where=loaded.name)
    with progress("calibrate", None) as advance:
        fitter = Fitter(
            loaded.model,
            text.tokenized(loaded.tokenizer, loaded.dimensions),
            layout=layout,
            editable=loaded.editable,
            advance=advance,
        )
        fitted = [plan for plan in plans if plan.fitted]
        variants = {part.variant for plan in fitted for part in plan.selection}
        lowest = {plan.blocks[0] for plan in fitted if plan.blocks[0] in plan.fitted}
        fitter.fits_alone(sorted(lowest), variants, processes=processes)
        for plan in fitted:
            fitter.fits(plan.selection, processes=processes)
    return fitter
