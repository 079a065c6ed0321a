"""The same surgery on a loaded model: for good (`apply`), or for a while (`short_circuit`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from surgery.blocks import parse_blocks
from surgery.checkpoint.tensors import DTYPES
from surgery.checkpoint.torch_tensors import as_stored, as_torch
from surgery.families import family_of
from surgery.inventory import take_inventory
from surgery.layouts import Block
from surgery.modeling.files import MODELING_FILES
from surgery.plan import Plan, make_plan
from surgery.variants import Affine, Variant, variant_of


def apply(model: Any, drop_attn: str, variant: str = "identity", *, layout: str = "auto") -> Any:
    """A new model with the chosen blocks attention-free; the given one is left unchanged.

    The new model shares every untouched tensor with the given one. It equals what `export` writes:
    `save_pretrained` of it gives a checkpoint of the same layout (without a manifest).

    **Arguments:** `model`: a loaded GPT-NeoX or GPT-Neo model with its language modeling head;
    `drop_attn`, `variant`, `layout`: as for `export`.

    **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    config = model.config.to_dict()
    family_of(config)
    stored = {name: as_stored(name, tensor) for name, tensor in model.state_dict().items()}
    inventory = take_inventory(config, {name: tensor.info for name, tensor in stored.items()})
    plan = make_plan(inventory, drop_attn, variant=variant, layout=layout)
    state = {k: v for k, v in model.state_dict().items() if k not in set(plan.dropped)}
    for change in plan.changes:
        if change.action != "drop":
            array = plan.compute(change, lambda name: stored[name].array())
            new = as_torch(array.astype(DTYPES[inventory.dtype], copy=False), inventory.dtype)
            state[change.name] = new.to(_device(model, plan, change.block))
    return _rebuilt(model, plan, state)


@contextmanager
def short_circuit(model: Any, drop_attn: str, variant: str = "identity") -> Iterator[Any]:
    """Makes blocks of a loaded model attention-free inside a `with` block, and restores it exactly.

    No weight is touched: the attention modules' `forward` is replaced by W_O (M x + c) + b_O,
    computed from their own weights, and put back at the end, also after an exception. The
    key/value cache keeps its shape, so generation works inside the block. Do not save the model
    inside: what would be saved is the unedited model.

    **Raises:** `BlockSpecError`, `UnsupportedError`.
    """
    config = model.config.to_dict()
    family = family_of(config)
    dimensions = family.dimensions(config)
    chosen = variant_of(variant)
    state = dict(model.named_parameters())
    restore: list[Callable[[], None]] = []
    try:
        for index in parse_blocks(drop_attn, dimensions.num_blocks):
            block = Block(family, dimensions, index, frozenset(state), state.__getitem__)
            module = model.get_submodule(family.attention.format(block=index))
            restore.append(_replace_forward(module, _affine_forward(module, block, chosen)))
        yield model
    finally:
        for undo in restore:
            undo()


def _affine_forward(module: nn.Module, block: Block, variant: Variant) -> Callable[..., Any]:
    heads, size = block.dimensions.num_heads, block.dimensions.head_size
    layer = getattr(module, "layer_idx", getattr(module, "layer_id", None))
    values: Any = block.values()  # torch tensors here, seen through the same per-head views
    affine: Affine[torch.Tensor] = variant.affine(values)
    context = _context_map(block, affine)
    output_weight: Any = block.read("output_weight")
    biased = affine.keep_output_bias and block.has("output_bias")
    output_bias: Any = block.read("output_bias") if biased else None

    def forward(x_BTd: torch.Tensor, *args: Any, **kwargs: Any) -> tuple[torch.Tensor, None]:
        z_BTd = context(x_BTd)
        cache = kwargs.get("layer_past")
        if cache is not None:  # keeps its length right; nothing ever reads the content
            z_BHTh = z_BTd.reshape(*z_BTd.shape[:2], heads, size).transpose(1, 2)
            cache.update(z_BHTh, z_BHTh, layer)
        return functional.linear(z_BTd, output_weight, output_bias), None

    return forward


def _context_map(
    block: Block, affine: Affine[torch.Tensor]
) -> Callable[[torch.Tensor], torch.Tensor]:
    """x [B, T, d] → the heads' context vectors M x + c, side by side [B, T, d].

    A fused projection keeps its width of 3 d, so that the sums run in the order of the stock layout
    and the result is the same bit for bit.
    """
    heads, size, d = block.dimensions.num_heads, block.dimensions.head_size, block.dimensions.d
    if affine.weight is None:
        constant = None if affine.bias is None else affine.bias.reshape(d)
        return lambda x: torch.zeros_like(x) if constant is None else constant.expand_as(x)
    if not block.family.fused:
        weight, bias = affine.weight.reshape(d, d), affine.bias
        return lambda x: functional.linear(x, weight, None if bias is None else bias.reshape(d))
    fused_weight = affine.weight.new_zeros(heads, 3, size, d)
    fused_weight[:, 2] = affine.weight
    fused_weight = fused_weight.reshape(3 * d, d)
    fused_bias = affine.weight.new_zeros(heads, 3, size)
    fused_bias[:, 2] = 0 if affine.bias is None else affine.bias
    fused_bias = fused_bias.reshape(3 * d)

    def context(x_BTd: torch.Tensor) -> torch.Tensor:
        qkv_BTHh = functional.linear(x_BTd, fused_weight, fused_bias)
        per_head = qkv_BTHh.view(*x_BTd.shape[:2], heads, 3, size)
        return per_head[..., 2, :].reshape(*x_BTd.shape[:2], d)

    return context


def _replace_forward(module: nn.Module, forward: Callable[..., Any]) -> Callable[[], None]:
    before = module.__dict__.get("forward")  # set where a library has wrapped the module already
    module.forward = forward

    def undo() -> None:
        if before is None:
            del module.__dict__["forward"]
        else:
            module.forward = before

    return undo


def _rebuilt(model: Any, plan: Plan, state: dict[str, torch.Tensor]) -> Any:
    """A new module tree around existing tensors: no weight is copied or initialized."""
    if plan.layout.NAME == "compact":
        file = MODELING_FILES[plan.family.model_type]
        cls = getattr(import_module(file.module), file.architecture)
        config = cls.config_class(**plan.config)
        config._attn_implementation = model.config._attn_implementation
    else:
        cls, config = type(model), copy.deepcopy(model.config)
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


def _device(model: Any, plan: Plan, block: int) -> torch.device:
    weight = model.get_parameter(plan.family.name("output_weight", block))
    device: torch.device = weight.device
    return device
