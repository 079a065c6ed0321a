"""GPT-NeoX (Pythia) and GPT-Neo models whose attention is gone from chosen blocks.

This file travels beside the checkpoints it loads and needs torch and transformers (>= 4.57, < 6)
only. `config.attention_free_blocks` maps a block's index, as a string, to what stands in place of
its attention. x [B, T, d] is what attention was given, y [B, T, d] what it would have given back:

    "affine"     y = W x + b    `affine.weight` [d, d] and `affine.bias` [d]
    "constant"   y = b          `affine.bias` [d]
    "none"       y = 0          no tensors

all under the name of the block's attention module. Such a block keeps no keys and values. The
library reads a cache's length off its first layer, so the blocks that do attend number their cache
layers 0, 1, … without gaps. Where no block attends, the first one keeps a 1 per token instead, so
that the cache still knows its length.
"""

# The library annotates few of its methods, and what it mixes in below is not known here.
# mypy: disable-error-code="no-untyped-call,misc,call-arg,attr-defined"

from __future__ import annotations

from typing import Any, ClassVar

import torch
import transformers
from torch import nn

if tuple(map(int, transformers.__version__.split(".")[:2])) < (4, 57):
    raise ImportError(
        "attention-free blocks need transformers 4.57 or newer "
        f"(got {transformers.__version__}); `pip install -U transformers`"
    )

KINDS = ("affine", "constant", "none")
CACHES = ("cache", "layer_past", "past_key_values", "past_key_value")  # by family and version


class AttentionFreeConfig:
    """Mixed into a family's configuration: it names the attention-free blocks.

    **Arguments:**

    - `attention_free_blocks`: block index (as a string) -> "affine", "constant" or "none".

    Everything else as in the library. Raises ValueError for an unknown block or kind.
    """

    num_hidden_layers: int
    tokenizer: ClassVar[str]  # what the library would find by the family's own model type

    def __init__(self, attention_free_blocks: dict[str, str] | None = None, **kwargs: Any) -> None:
        # A tokenizer that does not say its class is found by model type, which only the
        # library's own types have.
        kwargs.setdefault("tokenizer_class", self.tokenizer)
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

    @property
    def kv_sharing_modes(self) -> list[str | None]:
        """The same, as newer versions ask for it: what stands for each layer of the cache."""
        unused = self.num_kv_shared_layers
        return [None] * (self.num_hidden_layers - unused) + ["reuse"] * unused


class Constant(nn.Module):
    """y = b for every token: [B, T, d] -> [B, T, d]; without a size y = 0."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.bias = None if size is None else nn.Parameter(torch.zeros(size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x.new_zeros(1) if self.bias is None else self.bias).expand_as(x)


class PerToken(nn.Module):
    """Stands where attention stood: what a token adds to the residual depends on it alone."""

    def __init__(self, kind: str, size: int, attention: nn.Module) -> None:
        super().__init__()
        self.affine: nn.Module
        if kind == "affine":
            self.affine = nn.Linear(size, size)
        else:
            self.affine = Constant(size if kind == "constant" else None)
        # GPT-Neo drops out in the attention module, GPT-NeoX after it.
        self.resid_dropout = getattr(attention, "resid_dropout", None) or nn.Dropout(0.0)
        self.counts_tokens = False
        if hasattr(attention, "attention_type"):  # older blocks read this of their attention
            self.attention_type = attention.attention_type

    def forward(
        self,
        hidden_states: torch.Tensor,
        *_: Any,
        cache_position: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, None]:
        """[B, T, d] -> ([B, T, d], None): the output, and no attention weights."""
        cache = next((kwargs[name] for name in CACHES if kwargs.get(name) is not None), None)
        if self.counts_tokens and cache is not None:
            ones = hidden_states.new_ones(*self._shape(cache, hidden_states))
            # Only versions that hand out cache_position need it back, for static caches.
            where = () if cache_position is None else ({"cache_position": cache_position},)
            cache.update(ones, ones, 0, *where)
        return self.resid_dropout(self.affine(hidden_states)), None

    @staticmethod
    def _shape(cache: Any, hidden_states: torch.Tensor) -> tuple[int, int, int, int]:
        """Of what stands for keys and values: as small as can be, unless there is room already."""
        layers = getattr(cache, "layers", None)
        keys = getattr(layers[0], "keys", None) if layers else None
        rows, tokens = hidden_states.shape[:2]
        if keys is None or keys.ndim != 4 or not keys.shape[2]:
            return rows, 1, tokens, 1
        return rows, keys.shape[1], tokens, keys.shape[3]


class AttentionFree:
    """Mixed into both classes of a family, before the library's own."""

    # Masks and frequencies that older checkpoints store beside the attention that remains.
    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [
        r"\.attention\.(masked_)?bias$",
        r"\.rotary_emb\.inv_freq$",
    ]

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # Guessed from this file's source otherwise; the attention that remains is the library's.
        return bool(cls.__bases__[-1]._can_set_attn_implementation())


class AttentionFreeModel(AttentionFree):
    """Puts `PerToken` in place of attention in the configured blocks."""

    attention: ClassVar[str]  # name of a block's attention module
    cache_layer: ClassVar[str]  # its attribute that numbers its layer of the cache

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        kinds = config.kind_of_block()
        if not kinds:
            raise ValueError(
                "attention_free_blocks is empty: the model would be a plain "
                + type(self).__bases__[-1].__name__
            )
        names = [self.attention.format(block) for block in range(config.num_hidden_layers)]
        attending = 0
        for block, name in enumerate(names):
            attention = self.get_submodule(name)
            if block in kinds:
                owner, _, leaf = name.rpartition(".")
                replacement = PerToken(kinds[block], config.hidden_size, attention)
                setattr(self.get_submodule(owner), leaf, replacement)
            else:
                setattr(attention, self.cache_layer, attending)
                attending += 1
        if not attending:
            self.get_submodule(names[0]).counts_tokens = True
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Constant) and module.bias is not None:
            nn.init.zeros_(module.bias)


class AttentionFreeForCausalLM(AttentionFree):
    """The library's language modeling head around an `AttentionFreeModel`."""

    model_class: ClassVar[Any]

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        setattr(self, self.base_model_prefix, self.model_class(config))
        self.post_init()


class AttentionFreeGPTNeoXConfig(AttentionFreeConfig, transformers.GPTNeoXConfig):
    model_type = "attention_free_gpt_neox"
    tokenizer = "GPTNeoXTokenizerFast"
    __init__ = AttentionFreeConfig.__init__  # else newer versions generate one


class AttentionFreeGPTNeoXModel(AttentionFreeModel, transformers.GPTNeoXModel):
    config_class = AttentionFreeGPTNeoXConfig
    attention = "layers.{}.attention"
    cache_layer = "layer_idx"


class AttentionFreeGPTNeoXForCausalLM(AttentionFreeForCausalLM, transformers.GPTNeoXForCausalLM):
    config_class = AttentionFreeGPTNeoXConfig
    model_class = AttentionFreeGPTNeoXModel

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in the library. The head may be stored as embed_out or as lm_head."""
        # The library renames it for its own class only. These patterns hold no escapes, because
        # some versions turn them round, as plain text, when they save.
        if "lm_head.weight" in cls._tied_weights_keys:
            kwargs.setdefault("key_mapping", {"^embed_out": "lm_head"})
        else:
            kwargs.setdefault("key_mapping", {"^lm_head": "embed_out"})
        return super().from_pretrained(*args, **kwargs)


class AttentionFreeGPTNeoConfig(AttentionFreeConfig, transformers.GPTNeoConfig):
    model_type = "attention_free_gpt_neo"
    tokenizer = "GPT2TokenizerFast"
    __init__ = AttentionFreeConfig.__init__


class AttentionFreeGPTNeoModel(AttentionFreeModel, transformers.GPTNeoModel):
    config_class = AttentionFreeGPTNeoConfig
    attention = "h.{}.attn.attention"
    cache_layer = "layer_id"


class AttentionFreeGPTNeoForCausalLM(AttentionFreeForCausalLM, transformers.GPTNeoForCausalLM):
    config_class = AttentionFreeGPTNeoConfig
    model_class = AttentionFreeGPTNeoModel


# Saving a model then writes this file and the auto_map beside it.
for _config, _model, _head in (
    (
        AttentionFreeGPTNeoXConfig,
        AttentionFreeGPTNeoXModel,
        AttentionFreeGPTNeoXForCausalLM,
    ),
    (AttentionFreeGPTNeoConfig, AttentionFreeGPTNeoModel, AttentionFreeGPTNeoForCausalLM),
):
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    _head.register_for_auto_class("AutoModelForCausalLM")
