"""Finds and opens the texts that a request names, and fits what they are for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.run.console import say, show_progress
from surgery.lab import LAB_TEXT, PREFIX, find_lab, find_lab_folder

if TYPE_CHECKING:
    from evals.data import PassageSource, Samples
    from evals.run import groups
    from evals.run.models import LoadedModel
    from surgery.fitting.calibration import Text
    from surgery.fitting.fitter import Fitter
    from surgery.plan import Plan
    from surgery.preparing import Fitting, Prepared


def find_calibration_text(named: Sequence[str], model: str, variants: Iterable[str]) -> Text | None:
    """The text that `--calibration` names, else a lab model's own. None if nothing is fitted.

    Needs no model, so that mistakes show early. Raises as
    `surgery.fitting.calibration.find_calibration`.
    """
    from surgery.fitting.calibration import find_calibration

    own = read_lab_text if find_lab(model) else None
    return find_calibration(variants, named, own, find_text)


def read_lab_text() -> Text:
    """The lab's calibration text."""
    from evals.lab import calibration_texts
    from surgery.fitting.calibration import make_calibration

    return make_calibration(calibration_texts(), name=LAB_TEXT)


def find_text(named: Sequence[str | Path]) -> Text:
    """The text to learn from that `named` names: files, folders, data sets, or a lab model for the
    lab's. Raises as `names_lab`, and `SamplesError` for text that is not there."""
    from surgery.fitting.calibration import open_calibration

    return read_lab_text() if names_lab(named) else open_calibration(named)


def names_lab(named: Sequence[str | Path]) -> bool:
    """Whether a lab model is named, for the lab's own text.

    Raises `SourceError` for a lab model that is not there, and `SamplesError` for one beside other
    text.
    """
    from surgery.errors import SamplesError

    labs = [name for name in map(str, named) if find_lab(name)]
    for name in labs:
        find_lab_folder(name.removeprefix(PREFIX))
    if labs and len(labs) < len(named):
        raise SamplesError(
            "the text of a lab model does not go with other text",
            got=", ".join(map(str, named)),
            fix="name it alone, or the other text alone",
        )
    return bool(labs)


def fit_prepared(prepared: Prepared, text: Text, device: str | None = None) -> Fitting:
    """Fits what an export needs on calibration text. `device`: by default a GPU, if there is one.

    Raises as `surgery.fitting.fitter.fit_checkpoint`, and `MeasurementError` for a missing device.
    """
    from evals.run.models import find_device
    from surgery.fitting.fitter import fit_checkpoint

    with show_progress("calibrate", None) as advance:
        return fit_checkpoint(prepared, text, device=find_device(device), advance=advance)


def read_heldout_texts(files: Sequence[Path], *names: str | None) -> list[str]:
    """Texts from all parts of the `files`, else a lab model's own, else none.

    Needs no model, so that mistakes show early. `files`: or a lab model, for the lab's text.
    `names`: models or samples, any of which may be of the lab. Raises as `names_lab`, and
    `SamplesError` for a file that cannot be read.
    """
    from evals import lab
    from surgery.reading.corpus import open_corpus
    from surgery.reading.passages import read_texts

    if files and not names_lab(files):
        return read_texts(open_corpus(files))
    return lab.heldout_texts() if files or find_lab(*names) else []


def require_heldout_texts(files: Sequence[Path], model: str) -> list[str]:
    """As `read_heldout_texts`, but raises `SamplesError` if there is no text."""
    from surgery.errors import SamplesError

    texts = read_heldout_texts(files, model)
    if not texts:
        raise SamplesError(
            "no held-out text to measure on",
            where=model,
            fix="name text that the model was not trained on with `heldout`",
        )
    return texts


def open_passages(asked: groups.Passages, own: str | None = None, **more: Any) -> PassageSource:
    """Finds the passages that are asked for, or `own`, a lab's. `more`: as for `open_samples`."""
    from evals.data import open_samples

    return open_samples(asked.samples or own or "", **asked.cutting, **more)


def open_never(asked: groups.Passages, named: str | None) -> PassageSource | None:
    """The records that `never` names, cut as the passages are; None without a name."""
    from evals.data import open_samples

    return open_samples(named, **asked.cutting, labeled=False) if named else None


def tokenize_passages(passages: PassageSource, tokenizer: Any) -> Samples:
    """The passages in a model's tokens. Warns of rows left out, merged, or not independent.

    Raises as `Passages.tokenize`.
    """
    from evals.data import describe_samples, list_row_warnings

    samples = passages.tokenize(tokenizer)
    for warning in list_row_warnings(describe_samples(samples)):
        say(f"warning: {warning}")
    warn_of_bare_rows(passages, samples, tokenizer)
    return samples


def warn_of_bare_rows(passages: PassageSource, samples: Samples, tokenizer: Any) -> None:
    """Says how many rows of token ids lack the special tokens that the tokenizer puts first."""
    from surgery.reading.corpus import close_up, find_opening

    if passages.ready is None or tokenizer is None:
        return
    opening = find_opening(tokenizer)
    begins = close_up(samples.tokens)[:, : len(opening)] == opening
    bare = len(samples) - int(begins.all(axis=1).sum())
    if bare:
        say(
            f"warning: {bare:,} of {len(samples):,} passages are token ids that do not begin with "
            f"{tokenizer.decode(opening.tolist())}, which the tokenizer puts before every text; "
            "the model may recite less of them than of the text"
        )


def make_fitter(
    plans: Sequence[Plan], text: Text | None, loaded: LoadedModel, *, layout: str = "auto"
) -> Fitter | None:
    """A fitter that has fitted what `plans` need. None if there is no text."""
    from surgery.fitting.fitter import Fitter

    if text is None:
        return None
    with show_progress("calibrate", None) as advance:
        fitter = Fitter(
            loaded.model,
            text.tokenize(loaded.tokenizer, loaded.dimensions),
            layout=layout,
            editable=loaded.editable,
            advance=advance,
        )
        fitted = [plan for plan in plans if plan.fitted]
        variants = {part.variant for plan in fitted for part in plan.selection}
        lowest = {plan.blocks[0] for plan in fitted if plan.blocks[0] in plan.fitted}
        fitter.fit_alone(sorted(lowest), variants)
        for plan in fitted:
            fitter.fit(plan.selection)
    return fitter
