"""An export from its request to its folder, and an export that is repeated from its record."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.measure.healing import find_healing_text, find_recorded_text, heal_on, read_healing_text
from evals.run.console import say, show_progress
from evals.run.request import Request
from surgery.record.plan_file import PlanFile, read_plan_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgery.editing.preparing import Prepared
    from surgery.exporting import Export
    from surgery.fitting.calibration import Calibration, Text
    from surgery.healing.training import Schedule
    from surgery.reproduction import Reproduction


class ExportRequest(Request):
    """Edit `model` and save the checkpoint in `output`.

    - `drop_attn`: blocks and heads as text, or `plan`: what a search chose, or its file.
    - `variant`: what they become (default: identity). A plan names its own. `layout`: how they are
      stored. `save_as`: another model type with the same tensors, to save it as.
    - `calibration`: text to fit on. Empty: a lab model's own.
    - `heal`: other text to train the edited model on, for `heal_steps` steps. It may hold none of
      `samples`, if given; `prefix_length`, `suffix_length`: of these; `skip_short`: leave out those
      that are shorter.
    - `device`: where to fit and to heal (default: a GPU if there is one).
    - `output`: the folder to create (default: NAME-VARIANT-BLOCKS). `overwrite` replaces one.
    - `max_shard_size`: bytes of a weight file (default: as the source is sharded).
    - `as_patch`: write one file with what the edit changes (`surgery.patching`).
    - `gguf`: also write the result as one file for llama.cpp, OUTPUT.gguf (`surgery.conversion`).
    """

    model: str
    drop_attn: str | None = None
    plan: Path | PlanFile | None = None
    variant: str | None = None
    layout: Literal["auto", "stock", "compact"] = "auto"
    save_as: str | None = Field(default=None, serialization_alias="as")
    revision: str | None = None
    calibration: tuple[str, ...] = ()
    heal: tuple[str, ...] = ()
    heal_steps: int = Field(default=80, ge=1)
    samples: str | None = None
    prefix_length: int | None = None
    suffix_length: int | None = None
    skip_short: bool = False
    device: str | None = None
    output: Path | None = None
    overwrite: bool = False
    max_shard_size: int | None = Field(default=None, gt=0)
    as_patch: bool = False
    gguf: bool = False

    @model_validator(mode="after")
    def _one_edit(self) -> ExportRequest:
        if self.drop_attn is None and self.plan is None:
            raise ValueError("name the blocks with `drop_attn`, or give a `plan`")
        if self.drop_attn is not None and self.plan is not None:
            raise ValueError("give `drop_attn` or `plan`, not both")
        if self.variant is not None and self.plan is not None:
            raise ValueError("a `plan` names the variants itself: give it without `variant`")
        if not self.heal:
            self._refuse_unused("heal", "heal_steps")
        if self.as_patch and self.heal:
            raise ValueError("a patch holds an edit, no training: give `as_patch` without `heal`")
        if self.as_patch and self.gguf:
            raise ValueError("a patch is no model: give `as_patch` or `gguf`, not both")
        return self

    def read_edit(self) -> str | PlanFile:
        """Returns what to do. Raises `SurgeryError` for a plan that cannot be read."""
        if isinstance(self.plan, Path):
            return read_plan_file(self.plan)
        return self.plan or self.drop_attn or ""

    def check_output(self, default: Path | None = None) -> None:
        """Raises `OutputError`, before any work, for an output that could not be written.

        `default`: where it goes unless `output` is given.
        """
        from surgery.exporting import check_target
        from surgery.output import check_output
        from surgery.patching import name_patch

        target = self.output or default
        if target is None:
            return
        if self.as_patch:
            file = self.output or name_patch(target)
            check_output(file, None, overwrite=self.overwrite)
        else:
            check_target(self.model, target, overwrite=self.overwrite)
        if self.gguf:
            check_output(target.with_name(f"{target.name}.gguf"), None, overwrite=self.overwrite)


def run_export(
    request: ExportRequest, *, dry_run: bool = False, keep: bool = False, job: str | None = None
) -> tuple[Prepared, Export | None]:
    """Plans the edit, fits what it needs, and writes the checkpoint.

    `dry_run` reads no weights and writes nothing. `keep` leaves an export of the same edit as it
    is. Both then return no export. `job`: as for `surgery.record.manifest.Edit`.

    Raises a `SurgeryError`; the output is then as it was before.
    """
    from surgery.conversion.gguf_file import check_convertible, convert_to_gguf
    from surgery.editing.preparing import list_variants, prepare
    from surgery.editing.rewriting import read_result
    from surgery.families import left_out

    edit, variant = request.read_edit(), request.variant or "identity"
    if early := not (dry_run or keep):
        request.check_output()
    healing, text = find_healing_text(request.heal) if request.heal else None, None
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
        check_default=request.check_output if early and not request.heal else None,
    )
    prepared = replace(prepared, job=job)
    default = _name_default(request, prepared)
    if unknown := prepared.plan.family.unknown_keys(prepared.checkpoint.config):
        say(f"{request.model}: {left_out(unknown)}")
    if early:
        request.check_output(default)
    is_last = dry_run or (keep and _is_export_of(request, prepared))
    if request.gguf:
        read = None if is_last else read_result(prepared.plan, prepared.checkpoint.read)
        check_convertible(prepared.plan.result, prepared.model.folder, read)
    if is_last:
        return prepared, None
    export = _write(request, prepared, request.output or default, text, healing)
    if request.gguf:
        with show_progress("convert", None) as advance:
            file = export.output.with_name(f"{export.output.name}.gguf")
            convert_to_gguf(export.output, file, overwrite=request.overwrite, progress=advance)
        export = replace(export, beside={"gguf": file})
    return prepared, export


def _write(
    request: ExportRequest,
    prepared: Prepared,
    target: Path,
    text: Text | None,
    healing: Text | None,
) -> Export:
    """Writes the checkpoint, fitted on `text`. With `healing`, cuts beside it and heals the cut."""
    from surgery.exporting import write
    from surgery.output import claim, create_parents, explain_os_errors
    from surgery.patching import write_patch

    place, healed_on = target, None
    with ExitStack() as stack:
        if healing is not None:  # before any work that takes long
            healed_on = _read_text_apart(request, prepared, healing)
            stack.enter_context(explain_os_errors(target))
            stack.enter_context(create_parents(target))
            place = stack.enter_context(claim(target.absolute().with_name(f"{target.name}-cut")))
        fitting = None
        if text is not None:
            fitting = fit_prepared(prepared, text, request.device)
        with show_progress("export", prepared.total_bytes) as advance:
            export = (write_patch if request.as_patch else write)(
                prepared,
                place,
                fitting=fitting,
                progress=advance,
                **request.model_dump(include={"overwrite", "max_shard_size"}),
            )
        if healed_on is None:
            return export
        from evals.run.models import find_device
        from surgery.healing.healing import heal

        device, overwrite = find_device(request.device), request.overwrite
        with show_progress("heal", request.heal_steps) as advance:
            return heal(
                export, target, *healed_on, overwrite=overwrite, device=device, advance=advance
            )


def _name_default(request: ExportRequest, prepared: Prepared) -> Path:
    default = prepared.default_output
    return default.with_name(f"{default.name}-healed") if request.heal else default


def _read_text_apart(
    request: ExportRequest, prepared: Prepared, text: Text
) -> tuple[Calibration, Schedule, str | None]:
    """What `heal` takes of text, once the text is known to hold no passage."""
    from evals.data import open_samples
    from surgery.healing.training import Schedule

    schedule = Schedule(request.heal_steps)
    how = request.model_dump(include={"prefix_length", "suffix_length", "skip_short"})
    passages = open_samples(request.samples, **how) if request.samples else None
    tokens, sha256 = read_healing_text(text, schedule, prepared.model, passages)
    return tokens, schedule, sha256


def _is_export_of(request: ExportRequest, prepared: Prepared) -> bool:
    from surgery.record.manifest import read_manifest

    made = read_manifest(request.output) if request.output else None
    if made is None:
        return False
    steps = made.edit.healing.steps if made.edit.healing else 0
    wanted = prepared.plan.selection, prepared.plan.layout.NAME
    wanted_steps = request.heal_steps if request.heal else 0
    return (tuple(made.edit.parts), made.edit.layout, steps) == (*wanted, wanted_steps)


def repeat_export(
    model: str,
    output: Path | None = None,
    *,
    revision: str | None = None,
    source: str | None = None,
    calibration: Sequence[str] = (),
    heal: Sequence[str] = (),
    overwrite: bool = False,
) -> Reproduction:
    """Repeats the edit that `model` records, fitted on `calibration` or a lab's own text, and
    healed on the text `heal`.

    Arguments and errors are those of `surgery.reproduction.reproduce`. Raises `SamplesError`,
    which names the recorded text, for a fitted or healed model without it.
    """
    from surgery.exporting import check_target
    from surgery.reproduction import open_original, reproduce

    if output is not None:
        check_target(model, output, overwrite=overwrite)
    original = open_original(model, revision)
    edit = original.manifest.edit
    variants = [part.variant for part in edit.parts]
    if edit.calibration is None:
        text = find_calibration_text(calibration, edit.source.model, variants)
    else:
        text = find_recorded_text(calibration, edit.calibration, model, "calibration")
        text = replace(text, spread=edit.calibration.spread)
    healing = None
    if edit.healing:
        healed_on = find_recorded_text(heal, edit.healing, model, "heal")
        healing = heal_on(healed_on, edit.healing, overwrite)
    with show_progress("reproduce", None) as advance:
        return reproduce(
            original,
            output,
            source=source,
            overwrite=overwrite,
            fit=None if text is None else lambda prepared: fit_prepared(prepared, text),
            heal=healing,
            progress=advance,
        )
