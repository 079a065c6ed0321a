"""Edits a loaded model: permanently (`apply`), or for a while (`short_circuit`, `Replacements`)."""

from __future__ import annotations

import copy
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import align_module_device, has_offloaded_params
from torch import nn
from torch.nn import functional

from surgery.compact import name_classes
from surgery.errors import UnsupportedError
from surgery.families import family_of
from surgery.onehot import placed
from surgery.plan import Fits, Plan, check_fitted, make_plan
from surgery.record.manifest import read_manifest
from surgery.selection import Selection
from surgery.tensors import FLOATS, Bits, Tensor
from surgery.torch_tensors import DTYPES, TAGS, as_bits, as_torch

_CACHES = ("cache", "layer_past", "past_key_values", "past_key_value")
"""Names of the cache argument, by module and version of the library."""


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

    **Arguments:** `model`: a loaded model of a supported family, with its language modeling head;
    `drop_attn`, `variant`, `layout`: as for `export`; `fits`: block → fit, for variants that
    are fitted (`surgery.fitting.fitter.Fitter`).
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

    **Arguments:** as for `apply`.
    """
    editable = Editable(model)
    plan = editable.plan(drop_attn, variant, layout=layout)
    with editable.make_replacements(plan, fits).activate():
        yield model


class Editable:
    """A loaded model, checked once. Plans each edit once and computes its tensors.

    **Arguments:** `stored_dtype`: the checkpoint's dtype (F16, BF16, F32) if the model is loaded in
    a wider one. New tensors are rounded to it, as in an export. `alike`: as for `make_plan`; such
    an edit can be activated, and not applied.
    """

    def __init__(self, model: Any, *, stored_dtype: str | None = None, alike: bool = False) -> None:
        self.config = model.config.to_dict()
        family_of(self.config)  # before looking at any tensor
        self.model, self._alike, self._stored_dtype = model, alike, stored_dtype
        self._modules = dict(model.named_modules())  # a pass may renumber blocks
        self.stored = {
            name: Tensor(name, self._tag(tensor), tuple(tensor.shape))
            for name, tensor in model.state_dict().items()
        }
        loaded_from = getattr(model.config, "_name_or_path", None)
        manifest = read_manifest(Path(loaded_from)) if loaded_from else None
        self._earlier = manifest.edited_heads if manifest else None
        self._plans: dict[tuple[str | Selection, str, str], Plan] = {}

    def _tag(self, tensor: torch.Tensor) -> str:
        tag = TAGS[tensor.dtype]
        return self._stored_dtype or tag if tag in FLOATS else tag

    def plan(
        self, drop_attn: str | Selection, variant: str = "identity", *, layout: str = "auto"
    ) -> Plan:
        """Plans an edit."""
        key = (drop_attn, variant, layout)
        if key not in self._plans:
            self._plans[key] = make_plan(
                self.config,
                self.stored,
                drop_attn,
                variant=variant,
                layout=layout,
                earlier=self._earlier,
                alike=self._alike,
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
        owner, _, leaf = plan.family.name(block, "output").rpartition(".")
        beside = getattr(self._modules[owner], leaf)
        device = "cpu" if beside.is_meta else beside.device
        return {
            name: as_torch(plan.make(name, self._read, fits), edit.tensor.dtype).to(
                device, beside.dtype
            )
            for name, edit in plan.edits.items()
            if edit.block == block
        }

    def make_replacements(self, plan: Plan, fits: Fits | None = None) -> Replacements:
        """Computes all new tensors."""
        check_fitted(plan, fits or {})
        new = {block: self.compute_tensors(plan, block, fits or {}) for block in plan.blocks}
        return Replacements(self.model, plan, plan.blocks, new.__getitem__)

    def find_obstacle(self) -> str | None:
        """Returns why no new model can be made with an edit; None if one can be."""
        if any(parameter.is_meta for parameter in self.model.parameters()):
            return "some weights are offloaded, and a new model cannot share them"
        if len(set((getattr(self.model, "hf_device_map", None) or {}).values())) > 1:
            return "the model is spread over several devices, and a new one cannot be"
        return None

    def apply(self, plan: Plan, fits: Fits | None = None) -> Any:
        """Returns a new model with the edit, as `surgery.apply` does."""
        if (why := self.find_obstacle()) is not None:
            fix = "use short_circuit, export the model, or load all of it on one device"
            raise UnsupportedError(why, fix=fix)
        check_fitted(plan, fits or {})
        old = self.model.state_dict()
        state = {name: tensor for name, tensor in old.items() if name not in plan.dropped}
        for block in {edit.block for edit in plan.edits.values()}:
            state |= self.compute_tensors(plan, block, fits or {})
        return _rebuild(self.model, plan, state)

    def _read(self, name: str) -> Bits:
        """A copy of a tensor of the model, even if it is offloaded, as it is stored."""
        owner, _, leaf = name.rpartition(".")
        module = self._modules[owner]
        with align_module_device(module):
            tensor = getattr(module, leaf).detach()
            return as_bits(tensor.to(DTYPES[self.stored[name].dtype], copy=True))


def tie_alike(new: Any, model: Any) -> None:
    """Ties the head of a model made anew to its embedding, in place, if those of `model` are tied.

    A head of its own would be lost, whatever the configuration says.
    """
    head = model.get_output_embeddings()
    if head is not None and head.weight is model.get_input_embeddings().weight:
        new.tie_weights()


def _rebuild(model: Any, plan: Plan, state: dict[str, torch.Tensor]) -> Any:
    """Makes a new model of existing tensors, without copying or initializing a weight."""
    if plan.layout == "compact":
        from surgery import modeling_attention_free as modeling

        cls = getattr(modeling, name_classes(plan.family)["AutoModelForCausalLM"])
        config = cls.config_class(**plan.config)
        config._attn_implementation = model.config._attn_implementation
    else:
        cls, config = type(model), copy.deepcopy(model.config)
        for key, value in plan.config.items():
            if plan.source.get(key) != value:
                setattr(config, key, value)
    with torch.device("meta"):
        new = cls(config)
    new.load_state_dict(state, strict=True, assign=True)
    tie_alike(new, model)
    ours = dict(new.named_buffers())
    for name, buffer in model.named_buffers():
        if name in ours:
            owner, _, leaf = name.rpartition(".")
            setattr(new.get_submodule(owner), leaf, buffer)
    _take_plain_tensors(model, new)
    new.generation_config = copy.deepcopy(model.generation_config)
    return new.train(model.training)


def _take_plain_tensors(model: Any, new: Any) -> None:
    """Takes tensors that are neither weights nor buffers: frequencies, in older versions."""
    ours = dict(new.named_modules())
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            made = vars(ours[name]).get(key) if name in ours else None
            if isinstance(value, torch.Tensor) and isinstance(made, torch.Tensor) and made.is_meta:
                setattr(ours[name], key, value)


@dataclass(frozen=True)
class Replacements:
    """An edit of a loaded model that is not applied yet: new tensors by name, block by block."""

    model: Any
    plan: Plan
    blocks: tuple[int, ...]
    tensors_of: Callable[[int], Mapping[str, torch.Tensor]]

    @contextmanager
    def activate(self) -> Iterator[None]:
        """Applies the edit inside a `with` block, and restores the model after it."""
        with ExitStack() as undo:
            for block in self.blocks:
                self._put(block, *self._find_parent(block), undo)
            yield

    @contextmanager
    def activate_in_turn(self) -> Iterator[None]:
        """Does what `activate` does, but a block's new tensors exist only while a pass is in it."""
        with ExitStack() as undo, ExitStack() as hooks:

            def leave(*_: Any) -> None:
                undo.pop_all().close()

            for block in self.blocks:
                path, around = self._find_parent(block)  # a pass may renumber blocks

                def enter(module: nn.Module, _: Any, block: int = block, path: str = path) -> None:
                    self._put(block, path, module, undo)

                hooks.enter_context(around.register_forward_pre_hook(enter))
                hooks.enter_context(around.register_forward_hook(leave))
            yield

    def _find_parent(self, block: int) -> tuple[str, nn.Module]:
        """Returns the name and module of the parent of a block's attention."""
        path = self.plan.family.attention.format(block=block).rpartition(".")[0]
        return path, self.model.get_submodule(path)

    def _put(self, block: int, path: str, around: nn.Module, undo: ExitStack) -> None:
        tensors = self.tensors_of(block)
        module = around.get_submodule(self.plan.family.attention.rpartition(".")[2])
        if self.plan.layout == "compact":
            before = module.__dict__.get("forward")  # set if a library has wrapped the module
            if before is None:
                undo.callback(delattr, module, "forward")
            else:
                undo.callback(setattr, module, "forward", before)
            module.forward = self._make_forward(module, block, tensors)
            return
        entries = placed(self.plan.config, self.plan.family)
        if entries is not None:
            undo.callback(setattr, module, "use_rope", module.use_rope)
            setattr(module, "use_rope", entries[block])  # noqa: B010 - mypy takes it for a module
        for name, tensor in tensors.items():
            owner, _, leaf = name.removeprefix(f"{path}.").rpartition(".")
            _replace_parameter(around.get_submodule(owner), leaf, tensor, undo)

    def _make_forward(
        self, module: nn.Module, block: int, tensors: Mapping[str, torch.Tensor]
    ) -> Callable[..., Any]:
        """Makes the forward function that replaces attention in the compact layout."""
        family, dimensions = self.plan.family, self.plan.dimensions
        layer = getattr(module, family.layer_index)
        where = family.attention.format(block=block)
        weight, bias = (tensors.get(f"{where}.affine.{what}") for what in ("weight", "bias"))
        groups, size = dimensions.num_groups, dimensions.head_size

        def forward(hidden_states: torch.Tensor, *_: Any, **kwargs: Any) -> tuple[Any, None]:
            x_BTd = hidden_states
            cache = next((kwargs[name] for name in _CACHES if kwargs.get(name) is not None), None)
            if cache is not None:  # only its length is used
                zeros_BGTh = x_BTd.new_zeros(len(x_BTd), groups, x_BTd.shape[1], size)
                cache.update(zeros_BGTh, zeros_BGTh, layer)
            here = x_BTd.device  # the tensors of an offloaded model wait on the CPU
            c_d = None if bias is None else bias.to(here)
            if weight is not None:
                return functional.linear(x_BTd, weight.to(here), c_d), None
            return (x_BTd.new_zeros(1) if c_d is None else c_d).expand_as(x_BTd), None

        return forward


def _replace_parameter(module: nn.Module, leaf: str, tensor: torch.Tensor, undo: ExitStack) -> None:
    before = getattr(module, leaf)  # None: an optional bias that this model lacks
    if has_offloaded_params(module):  # its hook loads the weights from this map
        hook: Any = module._hf_hook
        undo.callback(setattr, hook, "weights_map", hook.weights_map)
        hook.weights_map = ChainMap({leaf: tensor}, hook.weights_map)
        if before is not None:
            return
        tensor = tensor.to("meta")
    undo.callback(setattr, module, leaf, before)
    setattr(module, leaf, nn.Parameter(tensor, requires_grad=False))
