"""An edit that is repeated from the record of its folder, with the same text and passages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.measure.healing import erase_on, find_recorded_passages, find_recorded_text, heal_on
from evals.run.console import show_progress
from surgery.errors import SamplesError, UnsupportedError
from surgery.hub.embedded import LAB_TEXT, find_lab
from surgery.record.manifest import PassagesRecord

if TYPE_CHECKING:
    from evals.data import Passages
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.exporting import Export
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import Edit
    from surgery.reproduction import Reproduction
    from surgery.training.erasing import Erased

    FindPassages = Callable[[PassagesRecord | str | None], Passages | None]


def repeat_export(
    model: str,
    output: Path | None = None,
    *,
    revision: str | None = None,
    source: str | None = None,
    calibration: Sequence[str] = (),
    heal: Sequence[str] = (),
    text: Sequence[str] = (),
    samples: str | None = None,
    id_column: str | None = None,
    secret: str | None = None,
    overwrite: bool = False,
) -> Reproduction:
    """Repeats the edit that `model` records, fitted on `calibration` or a lab's own text, erased on
    `text` and `samples`, and healed on `heal` and `samples`.

    Arguments and errors are those of `surgery.reproduction.reproduce`. Raises `SamplesError`,
    which names what is recorded, for a model that needs text or passages which were not given, and
    `UnsupportedError` for one that an earlier version healed.
    """
    from surgery.exporting import check_target
    from surgery.reproduction import open_original, reproduce

    if output is not None:
        check_target(model, output, overwrite=overwrite)
    original = open_original(model, revision)
    edit = original.manifest.edit
    given = {"calibration": calibration, "heal": heal, "text": text, "samples": samples}
    given |= {"id_column": id_column, "secret": secret}
    _check_given(edit, given, model)
    variants = [part.variant for part in edit.parts]
    fitted = edit.calibration or (edit.erasing and edit.erasing.calibration)
    if not fitted:
        fit_on = find_calibration_text(calibration, edit.source.model, variants)
    else:
        fit_on = find_recorded_text(calibration, fitted, model, "calibration")
        fit_on = replace(fit_on, spread=fitted.spread)

    def fit(prepared: Prepared, loaded: Any = None) -> Fitting | None:
        if fit_on is None:
            return None
        return fit_prepared(prepared, fit_on, model=loaded)

    known: dict[str, Any] = {"model": model, "id_column": id_column, "chosen": edit.chosen}
    passages = partial(find_recorded_passages, samples, secret=secret, **known)
    erasing = _find_erasing(edit, text, passages, model, fit)
    healing = _find_healing(edit, heal, passages, model, overwrite)
    with show_progress("reproduce", None) as advance:
        return reproduce(
            original,
            output,
            source=source,
            overwrite=overwrite,
            erase=erasing,
            fit=fit if edit.calibration or (variants and fit_on) else None,
            heal=healing,
            progress=advance,
        )


def _find_erasing(
    edit: Edit,
    text: Sequence[str],
    find_passages: FindPassages,
    model: str,
    fit: Callable[[Prepared], Fitting | None],
) -> Callable[[Prepared], Erased] | None:
    """What erases again, on the recorded text and passages; None if nothing was erased."""
    if edit.erasing is None:
        return None
    taught = find_passages(edit.erasing.passages)
    erased_on = find_recorded_text(text, edit.erasing, model, "text")
    return erase_on(erased_on, taught, edit.erasing, fit, as_adapter=edit.is_adapter)


def _find_healing(
    edit: Edit, heal: Sequence[str], find_passages: FindPassages, model: str, overwrite: bool
) -> Callable[[Export, ResolvedModel, Path], Export] | None:
    """What heals again, on the recorded text and passages; None if the edit was not healed."""
    if edit.healing is None:
        return None
    _refuse_earlier(edit, model)
    passages = find_passages(edit.healing.passages)
    healed_on = find_recorded_text(heal, edit.healing, model, "heal")
    return heal_on(healed_on, passages, edit.healing, overwrite)


def _check_given(edit: Edit, given: Mapping[str, Any], model: str) -> None:
    """Raises `SamplesError` for what the model was not made with, and one that names all that is
    missing, if more than one thing is.
    """
    erasing, healing = edit.erasing, edit.healing
    for option, record, what in (
        ("heal", healing, "was not healed"),
        ("text", erasing, "was not erased"),
        ("samples", _list_passages(edit), "was made without passages"),
        ("id_column", _list_passages(edit), "was made without passages"),
        ("secret", _list_passages(edit), "was made without passages"),
    ):
        if given[option] and not record:
            raise SamplesError(what, where=model, fix=f"leave `{option}` out")
    texts = {
        "calibration": edit.calibration or (erasing and erasing.calibration),
        "heal": healing,
        "text": erasing,
    }
    lacks = {
        option: ", ".join(map(str, record.sources))
        for option, record in texts.items()
        if record and not given[option] and {one.name for one in record.sources} != {LAB_TEXT}
    }
    taught = _list_passages(edit)
    named = [one for one in taught if isinstance(one, PassagesRecord) and not find_lab(one.name)]
    if named and not given["samples"]:
        lacks["samples"] = f"{named[0].name}: {named[0].number:,} passages"
    if len(lacks) > 1:
        raise SamplesError(
            "needs what it was made with",
            where=model,
            expected="; ".join(lacks.values()),
            fix="give it with " + ", ".join(f"`{option}`" for option in lacks),
        )


def _list_passages(edit: Edit) -> list[Any]:
    """What is recorded of the passages that the model was trained on."""
    found = (training.passages for training in (edit.healing, edit.erasing) if training)
    return [passages for passages in found if passages is not None]


def _refuse_earlier(edit: Edit, model: str) -> None:
    """Raises `UnsupportedError` for healing by the loss of earlier versions."""
    if edit.healing and edit.healing.loss == "text":
        wrote = edit.versions.get("attn-surgery", "an earlier version")
        raise UnsupportedError(
            "was healed by another loss, the next-token loss, so it cannot be healed again",
            where=model,
            expected="a model that this version healed",
            got=f"attn-surgery {wrote}",
            fix="use that version to reproduce it",
        )
