"""A cut, from its request to its folder."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import model_validator

from evals.data.inputs import find_calibration_text, fit_prepared
from evals.jobs.stepping import OpenedStep, Output
from evals.run.groups import ON_DEVICE, Cut, Folders, Layout, Run
from evals.run.request import Request

if TYPE_CHECKING:
    from surgery.exporting import Trained
    from surgery.fitting.calibration import Calibration, Text
    from surgery.preparing import Fitting
    from surgery.record.manifest import Step


class ExportRequest(Request):
    """Cut a model and save the checkpoint."""

    typed = "drop_attn plan variant calibration layout revision output device"

    folders: Folders
    cut: Cut = Cut()
    layout: Layout = "auto"
    run: Annotated[Run, ON_DEVICE] = Run()

    @model_validator(mode="after")
    def _names_a_cut(self) -> ExportRequest:
        if self.cut.drop_attn is None and self.cut.plan is None:
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
        from surgery.loading import load_tokenizer

        tokenizer = load_tokenizer(self.prepared.model.folder)
        return self.fit_on.tokenize(tokenizer, self.prepared.model.dimensions)

    def is_like(self, step: Step) -> bool:
        plan, text = self.prepared.plan, self.calibration
        mine = (list(plan.selection), plan.layout)
        if (step.parts, step.layout) != mine:
            return False
        fitted_on = step.calibration and step.calibration.sha256
        return fitted_on == (text and text.record_text().sha256)

    def make(self) -> tuple[Fitting | None, Trained | None]:
        if self.fit_on is None:
            return None, None
        return fit_prepared(self.prepared, self.fit_on, self.request.run.device), None


def open_export(request: ExportRequest, *, dry_run: bool = False) -> OpenedExport:
    """Finds the model, reads every input, checks the output, and plans. Reads no weights, and
    writes nothing. Raises a `SurgeryError` for whatever would make the export fail.

    `dry_run`: nothing will be made, so no output is checked, and no text is needed.
    """
    from surgery.preparing import list_variants, prepare

    folders, cut = request.folders, request.cut
    edit, variant = cut.read_edit(), cut.variant or "identity"
    variants, text = list_variants(edit, variant), None
    if cut.calibration or not dry_run:
        text = find_calibration_text(cut.calibration, folders.model, variants)
    told: dict[str, Any] = {"variant": variant, "revision": folders.revision}
    told["check_default"] = None if dry_run else Output(folders).check
    prepared = prepare(folders.model, edit, layout=request.layout, **told)
    return OpenedExport(request, prepared, text)
