"""Edits a loaded model: for good (`apply`), or inside a `with` block (`short_circuit`)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device

from surgery.checkpoint.inventory import take_inventory
from surgery.checkpoint.tensors import Array
from surgery.checkpoint.torch_tensors import as_stored, as_torch
from surgery.editing.replacements import Replacements
from surgery.editing.rewriting import Fits, check_fitted, new_content
from surgery.errors import UnsupportedError
from surgery.families import config_saved_as, family_of
from surgery.modeling import MODULE
from surgery.plan import Heads, Plan, make_plan
from surgery.record.manifest import read_manifest
from surgery.selection import Selection


def apply(
    model: Any,
    drop_attn: str | Selection,
    variant: str = "identity",
    *,
    layout: str = "auto",
    fits: Fits | None = None,
) -> Any:
    """A new model with the chosen blocks attention-free; the given one is left unchanged.

    The new model shares every untouched tensor with the given one. It equals what `export` writes:
    `save_pretrained` of it gives a checkpoint of the same layout (without a manifest).

    **Arguments:** `model`: a loaded GPT-NeoX or GPT-Neo model with its language modeling head;
    `drop_attn`, `variant`, `layout`: as for `export`; `fits`: by block, for variants that are
    fitted (`surgery.fitting.fitter.Fitter`).

    **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    if any(parameter.is_meta for parameter in model.parameters()):
        raise UnsupportedError(
            "some of the model's weights are offloaded, and a new model cannot share them",
            fix="edit it for a while with short_circuit, export it, or load it whole",
        )
    edited = replacements(model, drop_attn, fits, variant=variant, layout=layout)
    dropped = set(edited.plan.dropped)
    state = {name: value for name, value in model.state_dict().items() if name not in dropped}
    return _rebuilt(model, edited.plan, {**state, **edited.tensors, **_beside(model, edited.plan)})


def _beside(model: Any, plan: Plan) -> dict[str, torch.Tensor]:
    """What the edit adds to blocks that it does not touch."""
    changes = [change for change in plan.changes if change.block not in plan.blocks]
    return {
        change.name: torch.full(change.shape, -0.0, dtype=model.dtype, device=model.device)
        for change in changes
    }


@contextmanager
def short_circuit(
    model: Any,
    drop_attn: str | Selection,
    variant: str = "identity",
    *,
    layout: str = "auto",
    fits: Fits | None = None,
) -> Iterator[Any]:
    """Makes blocks of a loaded model attention-free inside a `with` block, and restores it exactly.

    Inside, the model computes what the exported checkpoint computes, to the last bit. The key/value
    cache keeps its shape, so generation works. Do not save the model inside.

    **Arguments:** as for `apply`. **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    with replacements(model, drop_attn, fits, variant=variant, layout=layout).active():
        yield model


class Editable:
    """A loaded model that is checked once; plans each edit once and computes its tensors.

    **Arguments:** `stored_dtype`: the tag (F16, BF16, F32) of the checkpoint that an edit would be
    exported to, where the model is loaded in a wider dtype: new tensors are rounded to it, as in
    the export.

    `save_as`: another model type with the same tensors, which it would be exported as.

    **Raises:** `UnsupportedError`, `CheckpointError`.
    """

    def __init__(
        self, model: Any, *, stored_dtype: str | None = None, save_as: str | None = None
    ) -> None:
        config = model.config.to_dict()
        family_of(config)  # before any tensor is looked at
        self.model = model
        self._modules = dict(model.named_modules())  # a pass may number blocks otherwise
        stored = (as_stored(name, tensor) for name, tensor in model.state_dict().items())
        infos = {tensor.info.name: tensor.info for tensor in stored}
        self.inventory = take_inventory(config_saved_as(config, save_as), infos)
        self._earlier = _edited_before(model)
        self._tag = stored_dtype or self.inventory.dtype
        self._plans: dict[tuple[str | Selection, str, str], Plan | UnsupportedError] = {}

    def plan(
        self, drop_attn: str | Selection, variant: str = "identity", *, layout: str = "auto"
    ) -> Plan:
        """The plan of an edit. Raises `BlockSpecError`, `UnsupportedError`."""
        key = (drop_attn, variant, layout)
        if key not in self._plans:
            try:
                self._plans[key] = make_plan(
                    self.inventory,
                    drop_attn,
                    variant=variant,
                    layout=layout,
                    earlier=self._earlier,
                )
            except UnsupportedError as error:
                self._plans[key] = error
        found = self._plans[key]
        if isinstance(found, UnsupportedError):
            raise found
        return found

    def refusal(self, selection: Selection, *, layout: str = "auto") -> UnsupportedError | None:
        """Returns why an edit cannot be made; None if it can."""
        try:
            self.plan(selection, layout=layout)
        except UnsupportedError as error:
            return error
        return None

    def tensors(self, plan: Plan, block: int, fits: Fits) -> dict[str, torch.Tensor]:
        """Computes the new tensors of one block. They depend only on the edit of that block."""
        new: dict[str, torch.Tensor] = {}
        for change in plan.changes:
            if change.block == block and change.action != "drop":
                array = new_content(change, plan, self._read, fits, dtype=self._tag)
                owner, _, leaf = plan.family.name("output_weight", block).rpartition(".")
                beside = getattr(self._modules[owner], leaf)
                device = "cpu" if beside.is_meta else beside.device
                new[change.name] = as_torch(array, self._tag).to(device, beside.dtype)
        return new

    def replacements(self, plan: Plan, fits: Fits | None = None) -> Replacements:
        """All new tensors. Raises `UnsupportedError` where a fit is missing."""
        check_fitted(plan, fits or {})
        new = {block: self.tensors(plan, block, fits or {}) for block in plan.blocks}
        return Replacements(self.model, plan, plan.blocks, new.__getitem__)

    def _read(self, name: str) -> Array:
        """Reads a tensor of the model, even if it is offloaded."""
        owner, _, leaf = name.rpartition(".")
        module = self._modules[owner]
        with align_module_device(module):
            return as_stored(name, getattr(module, leaf)).array()


def replacements(
    model: Any,
    drop_attn: str | Selection,
    fits: Fits | None = None,
    *,
    variant: str = "identity",
    layout: str = "auto",
    stored_dtype: str | None = None,
) -> Replacements:
    """Plans an edit of a loaded model and computes its tensors. The model is left unchanged.

    **Arguments:** as for `apply`; `stored_dtype`: as for `Editable`.

    **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    editable = Editable(model, stored_dtype=stored_dtype)
    return editable.replacements(editable.plan(drop_attn, variant, layout=layout), fits)


def _edited_before(model: Any) -> Heads:
    """Heads that are edited in the folder that the model was loaded from."""
    name = getattr(model.config, "_name_or_path", None)
    manifest = read_manifest(Path(name)) if name else None
    return {} if manifest is None else manifest.edited_heads


def _rebuilt(model: Any, plan: Plan, state: dict[str, torch.Tensor]) -> Any:
    """A new module tree around existing tensors: no weight is copied or initialized."""
    if plan.layout.NAME == "compact":
        (architecture,) = plan.config["architectures"]
        cls = getattr(import_module(MODULE), architecture)
        config = cls.config_class(**plan.config)
        config._attn_implementation = model.config._attn_implementation
    else:
        cls, config = type(model), copy.deepcopy(model.config)
        for key, value in plan.config.items():
            if plan.inventory.config.get(key) != value:
                setattr(config, key, value)
    with torch.device("meta"):
        new = cls(config)
    new.load_state_dict(state, strict=True, assign=True)
    new.tie_weights()
    ours = dict(new.named_buffers())
    for name, buffer in model.named_buffers():
        if name in ours:
            owner, _, leaf = name.rpartition(".")
            setattr(new.get_submodule(owner), leaf, buffer)
    new.generation_config = copy.deepcopy(model.generation_config)
    return new.train(model.training)
