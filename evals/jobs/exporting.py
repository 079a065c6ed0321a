"""An export, from its request to its folder."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError, model_validator

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.jobs.erasing import (
    EraseRequest,
    Lessons,
    erase_prepared,
    read_lessons,
    say_what_is_recited,
    say_what_is_taught,
)
from evals.measure.healing import (
    find_healing_text,
    read_healing_text,
)
from evals.run.console import say, show_progress
from evals.run.request import (
    OWN_PATH,
    OWN_VARIANT,
    Cutting,
    Editing,
    Erasing,
    Healing,
    Option,
    describe_mistakes,
)
from surgery.errors import SurgeryError
from surgery.hub.embedded import find_lab
from surgery.plan import LayoutChoice
from surgery.variants import SUMMARIES, VARIANTS

if TYPE_CHECKING:
    from surgery.editing.preparing import Fitting, Prepared
    from surgery.exporting import Export, Trained
    from surgery.fitting.calibration import Calibration, Text
    from surgery.training.distillation import Passages as TaughtPassages
    from surgery.training.training import Schedule


class ExportRequest(Editing, Erasing, Healing):
    """Edit `model` and save the checkpoint in `output`.

    - `erase`: before the cut, teach `model` by its own cut to forget `samples`
      (`evals.jobs.erasing`), in `erase_steps` steps and with `text`. `harden`: as there.
    - `device`: where to fit and to train (default: a GPU if there is one).
    """

    drop_attn: Annotated[
        str | None,
        "Blocks to make attention-free, such as 20-23, 20,22, last:4, or -1, or single heads "
        "of a block, such as 6.0 or 7.1-3.",
        Option("edit", "SPEC"),
    ] = None
    variant: Annotated[
        str | None,
        f"{SUMMARIES}{OWN_VARIANT}.",
        Option("edit", default="identity", choices=VARIANTS, own=OWN_PATH),
    ] = None
    layout: Annotated[
        LayoutChoice,
        "stock: loads in the library's own class. compact: smaller and without a key/value "
        "cache for these blocks, but needs its modeling file. auto: stock if it can hold the "
        "variant exactly.",
        Option("edit"),
    ] = "auto"
    save_as: Annotated[
        str | None,
        "Save the result as another model type that has the same tensors and can hold the "
        "edit: llama for a Mistral model without a sliding window.",
        Option("output", "TYPE"),
    ] = Field(default=None, serialization_alias="as")
    output: Annotated[
        Path | None,
        "Folder to create.",
        Option("output", "DIR", "NAME-VARIANT-BLOCKS"),
    ] = None
    gguf: Annotated[
        bool,
        "Also write DIR.gguf, the result as one file for llama.cpp (f16). For other types, see "
        "convert.",
        Option("output"),
    ] = False

    @model_validator(mode="after")
    def _one_edit(self) -> ExportRequest:
        if self.drop_attn is None and self.plan is None:
            raise ValueError("name the blocks with `drop_attn`, or give a `plan`")
        if self.erase:
            try:
                assert self.erase_request
            except ValidationError as error:  # a message of its own, without the other's frame
                raise ValueError(describe_mistakes(error)) from None
        if not (self.heal or self.erase):
            self._refuse_unused("heal` or `erase", "adapters")
        if self.erase and self.save_as is not None:
            what = "the cut that teaches is one of the model's own type"
            raise ValueError(f"{what}: run erase first, then export the result with `as`")
        return self

    @property
    def erase_request(self) -> EraseRequest:
        """The erasing before the cut, which is also its teacher."""
        return EraseRequest.of(dict(self), text=self.text or self.heal, steps=self.erase_steps)

    def check_output(self, default: Path | None = None) -> None:
        """Raises `OutputError`, before any work, for an output that could not be written.

        `default`: the folder where it goes unless `output` is given.
        """
        from surgery.conversion.gguf_file import GGUF
        from surgery.exporting import check_target
        from surgery.output import check_output

        target = self.output or default
        if target is None:
            return
        check_target(self.model, target, overwrite=self.overwrite)
        if self.gguf:
            check_output(target.with_name(f"{target.name}.gguf"), GGUF, overwrite=self.overwrite)


def run_export(
    request: ExportRequest,
    *,
    dry_run: bool = False,
    keep: bool = False,
    job: str | None = None,
    erased: Path | None = None,
) -> tuple[Prepared, Export | None]:
    """Plans the edit, fits what it needs, and writes the checkpoint.

    `dry_run` reads no weights and writes nothing. `keep` leaves an export of the same edit as it
    is. Both then return no export. `job`: as for `surgery.record.manifest.Edit`. `erased`: the
    folder of the same erasing, whose weights are cut in place of training them again.

    Raises a `SurgeryError`; the output is then as it was before, unless only its GGUF file failed,
    which it says.
    """
    from surgery.conversion.gguf_file import check_convertible
    from surgery.editing.preparing import list_variants, prepare
    from surgery.editing.rewriting import read_result
    from surgery.families import left_out

    edit, variant = request.read_edit(), request.variant or "identity"
    is_trained = bool(request.heal or request.erase)  # so that its default name is another
    if early := not (dry_run or keep):
        request.check_output()
    healing, text = find_healing_text(request.heal) if request.heal else None, None
    erasing = request.erase_request.find_text() if request.erase else None
    if request.calibration or not dry_run:
        variants = list_variants(edit, variant)
        text = find_calibration_text(request.calibration, request.model, variants)
    prepared = prepare(
        request.model,
        edit,
        variant=variant,
        layout=request.layout,
        save_as=request.save_as,
        revision=request.revision,
        check_default=request.check_output if early and not is_trained else None,
    )
    prepared = replace(prepared, job=job)
    default = name_output(request, prepared)
    if unknown := prepared.plan.family.unknown_keys(prepared.checkpoint.config):
        say(f"{request.model}: {left_out(unknown)}")
    if early:
        request.check_output(default)
    is_last = dry_run or (keep and _is_export_of(request, prepared, healing, erasing))
    if request.gguf:
        read = None if is_last else read_result(prepared.plan, prepared.checkpoint.read)
        check_convertible(prepared.plan.result, prepared.model.folder, read)
    if is_last:
        return prepared, None
    target = request.output or default
    texts = text, healing, erasing
    export = _write(request, prepared, target, *texts, erased)
    if request.gguf:
        export = replace(export, beside={"gguf": _convert(export.output, request.overwrite)})
    return prepared, export


def _convert(folder: Path, overwrite: bool) -> Path:
    """Writes the same as a GGUF file beside a folder. Says what is there if that fails."""
    from surgery.conversion.gguf_file import convert_to_gguf

    file = folder.with_name(f"{folder.name}.gguf")
    try:
        with show_progress("convert", None) as advance:
            convert_to_gguf(folder, file, overwrite=overwrite, progress=advance)
    except (SurgeryError, KeyboardInterrupt):
        lack = "still that of an earlier export" if file.exists() else "missing"
        say(f"{folder} is complete. Only {file} is {lack}: convert {folder} to make it")
        raise
    return file


def _write(
    request: ExportRequest,
    prepared: Prepared,
    target: Path,
    text: Text | None,
    healing: Text | None,
    erasing: Text | None,
    erased: Path | None,
) -> Export:
    """Writes the checkpoint, fitted on `text`. With `erasing`, erases before the cut. With
    `healing`, cuts beside it and heals the cut."""
    from surgery.exporting import write
    from surgery.output import check_space, claim, create_parents, explain_os_errors

    place, healed_on, lessons = target, None, None
    if erasing is not None or healing is not None:  # a cut that is healed stands beside the result
        check_space(target, prepared.total_bytes * (2 if healing is not None else 1))
    with ExitStack() as stack:
        if erasing is not None:  # before any work that takes long
            lessons = _read_lessons(request, prepared, erasing)
        if healing is not None:
            healed_on = _read_text_apart(request, prepared, healing)
            stack.enter_context(explain_os_errors(target))
            stack.enter_context(create_parents(target))
            place = stack.enter_context(claim(target.absolute().with_name(f"{target.name}-cut")))
        trains_on = lessons.passages if lessons else healed_on and healed_on[2]
        say_what_is_taught(prepared, trains_on)
        fitting, trained = _train(request, prepared, text, lessons, erased)
        with show_progress("export", prepared.total_bytes) as advance:
            export = write(
                prepared,
                place,
                fitting=fitting,
                trained=trained,
                progress=advance,
                **request.model_dump(include={"overwrite", "max_shard_size"}),
            )
        if healed_on is None:
            return export
        from evals.run.models import find_device
        from surgery.training.healing import heal

        device, overwrite = find_device(request.device), request.overwrite
        with show_progress("heal", request.heal_steps) as advance:
            healed = heal(
                export,
                prepared.checkpoint,
                target,
                *healed_on,
                overwrite=overwrite,
                device=device,
                advance=advance,
            )
        assert healed.manifest.edit.healing is not None
        say_what_is_recited("heal", healed.manifest.edit.healing)
        return healed


def _train(
    request: ExportRequest,
    prepared: Prepared,
    text: Text | None,
    lessons: Lessons | None,
    folder: Path | None,
) -> tuple[Fitting | None, Trained | None]:
    """Fits the cut on `text` and, with `lessons`, erases by it and fits the cut of the result.

    `folder`: as `erased` of `run_export`.
    """

    def fit(model: Any = None) -> Fitting | None:
        if text is None:
            return None
        return fit_prepared(prepared, text, request.device, model)

    if lessons is not None and folder is not None:
        from evals.run.models import find_device
        from surgery.editing.loading import load_model
        from surgery.exporting import open_trained

        device = find_device(request.device)
        return fit(load_model(folder, device=device)), open_trained(folder)
    fitting = fit()
    if lessons is None:
        return fitting, None
    erased = erase_prepared(prepared, lessons, fitting, request.device)
    return fit(erased.model), erased.trained


def name_output(request: ExportRequest, prepared: Prepared) -> Path:
    """Where the export goes unless the request says so."""
    default = prepared.default_output
    done = [word for word, asked in (("erased", request.erase), ("healed", request.heal)) if asked]
    return default.with_name("-".join([default.name, *done]))


def _read_lessons(request: ExportRequest, prepared: Prepared, text: Text) -> Lessons:
    return read_lessons(request.erase_request, prepared.model, text, prepared.chosen)


def _read_text_apart(
    request: ExportRequest, prepared: Prepared, text: Text
) -> tuple[Calibration, Schedule, TaughtPassages | None]:
    """What `heal` takes of text, once the text is known to hold no passage."""
    from evals.data import open_samples
    from surgery.training.training import Schedule

    schedule = Schedule(request.heal_steps, rank=request.adapters)
    how = request.model_dump(include={*Cutting.model_fields, "leave_out"} - {"revision"})
    named = request.samples or find_lab(request.model)
    passages = open_samples(named, chosen=prepared.chosen, **how) if named else None
    tokens, taught = read_healing_text(text, schedule, prepared.model, passages)
    return tokens, schedule, taught


def _is_export_of(
    request: ExportRequest, prepared: Prepared, healing: Text | None, erasing: Text | None
) -> bool:
    """Whether the output is the same export, trained on the same texts."""
    from surgery.record.manifest import read_manifest

    made = read_manifest(request.output) if request.output else None
    if made is None:
        return False
    edit, cut = made.edit, (prepared.plan.selection, prepared.plan.layout.NAME)
    found = [one.steps if one else 0 for one in (edit.erasing, edit.healing)]
    found.append(edit.erasing is not None and edit.erasing.hardened)
    wanted = [
        request.erase_steps if request.erase else 0,
        request.heal_steps if request.heal else 0,
        request.harden,
    ]
    if (tuple(edit.parts), edit.layout, *found) != (*cut, *wanted):
        return False
    if edit.erasing is not None and erasing is not None:
        lessons = _read_lessons(request, prepared, erasing)
        if not lessons.are_those_of(edit.erasing):
            return False
    if edit.healing is not None and healing is not None:
        tokens, _, taught = _read_text_apart(request, prepared, healing)
        ours = tokens.record_text().sha256, taught and taught.record
        return ours == (edit.healing.sha256, edit.healing.passages)
    return True
