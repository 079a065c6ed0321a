"""Finds, opens and checks a source, and plans its edit, before anything is written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from surgery.checkpoint import Checkpoint, read_config, read_sidecar
from surgery.config import check_alone, check_config, check_tokenizer
from surgery.errors import UnsupportedError
from surgery.families import family_of
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel, is_same
from surgery.plan import Fits, Plan, make_empty_plan, make_plan
from surgery.plan import select as select_heads
from surgery.privacy import name_result
from surgery.record.manifest import CalibrationRecord, ChosenOn, EditedModel
from surgery.record.plan_file import PlanFile
from surgery.selection import Selection, format_selection, variant_name

_LONGEST_SPEC = 60  # characters of blocks and heads in an output's name


@dataclass(frozen=True)
class Fitting:
    """Fits by block, and the manifest's record of their calibration text."""

    fits: Fits = field(default_factory=dict)
    record: CalibrationRecord | None = None


@dataclass(frozen=True)
class Prepared:
    """A checked source and the plan of its edit.

    `chosen`: the passages and text on which a search chose the cut.
    """

    model: ResolvedModel
    plan: Plan
    chosen: ChosenOn | None = None

    @property
    def checkpoint(self) -> Checkpoint:
        return self.model.checkpoint

    @property
    def without_cut(self) -> Prepared:
        """The same source, to be written with its weights trained and nothing else changed. A
        search may have chosen its teacher.
        """
        return replace(self, plan=make_empty_plan(self.checkpoint.config, self.checkpoint.tensors))

    @property
    def default_output(self) -> Path:
        """`NAME-VARIANT-BLOCKS` in the current folder, with a hash for a long list of blocks."""
        num_heads = self.plan.dimensions.num_heads
        return _name_output(self.model.source.model, self.plan.selection, num_heads)

    @property
    def total_bytes(self) -> int:
        """Bytes of weights to read; at most as many are written."""
        return sum(tensor.nbytes for tensor in self.plan.stored.values())


def prepare(
    model: str | Path | ResolvedModel,
    drop_attn: str | Selection | PlanFile | None,
    *,
    variant: str = "identity",
    layout: str = "auto",
    revision: str | None = None,
    name: str | None = None,
    in_memory: bool = False,
    check_default: Callable[[Path], object] | None = None,
) -> Prepared:
    """Finds and checks the source and makes the plan. Reads no weights and writes nothing.

    **Arguments:** as for `export`; `drop_attn`: None: nothing is cut; `name`: the source's name in
    the manifest (default: the Hub id or the folder's name);
    `in_memory`: the edit is not written, so that the model keeps its type;
    `check_default`: gets the default output, once, before the weights of a Hub model are
    downloaded, and may raise.

    **Raises:** a `SurgeryError` for anything that would make the export fail.
    """
    downloads = False

    def check(config: dict[str, Any]) -> None:
        selection = select(drop_attn, variant, config)
        if check_default is not None:
            num_heads = family_of(config).dimensions(config).num_heads
            check_default(_name_output(str(model), selection, num_heads))

    def check_early(config: dict[str, Any]) -> None:
        nonlocal downloads
        downloads = True
        check(config)

    source = find_model(model, revision, check=check_early)
    if name is not None:
        source = replace(source, source=source.source.model_copy(update={"model": name}))
    folder = source.folder
    config = read_config(folder)
    check_config(config)  # before looking at any weights
    if not downloads:
        check(config)
    _check_beside(source.checkpoint)
    if isinstance(drop_attn, PlanFile):
        _check_planned_for(drop_attn, source, config)
        layout = drop_attn.layout if layout == "auto" else layout
    stored, earlier = source.checkpoint.tensors, source.manifest
    if drop_attn is None:
        plan = make_empty_plan(config, stored)
    else:
        plan = make_plan(
            config,
            stored,
            select(drop_attn, variant, config),
            layout=layout,
            earlier=earlier.edited_heads if earlier else None,
            alike=not in_memory,
        )
    return Prepared(source, plan, getattr(drop_attn, "chosen", None))


def select(
    drop_attn: str | Selection | PlanFile | None, variant: str, config: dict[str, Any]
) -> Selection:
    """What is cut in a model of a configuration."""
    if drop_attn is None:
        return ()
    size = family_of(config).dimensions(config)
    if isinstance(drop_attn, PlanFile):
        return drop_attn.make_selection(size.num_blocks, size.num_heads)
    return select_heads(drop_attn, variant, size)


def _check_beside(checkpoint: Checkpoint) -> None:
    """Raises `CheckpointError`, before any work, for files beside the weights that no result can
    hold."""
    check_tokenizer(checkpoint.folder)
    check_alone(checkpoint.folder)
    for path in checkpoint.sidecars.values():
        read_sidecar(path)


def _check_planned_for(choice: PlanFile, model: ResolvedModel, config: dict[str, Any]) -> None:
    """Raises `UnsupportedError` if a plan file was made neither for a model nor for one that it was
    made from."""
    if choice.model is None:
        return
    planned_for = choice.model.source
    size = choice.model.model_copy(update={"source": model.source})
    earlier = model.manifest.sources if model.manifest else []
    is_from = any(is_same(planned_for, source) for source in earlier)
    if size == EditedModel.of(model.source, config) and (is_from or model.is_that(planned_for)):
        return
    raise UnsupportedError(
        "the plan was made for another model",
        expected=choice.model,
        got=EditedModel.of(model.identified, config),
        fix="search on this model, or remove the key 'model' from the plan",
    )


def _name_output(model: str, selection: Selection, num_heads: int) -> Path:
    if not selection:
        return name_result(model, "trained")
    spec = format_selection(selection, num_heads)
    if len(spec) > _LONGEST_SPEC:
        spec = hashlib.sha256(spec.encode()).hexdigest()[:12]
    return name_result(model, f"{variant_name(selection)}-{spec}")


def list_variants(drop_attn: str | Selection | PlanFile | None, variant: str) -> set[str]:
    """Returns the variants of an edit. Needs no model."""
    if isinstance(drop_attn, str):
        return {variant}
    parts = drop_attn.edits if isinstance(drop_attn, PlanFile) else drop_attn
    return {part.variant for part in parts or ()}
