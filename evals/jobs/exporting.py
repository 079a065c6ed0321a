"""A cut, from its request to its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.jobs.stepping import OpenedStep, Output
from evals.run.console import say
from evals.run.request import (
    OWN_PATH,
    OWN_VARIANT,
    Editing,
    Option,
)
from surgery.errors import UnsupportedError
from surgery.plan import LayoutChoice
from surgery.variants import SUMMARIES, VARIANTS

if TYPE_CHECKING:
    from surgery.editing.preparing import Fitting
    from surgery.exporting import Trained
    from surgery.fitting.calibration import Calibration, Text
    from surgery.record.manifest import Step
    from surgery.record.plan_file import PlanFile


class ExportRequest(Editing):
    """Cut `model` and save the checkpoint in `output`.

    `device`: where to fit (default: a GPU if there is one).
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
    device: Annotated[str | None, "Where to fit.", Option("run", "D", "a GPU if there is one")] = (
        None
    )
    output: Annotated[
        Path | None, "Folder to create.", Option("output", "DIR", "NAME-VARIANT-BLOCKS")
    ] = None

    @model_validator(mode="after")
    def _names_a_cut(self) -> ExportRequest:
        if self.drop_attn is None and self.plan is None:
            raise ValueError("name the blocks with `drop_attn`, or give a `plan`")
        return self


@dataclass(frozen=True)
class OpenedExport(OpenedStep):
    """A cut that can be made. `fit_on`: the text for its variants; None if they need none."""

    request: ExportRequest
    fit_on: Text | None = None

    @cached_property
    def calibration(self) -> Calibration | None:
        """The text in the model's tokens."""
        if self.fit_on is None:
            return None
        from surgery.editing.loading import load_tokenizer

        tokenizer = load_tokenizer(self.prepared.model.folder)
        return self.fit_on.tokenize(tokenizer, self.prepared.model.inventory.dimensions)

    def is_like(self, step: Step) -> bool:
        plan, text = self.prepared.plan, self.calibration
        mine = (list(plan.selection), plan.layout.NAME, self.request.max_shard_size)
        if (step.parts, step.layout, step.max_shard_size) != mine:
            return False
        fitted_on = step.calibration and step.calibration.sha256
        return fitted_on == (text and text.record_text().sha256)

    def make(self) -> tuple[Fitting | None, Trained | None]:
        if self.fit_on is None:
            return None, None
        return fit_prepared(self.prepared, self.fit_on, self.request.device), None


def open_export(request: ExportRequest, *, dry_run: bool = False) -> OpenedExport:
    """Finds the model, reads every input, checks the output, and plans. Reads no weights, and
    writes nothing. Raises a `SurgeryError` for whatever would make the export fail.

    `dry_run`: nothing will be made, so no output is checked, and no text is needed.
    """
    from surgery.editing.preparing import list_variants, prepare
    from surgery.families import left_out

    edit, variant = request.read_edit(), request.variant or "identity"
    variants, text = list_variants(edit, variant), None
    if request.calibration or not dry_run:
        text = find_calibration_text(request.calibration, request.model, variants)
    told: dict[str, Any] = {"variant": variant, "revision": request.revision}
    told["check_default"] = None if dry_run else Output(request).check
    try:
        prepared = prepare(
            request.model, edit, layout=request.layout, save_as=request.save_as, **told
        )
    except UnsupportedError:
        if request.consume and (made := _find_consumed(request, edit, variant, text)) is not None:
            return made
        raise
    if unknown := prepared.plan.family.unknown_keys(prepared.checkpoint.config):
        say(f"{request.model}: {left_out(unknown)}")
    return OpenedExport(request, prepared, text)


def _find_consumed(
    request: ExportRequest, edit: str | PlanFile | None, variant: str, text: Text | None
) -> OpenedExport | None:
    """The cut, if an earlier run has put its result in the place of the model."""
    from surgery.editing.preparing import prepare, select
    from surgery.proof.expected import replan

    prepared = prepare(request.model, None)
    model, manifest = prepared.model, prepared.model.manifest
    if manifest is None:
        return None
    plan = replan(model.checkpoint, manifest)[0]
    if plan.selection != select(edit, variant, model.inventory.config):
        return None
    opened = OpenedExport(request, replace(prepared, plan=plan), text)
    return opened if opened.find_made() is not None else None
