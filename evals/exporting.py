"""An export from its request to its folder, and an export that is repeated from its record."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from evals.inputs import (
    Progress,
    Say,
    find_calibration_text,
    fit_prepared,
    say_nothing,
    show_nothing,
)
from evals.running.request import Request
from surgery.record.plan_file import PlanFile, read_plan_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from surgery.editing.preparing import Prepared
    from surgery.exporting import Export
    from surgery.proof.reproduction import Reproduction


class ExportRequest(Request):
    """Edit `model` and save the checkpoint in `output`.

    - `drop_attn`: blocks and heads as text, or `plan`: what a search chose, or its file.
    - `variant`: what they become (default: identity). A plan names its own. `layout`: how they are
      stored. `save_as`: another model type with the same tensors, to save it as.
    - `calibration`: text to fit on. Empty: a lab model's own.
    - `output`: the folder to create (default: NAME-VARIANT-BLOCKS). `overwrite` replaces one.
    - `max_shard_size`: bytes of a weight file (default: as the source is sharded).
    - `as_patch`: write one file with what the edit changes (`surgery.patching`).
    """

    model: str
    drop_attn: str | None = None
    plan: Path | PlanFile | None = None
    variant: str | None = None
    layout: Literal["auto", "stock", "compact"] = "auto"
    save_as: str | None = Field(default=None, serialization_alias="as")
    revision: str | None = None
    calibration: tuple[str, ...] = ()
    output: Path | None = None
    overwrite: bool = False
    max_shard_size: int | None = Field(default=None, gt=0)
    as_patch: bool = False

    @model_validator(mode="after")
    def _one_edit(self) -> ExportRequest:
        if self.drop_attn is None and self.plan is None:
            raise ValueError("name the blocks with `drop_attn`, or give a `plan`")
        if self.drop_attn is not None and self.plan is not None:
            raise ValueError("give `drop_attn` or `plan`, not both")
        if self.variant is not None and self.plan is not None:
            raise ValueError("a `plan` names the variants itself: give it without `variant`")
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


def run_export(
    request: ExportRequest,
    *,
    dry_run: bool = False,
    keep: bool = False,
    say: Say = say_nothing,
    progress: Progress = show_nothing,
) -> tuple[Prepared, Export | None]:
    """Plans the edit, fits what it needs, and writes the checkpoint.

    `dry_run` reads no weights and writes nothing. `keep` leaves an output that is an export of the
    same edit as it is. Both then return no export. Raises a `SurgeryError`. The output then does
    not exist, or is still the old one.
    """
    from surgery.editing.preparing import list_variants, prepare
    from surgery.exporting import write
    from surgery.families import left_out
    from surgery.patching import write_patch

    edit, variant = request.read_edit(), request.variant or "identity"
    early = not (dry_run or keep)
    if early:
        request.check_output()
    text = None
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
        check_default=request.check_output if early else None,
    )
    if unknown := prepared.plan.family.unknown_keys(prepared.checkpoint.config):
        say(f"{request.model}: {left_out(unknown)}")
    if early:
        request.check_output(prepared.default_output)
    if dry_run or (keep and _is_export_of(request.output, prepared)):
        return prepared, None
    fitting = None if text is None else fit_prepared(prepared, text, progress)
    with progress("export", prepared.total_bytes) as advance:
        export = (write_patch if request.as_patch else write)(
            prepared,
            request.output,
            fitting=fitting,
            overwrite=request.overwrite,
            max_shard_size=request.max_shard_size,
            progress=advance,
        )
    return prepared, export


def _is_export_of(output: Path | None, prepared: Prepared) -> bool:
    from surgery.record.manifest import read_manifest

    made = read_manifest(output) if output else None
    if made is None:
        return False
    wanted = prepared.plan.selection, prepared.plan.layout.NAME
    return (tuple(made.edit.parts), made.edit.layout) == wanted


def repeat_export(
    model: str,
    output: Path | None = None,
    *,
    revision: str | None = None,
    source: str | None = None,
    calibration: Sequence[str] = (),
    overwrite: bool = False,
    progress: Progress = show_nothing,
) -> Reproduction:
    """Repeats the edit that `model` records, fitted on `calibration` or a lab's own text.

    Arguments and errors are those of `surgery.proof.reproduction.reproduce`.
    """
    from surgery.exporting import check_target
    from surgery.proof.reproduction import open_original, reproduce

    if output is not None:
        check_target(model, output, overwrite=overwrite)
    original = open_original(model, revision)
    edit = original.manifest.edit
    variants = [part.variant for part in edit.parts]
    text = find_calibration_text(calibration, edit.source.model, variants)
    if text is not None and edit.calibration is not None:
        text = replace(text, spread=edit.calibration.spread)
    with progress("reproduce", None) as advance:
        return reproduce(
            original,
            output,
            source=source,
            overwrite=overwrite,
            fit=None if text is None else lambda prepared: fit_prepared(prepared, text, progress),
            progress=advance,
        )
