"""What every block's attention reads and gives while a model runs, and what it would give alone.

Shape letters: B rows, T tokens, H heads, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from transformers import PreTrainedModel

from surgery.errors import UnsupportedError
from surgery.families import Family, family_of
from surgery.fitting.some_blocks import layers_of


@dataclass(frozen=True)
class AttentionView:
    """One block's attention in one pass, in the model's dtype.

    - `residual` [B, T, d]: the block's input, before its layer norm.
    - `inputs` [B, T, d]: x, what attention reads: the residual after the layer norm.
    - `pattern` [B, H, T, T]: a, the weights. Row i holds how token i attends; it sums to 1, and is
      0 for later tokens and outside the window of a local block.
    - `output` [B, T, d]: W_O z + b_O, what attention adds to the residual.
    - `alone` [B, T, d]: the same where every token attends to itself alone, the `identity` variant.
    """

    block: int
    residual: torch.Tensor
    inputs: torch.Tensor
    pattern: torch.Tensor
    output: torch.Tensor
    alone: torch.Tensor


def attending_family(model: PreTrainedModel) -> Family:
    """The model's family. Raises `UnsupportedError` for an architecture that is not supported, and
    for a compact checkpoint, whose edited blocks have no attention left."""
    config = model.config.to_dict()
    family = family_of(config)
    if config["model_type"] != family.model_type:
        raise UnsupportedError(
            "a compact checkpoint has blocks without attention, so there are no weights to look at",
            where=config["model_type"],
            expected=family.model_type,
            fix="use the model it was made from",
        )
    return family


@contextmanager
def eager_attention(model: PreTrainedModel) -> Iterator[None]:
    """Attention in its plain implementation, the one that has weights to show, for a while."""
    before = model.config._attn_implementation
    if before == "eager":
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


@contextmanager
def watch_attention(model: PreTrainedModel, see: Callable[[AttentionView], None]) -> Iterator[None]:
    """Calls `see` at every block of every pass without a cache that is made inside.

    Only one block's weights exist at a time. The model should be in eval mode; it is left as it
    was. Raises `UnsupportedError` as `attending_family` does.
    """
    family = attending_family(model)
    residuals: dict[int, torch.Tensor] = {}

    def enter(block: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residuals[block] = args[0] if args else kwargs["hidden_states"]

    def leave(
        block: int, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any
    ) -> None:
        x_BTd = args[0] if args else kwargs["hidden_states"]
        alone_BTd = _alone(module, x_BTd, kwargs)
        see(AttentionView(block, residuals.pop(block), x_BTd, out[1], out[0], alone_BTd))

    with ExitStack() as hooks, eager_attention(model):
        for block, whole in enumerate(layers_of(model)):
            attention = model.get_submodule(family.attention.format(block=block))
            for handle in (
                whole.register_forward_pre_hook(partial(enter, block), with_kwargs=True),
                attention.register_forward_hook(partial(leave, block), with_kwargs=True),
            ):
                hooks.callback(handle.remove)
        yield


def _alone(module: Any, x_BTd: torch.Tensor, kwargs: dict[str, Any]) -> torch.Tensor:
    """The module's own answer to each token as a text of its own, which can attend to itself only.

    The first position's rotation serves for all: it turns query and key alike, and the softmax of
    one score is 1 whatever the score.
    """
    alone = x_BTd.reshape(-1, 1, x_BTd.shape[-1])
    more = {}
    if "position_embeddings" in kwargs:
        more["position_embeddings"] = tuple(p[:1, :1] for p in kwargs["position_embeddings"])
    # `forward` and not the module itself, whose hook is running
    output: torch.Tensor = module.forward(alone, attention_mask=None, **more)[0]
    return output.reshape(x_BTd.shape)
