"""The models and texts that a request names, found and opened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from surgery.hub.embedded import lab_of
from surgery.processes import current_processes

if TYPE_CHECKING:
    from evals.models import LoadedModel
    from evals.running.request import Measuring, Running
    from evals.samples import Passages, Samples
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.fitting.calibration import Text
    from surgery.fitting.fitter import Fitter
    from surgery.hub.resolved import ResolvedModel
    from surgery.plan import Plan as EditPlan


Plan = TypeVar("Plan")
Result = TypeVar("Result")
Say = Callable[[str], None]
"""Is told what was decided for the user, and of warnings: a line each."""
Progress = Callable[[str, "int | None"], AbstractContextManager[Callable[[int], None]]]
"""A bar for a text and a total, which is told how much has just been done."""


def say_nothing(line: str) -> None:
    """To nobody."""


@contextmanager
def show_nothing(text: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """No bar."""
    yield lambda done: None


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


def fitted(prepared: Prepared, text: Text, progress: Progress = show_nothing) -> Fitting:
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


def needed_texts(files: Sequence[Path], model: str, *, option: str = "corpus") -> list[str]:
    """As `heldout_texts`. Raises `SamplesError` where there is none."""
    from surgery.errors import SamplesError

    texts = heldout_texts(files, model)
    if not texts:
        raise SamplesError(
            "no held-out text to measure the cost of an edit on",
            where=model,
            fix=f"name text that the model was not trained on with `{option}`",
        )
    return texts


def open_passages(samples: str, request: Measuring) -> Passages:
    """SAMPLES as named → passages, found."""
    from evals.samples import open_samples

    return open_samples(
        samples, prefix_length=request.prefix_length, suffix_length=request.suffix_length
    )


def look_up(model: str, revision: str | None = None) -> None:
    """Raises `SurgeryError` where there is no such model, or none that can be edited.

    Of a Hub model only small files and headers are fetched.
    """
    from surgery.hub.finding import find_outline

    find_outline(model, revision)


def tokenized(passages: Passages, loaded: LoadedModel, say: Say = say_nothing) -> Samples:
    """The passages in a model's tokens; `say` hears of rows left out, merged, or not independent.

    Raises as `Passages.tokenized`.
    """
    from evals.samples import row_warnings

    samples = passages.tokenized(loaded.tokenizer)
    for warning in row_warnings(samples.described):
        say(f"warning: {warning}")
    return samples


def open_model(
    model: str | ResolvedModel,
    request: Running,
    revision: str | None = None,
    *,
    say: Say = say_nothing,
) -> LoadedModel:
    """MODEL as named, or as it was found → the loaded model."""
    from evals.models import open_model

    return open_model(
        model,
        revision=revision,
        dtype=request.dtype,
        device=request.device or current_processes().device,
        device_map=request.device_map,
        say=say,
    )


def find_last(model: str, request: Measuring) -> ResolvedModel:
    """The model that is measured after others, looked for before them; and the device of all.

    Raises `SurgeryError` for what is not there.
    """
    from evals.models import find_device
    from surgery.hub.finding import find_model

    if not request.device_map:
        find_device(request.device)
    return find_model(model, request.revision)


def measure_in_turn(
    models: Sequence[str | ResolvedModel],
    request: Running,
    prepare: Callable[[LoadedModel], Plan],
    measure: Callable[[LoadedModel, Plan, bool], Result],
    say: Say = say_nothing,
) -> tuple[Plan, list[Result]]:
    """Measures models in one precision, with one of them in memory at a time.

    `prepare` makes of the first what all are measured on; `measure` is also told whether it has the
    last. Raises `MeasurementError` for models that would run in different precisions.
    """
    from evals.models import check_precision

    plan, dtype, results = None, None, []
    for number, model in enumerate(models, 1):
        loaded = open_model(model, request, say=say)
        if plan is None:
            plan, dtype = prepare(loaded), loaded.dtype
        check_precision(str(dtype), loaded.dtype, loaded.name)
        results.append(measure(loaded, plan, number == len(models)))
        del loaded
    assert plan is not None
    return plan, results


def fitter_for(
    plans: Sequence[EditPlan],
    text: Text | None,
    loaded: LoadedModel,
    *,
    layout: str = "auto",
    progress: Progress = show_nothing,
) -> Fitter | None:
    """A fitter that has fitted what `plans` need; None where there is no text for it."""
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
        fitter.fits_alone(sorted(lowest), variants)
        for plan in fitted:
            fitter.fits(plan.selection)
    return fitter
