"""Puts other weights into a model for a while, and attention back where an edit took it out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import transformers
from accelerate import init_empty_weights
from torch import nn

from surgery.families import family_of
from surgery.in_memory import tie_alike


@contextmanager
def put_weights(model: nn.Module, new: Mapping[str, nn.Parameter]) -> Iterator[None]:
    """Gives parameters of a model other content inside a `with` block, and restores them."""
    with ExitStack() as undo:
        for name, parameter in new.items():
            owner, _, leaf = name.rpartition(".")
            module = model.get_submodule(owner)
            undo.callback(setattr, module, leaf, getattr(module, leaf))
            setattr(module, leaf, parameter)
        yield


def list_attention(model: Any, blocks: Iterable[int]) -> list[str]:
    """The names of the parameters of attention in these blocks."""
    return _list_within(model, family_of(model.config.to_dict()).attention, blocks)


def list_blocks(model: Any, blocks: Iterable[int]) -> list[str]:
    """The names of all parameters of these blocks."""
    before = family_of(model.config.to_dict()).attention.partition("{block}")[0]
    return _list_within(model, before + "{block}", blocks)


def _list_within(model: Any, template: str, blocks: Iterable[int]) -> list[str]:
    within = tuple(template.format(block=block) + "." for block in blocks)
    return [name for name, _ in model.named_parameters() if name.startswith(within)]


def restore_modules(model: Any) -> Any:
    """The model with an attention module in every block: itself, unless it is compact.

    A compact one becomes the library's class, and shares every tensor that it keeps. Attention that
    was gone has weights of zero; its output bias, where there is one, adds the constant that the
    block added.
    """
    config = model.config.to_dict()
    family = family_of(config)
    gone = config.pop("attention_free_blocks", None)
    if not gone:
        return model
    config |= {"model_type": family.model_type, "architectures": [family.architecture]}
    config.pop("auto_map", None)
    cls: Any = getattr(transformers, family.architecture)
    made = cls.config_class(**config)
    made._attn_implementation = model.config._attn_implementation
    with init_empty_weights(include_buffers=False):
        new = cls(made)
    old, beside = model.state_dict(), next(model.parameters())
    state = {
        name: old.get(name, torch.zeros(empty.shape, dtype=beside.dtype, device=beside.device))
        for name, empty in new.state_dict().items()
    }
    for block in map(int, gone):
        constant = old.get(f"{family.attention.format(block=block)}.affine.bias")
        name = family.name(block, "output", "bias")
        if constant is not None and name in state:
            state[name] = constant
    new.load_state_dict(state, strict=True, assign=True)
    tie_alike(new, model)
    kept = dict(model.named_buffers())
    for name, buffer in list(new.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(new.get_submodule(owner), leaf, kept.get(name, buffer.to(beside.device)))
    return new.eval()
