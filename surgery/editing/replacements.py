"""Applies an edit to a loaded model for a while, and undoes it exactly."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from accelerate.utils import has_offloaded_params
from torch import nn
from torch.nn import functional

from surgery.plan import Plan

_CACHES = ("cache", "layer_past", "past_key_values", "past_key_value")
"""Names of the cache argument, by module and version of the library."""


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
        """As `activate`, but a block's new tensors exist only while a pass is in the block."""
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
        if self.plan.layout.NAME == "compact":
            module = around.get_submodule(self.plan.family.attention.rpartition(".")[2])
            before = module.__dict__.get("forward")  # set if a library has wrapped the module
            if before is None:
                undo.callback(delattr, module, "forward")
            else:
                undo.callback(setattr, module, "forward", before)
            module.forward = self._make_forward(module, block, tensors)
            return
        for name, tensor in tensors.items():
            owner, _, leaf = name.removeprefix(f"{path}.").rpartition(".")
            _replace_parameter(around.get_submodule(owner), leaf, tensor, undo)

    def _make_forward(
        self, module: nn.Module, block: int, tensors: Mapping[str, torch.Tensor]
    ) -> Callable[..., Any]:
        """Makes the forward function that replaces attention in the compact layout."""
        family, dimensions = self.plan.family, self.plan.inventory.dimensions
        layer = getattr(module, family.layer_index)
        weight = tensors.get(family.name("affine_weight", block))
        bias = tensors.get(family.name("affine_bias", block))
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
