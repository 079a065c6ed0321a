"""Edits a loaded model: permanently (`apply`), or inside a `with` block (`short_circuit`)."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device

from surgery.checkpoint.inventory import take_inventory
from surgery.checkpoint.tensors import Array
from surgery.checkpoint.torch_tensors import as_stored, as_torch
from surgery.editing.replacements import Replacements
from surgery.editing.rewriting import Fits, check_fitted, compute_content
from surgery.errors import UnsupportedError
from surgery.families import config_saved_as, family_of
from surgery.modeling import load_class
from surgery.plan import Plan, make_plan
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
    """Returns a new model whose chosen blocks are attention-free. The given model does not change.

    The two share every untouched tensor. The new one equals what `export` writes: its
    `save_pretrained` gives a checkpoint of the same layout (without a manifest).

    **Arguments:** `model`: a loaded GPT-NeoX or GPT-Neo model with its language modeling head;
    `drop_attn`, `variant`, `layout`: as for `export`; `fits`: block → fit, for variants that
    are fitted (`surgery.fitting.fitter.Fitter`).

    **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    editable = Editable(model)
    return editable.apply(editable.plan(drop_attn, variant, layout=layout), fits)


@contextmanager
def short_circuit(
    model: Any,
    drop_attn: str | Selection,
    variant: str = "identity",
    *,
    layout: str = "auto",
    fits: Fits | None = None,
) -> Iterator[Any]:
    """Makes blocks of a loaded model attention-free inside a `with` block, then restores them.

    Inside, the model computes exactly what the exported checkpoint computes, bit for bit. The
    key/value cache keeps its shape, so generation works. Do not save the model inside.

    **Arguments:** as for `apply`. **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    with make_replacements(model, drop_attn, fits, variant=variant, layout=layout).activate():
        yield model


class Editable:
    """A loaded model, checked once. Plans each edit once and computes its tensors.

    **Arguments:** `stored_dtype`: the checkpoint's dtype (F16, BF16, F32) if the model is loaded in
    a wider one. New tensors are rounded to it, as in an export. `save_as`: another model type with
    the same tensors, which it would be exported as.

    **Raises:** `UnsupportedError`, `CheckpointError`.
    """

    def __init__(
        self, model: Any, *, stored_dtype: str | None = None, save_as: str | None = None
    ) -> None:
        config = model.config.to_dict()
        family_of(config)  # before looking at any tensor
        self.model = model
        self._modules = dict(model.named_modules())  # a pass may renumber blocks
        stored = (as_stored(name, tensor) for name, tensor in model.state_dict().items())
        infos = {tensor.info.name: tensor.info for tensor in stored}
        self.inventory = take_inventory(config_saved_as(config, save_as), infos)
        loaded_from = getattr(model.config, "_name_or_path", None)
        manifest = read_manifest(Path(loaded_from)) if loaded_from else None
        self._earlier = manifest.edited_heads if manifest else None
        self._tag = stored_dtype or self.inventory.dtype
        self._plans: dict[tuple[str | Selection, str, str], Plan] = {}

    def plan(
        self, drop_attn: str | Selection, variant: str = "identity", *, layout: str = "auto"
    ) -> Plan:
        """Plans an edit. Raises `BlockSpecError`, `UnsupportedError`."""
        key = (drop_attn, variant, layout)
        if key not in self._plans:
            self._plans[key] = make_plan(
                self.inventory, drop_attn, variant=variant, layout=layout, earlier=self._earlier
            )
        return self._plans[key]

    def find_refusal(
        self, selection: Selection, *, layout: str = "auto"
    ) -> UnsupportedError | None:
        """Returns why an edit is impossible; None if it is possible."""
        try:
            self.plan(selection, layout=layout)
        except UnsupportedError as error:
            return error
        return None

    def compute_tensors(self, plan: Plan, block: int, fits: Fits) -> dict[str, torch.Tensor]:
        """Computes the new tensors of one block, which depend only on that block's edit."""
        new: dict[str, torch.Tensor] = {}
        for change in plan.changes:
            if change.block == block and change.action != "drop":
                array = compute_content(change, plan, self._read, fits, dtype=self._tag)
                owner, _, leaf = plan.family.name("output_weight", block).rpartition(".")
                beside = getattr(self._modules[owner], leaf)
                device = "cpu" if beside.is_meta else beside.device
                new[change.name] = as_torch(array, self._tag).to(device, beside.dtype)
        return new

    def make_replacements(self, plan: Plan, fits: Fits | None = None) -> Replacements:
        """Computes all new tensors. Raises `UnsupportedError` if a fit is missing."""
        check_fitted(plan, fits or {})
        new = {block: self.compute_tensors(plan, block, fits or {}) for block in plan.blocks}
        return Replacements(self.model, plan, plan.blocks, new.__getitem__)

    def apply(self, plan: Plan, fits: Fits | None = None) -> Any:
        """Returns a new model with the edit, as `surgery.apply` does."""
        model = self.model
        if any(parameter.is_meta for parameter in model.parameters()):
            raise UnsupportedError(
                "some weights are offloaded, and a new model cannot share them",
                fix="use short_circuit, export the model, or load it without offloading",
            )
        check_fitted(plan, fits or {})
        state = {name: old for name, old in model.state_dict().items() if name not in plan.dropped}
        for block in {change.block for change in plan.changes}:
            state |= self.compute_tensors(plan, block, fits or {})
        return _rebuild(model, plan, state)

    def _read(self, name: str) -> Array:
        """Reads a tensor of the model, even if it is offloaded."""
        owner, _, leaf = name.rpartition(".")
        module = self._modules[owner]
        with align_module_device(module):
            return as_stored(name, getattr(module, leaf)).read_array()


def make_replacements(
    model: Any,
    drop_attn: str | Selection,
    fits: Fits | None = None,
    *,
    variant: str = "identity",
    layout: str = "auto",
    stored_dtype: str | None = None,
) -> Replacements:
    """Plans an edit of a loaded model and computes its tensors. The model does not change.

    Arguments and errors are those of `apply`; `stored_dtype`: as for `Editable`.
    """
    editable = Editable(model, stored_dtype=stored_dtype)
    return editable.make_replacements(editable.plan(drop_attn, variant, layout=layout), fits)


def _rebuild(model: Any, plan: Plan, state: dict[str, torch.Tensor]) -> Any:
    """Makes a new model of existing tensors, without copying or initializing a weight."""
    if plan.layout.NAME == "compact":
        (architecture,) = plan.config["architectures"]
        cls = load_class(architecture)
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
