"""What an export is asked for, and the export: planned, fitted and written."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from evals.inputs import Progress, Say, calibration_text, fitted, say_nothing, show_nothing
from evals.running.request import Request
from surgery.record.plan_file import PlanFile, read_plan_file

if TYPE_CHECKING:
    from surgery.editing.preparing import Prepared
    from surgery.exporting import Export


class ExportRequest(Request):
    """The edit of `model` to save as a checkpoint in `output`.

    - `drop_attn`: blocks and heads, as text; or `plan`: what a search chose, or its file.
    - `variant`: what they become (default: identity); a plan names its own. `layout`: how they are
      stored. `save_as`: another model type with the same tensors to save it as.
    - `calibration`: text to fit on. Empty: a lab model's own.
    - `output`: the folder to create (default: NAME-VARIANT-BLOCKS); `overwrite` replaces one.
    - `max_shard_size`: bytes of a weight file (default: as the source is sharded).
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

    @model_validator(mode="after")
    def _one_edit(self) -> ExportRequest:
        if self.drop_attn is None and self.plan is None:
            raise ValueError("name the blocks with `drop_attn`, or give a `plan`")
        if self.drop_attn is not None and self.plan is not None:
            raise ValueError("give `drop_attn` or `plan`, not both")
        if self.variant is not None and self.plan is not None:
            raise ValueError("a `plan` names the variants itself: give it without `variant`")
        return self

    def edit(self) -> str | PlanFile:
        """Returns what is to be done. Raises `SurgeryError` for a plan that cannot be read."""
        if isinstance(self.plan, Path):
            return read_plan_file(self.plan)
        return self.plan or self.drop_attn or ""

    def check_output(self, default: Path | None = None) -> None:
        """Refuses, before any work, an output that could not be written in the end.

        `default`: where it is written unless `output` is given. Raises `OutputError`.
        """
        from surgery.exporting import check_target

        if target := self.output or default:
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

    `dry_run`: reads no weights and writes nothing. `keep`: an output that is an export of the same
    edit stays as it is, to be verified. Both give no export. Raises a `SurgeryError`; the output
    then does not exist, or is still the old one.
    """
    from surgery.editing.preparing import list_variants, prepare
    from surgery.exporting import write
    from surgery.families import left_out

    edit, variant = request.edit(), request.variant or "identity"
    early = not (dry_run or keep)
    if early:
        request.check_output()
    text = None
    if request.calibration or not dry_run:
        text = calibration_text(request.calibration, request.model, list_variants(edit, variant))
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
    fitting = None if text is None else fitted(prepared, text, progress)
    with progress("export", prepared.total_bytes) as advance:
        export = write(
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
