"""GPT-Neo whose attention is gone from chosen blocks.

This file travels beside the checkpoints it loads and needs torch and transformers (>= 4.57, < 6)
only. `config.attention_free_blocks` maps a block's index, as a string, to what stands in place of
its attention. x [B, T, d] is the block's input after its layer norm, y [B, T, d] what is added to
the residual:

    "affine"     y = W x + b    `affine.weight` [d, d] and `affine.bias` [d]
    "constant"   y = b          `affine.bias` [d]
    "none"       y = 0          no tensors

all inside the block's `attn.attention`. Such a block keeps no keys and values. The library reads a
cache's length off its first layer, so the blocks that do attend number their cache layers 0, 1, …
without gaps. Where no block attends, the first one keeps a 1 per token instead, so that the cache
still knows its length.
"""

# The library annotates few of its methods.
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GPTNeoConfig, GPTNeoForCausalLM, GPTNeoModel

__all__ = [
    "AttentionFreeGPTNeoConfig",
    "AttentionFreeGPTNeoForCausalLM",
    "AttentionFreeGPTNeoModel",
]

KINDS = ("affine", "constant", "none")

# Masks that older checkpoints store beside the attention that remains.
MASKS = [r"\.attn\.attention\.bias$", r"\.attn\.attention\.masked_bias$"]


class AttentionFreeGPTNeoConfig(GPTNeoConfig):
    """A GPT-Neo configuration that names its attention-free blocks.

    **Arguments:**

    - `attention_free_blocks`: block index (as a string) -> "affine", "constant" or "none".

    Everything else as in `GPTNeoConfig`. Raises ValueError for an unknown block or kind.
    """

    model_type = "attention_free_gpt_neo"

    def __init__(self, attention_free_blocks: dict[str, str] | None = None, **kwargs: Any) -> None:
        # A tokenizer that does not say its class is found by model type, which only the
        # library's own types have.
        kwargs.setdefault("tokenizer_class", "GPT2TokenizerFast")
        super().__init__(**kwargs)
        self.attention_free_blocks = attention_free_blocks or {}
        self.kind_of_block()

    def kind_of_block(self) -> dict[int, str]:
        """`attention_free_blocks` with its keys as numbers, checked against the model's depth."""
        blocks = {str(block): kind for block, kind in self.attention_free_blocks.items()}
        for block, kind in blocks.items():
            if block not in map(str, range(self.num_hidden_layers)):
                raise ValueError(
                    f"attention_free_blocks: there is no block {block!r}; "
                    f"the model's blocks are 0 to {self.num_hidden_layers - 1}"
                )
            if kind not in KINDS:
                raise ValueError(
                    f"attention_free_blocks: block {block} has the unknown kind {kind!r}; "
                    f"known: {', '.join(KINDS)}"
                )
        return {int(block): kind for block, kind in blocks.items()}

    @property
    def num_kv_shared_layers(self) -> int:
        """How many of the last cache layers stay unused; the library then leaves them out."""
        unused: int = min(len(self.attention_free_blocks), self.num_hidden_layers - 1)
        if unused < 1:
            raise AttributeError("every cache layer is in use")  # the library asks with hasattr
        return unused


class Constant(nn.Module):
    """y = b for every token: [B, T, d] -> [B, T, d]."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.bias.expand_as(x)


class Nothing(nn.Module):
    """y = 0 for every token: [B, T, d] -> [B, T, d], a view of a single zero."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.new_zeros(1).expand_as(x)


class PerToken(nn.Module):
    """Stands where attention stood: what a token adds to the residual depends on it alone."""

    def __init__(self, kind: str, size: int, dropout: float) -> None:
        super().__init__()
        self.affine: nn.Module
        if kind == "affine":
            self.affine = nn.Linear(size, size)
        elif kind == "constant":
            self.affine = Constant(size)
        else:
            self.affine = Nothing()
        self.resid_dropout = nn.Dropout(float(dropout))
        self.counts_tokens = False

    def forward(
        self,
        hidden_states: torch.Tensor,
        layer_past: Any = None,
        cache_position: torch.Tensor | None = None,
        **_: Any,
    ) -> tuple[torch.Tensor, None]:
        """[B, T, d] -> ([B, T, d], None): the output, and no attention weights."""
        if self.counts_tokens and layer_past is not None:
            ones = hidden_states.new_ones(hidden_states.shape[0], 1, hidden_states.shape[1], 1)
            # Only versions that hand out cache_position need it back, for static caches.
            where = () if cache_position is None else ({"cache_position": cache_position},)
            layer_past.update(ones, ones, 0, *where)
        return self.resid_dropout(self.affine(hidden_states)), None


class AttentionFreeGPTNeoModel(GPTNeoModel):
    """`GPTNeoModel` with `PerToken` in place of attention in the configured blocks."""

    config_class = AttentionFreeGPTNeoConfig
    _keys_to_ignore_on_load_unexpected = MASKS

    def __init__(self, config: AttentionFreeGPTNeoConfig) -> None:
        super().__init__(config)
        kinds = config.kind_of_block()
        if not kinds:
            raise ValueError("attention_free_blocks is empty: the model would be a plain GPT-Neo")
        blocks: Any = self.h
        attending = 0
        for index, block in enumerate(blocks):
            if index in kinds:
                block.attn.attention = PerToken(
                    kinds[index], config.hidden_size, config.resid_dropout
                )
            else:
                block.attn.attention.layer_id = attending
                attending += 1
        if not attending:
            blocks[0].attn.attention.counts_tokens = True
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Constant):
            nn.init.zeros_(module.bias)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Guessed from this file's source otherwise; the attention that remains is the library's.
        return bool(GPTNeoModel._can_set_attn_implementation())


class AttentionFreeGPTNeoForCausalLM(GPTNeoForCausalLM):
    """`GPTNeoForCausalLM` around an `AttentionFreeGPTNeoModel`."""

    config_class = AttentionFreeGPTNeoConfig
    _keys_to_ignore_on_load_unexpected = MASKS

    def __init__(self, config: AttentionFreeGPTNeoConfig) -> None:
        super().__init__(config)
        self.transformer = AttentionFreeGPTNeoModel(config)
        self.post_init()

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Guessed from this file's source otherwise; the attention that remains is the library's.
        return bool(GPTNeoModel._can_set_attn_implementation())


# Saving a model then writes this file and the auto_map beside it.
AttentionFreeGPTNeoConfig.register_for_auto_class()
AttentionFreeGPTNeoModel.register_for_auto_class("AutoModel")
AttentionFreeGPTNeoForCausalLM.register_for_auto_class("AutoModelForCausalLM")
