"""Where attention is in each architecture, and nothing else: all other tensors are copied unread.

A new family is one record in `_ALL`.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from surgery.errors import CheckpointError, UnsupportedError, find_near

Projection = Literal["query", "key", "value", "output"]
What = Literal["weight", "bias"]
PROJECTIONS: tuple[Projection, ...] = ("query", "key", "value", "output")
_MOST_BLOCKS = 10_000


@dataclass(frozen=True)
class Dimensions:
    """The sizes of one model.

    `d`: model width. `num_groups`: key/value heads, each shared by as many query heads.
    """

    num_blocks: int
    num_heads: int
    d: int
    vocabulary: int
    max_positions: int
    num_groups: int
    head_size: int

    @property
    def heads_per_group(self) -> int:
        return self.num_heads // self.num_groups

    @property
    def context(self) -> int:
        """The width of the context vectors of all heads, side by side."""
        return self.num_heads * self.head_size


@dataclass(frozen=True)
class Family:
    """Where the attention of a model type is, and what a key of config.json adds to it.

    - `attention`: the module's name; `modules`: those of its projections within it. Where three of
      them are one, it is `fused`: rows lie head by head (query, key, and value of each), or part by
      part (all queries, all keys, all values).
    - `switches`: key → the projections that it gives biases; `on`: those of them that are on unless
      config.json says otherwise.
    - `norms`: whether queries and keys are normalized, each head alone or all together; `gain`:
      what the library adds to the stored gain of a norm; `sinks`: whether scores that take weight
      from all tokens are stored.
    - `rotary`: whether positions are rotary. `share`: of a head's dimensions that are rotated;
      `base`: of the frequencies; `share_key`, `base_key`: their keys. `adjacent`: pair m is
      dimensions 2m and 2m + 1, not m and m + half. `scaled`: how positions are scaled unless
      config.json says. `full_every`: every so many blocks attend fully, the others within a window,
      and may have a base of their own (`sliding_base`: its key and default). `unplaced`: whether
      some blocks have no positions (`no_rope_layers`).
    - `scale`: the key, default, and power of what scores are multiplied by, if it is not 1 / root
      of the head size. `cap`: the key of a bound that scores are bent to; `clip`: of one that
      queries, keys, and values are clipped to.
    - `keys`: field of `Dimensions` → its key in config.json; `head_size`: where config.json gives
      none (0: width / heads).
    - `needs`: keys that can be edited with one value only, which is the library's default.
    - `alike`: the model type with the same tensors whose class loads biases as well, unless the
      model attends within a `sliding_window`.
    - `layer_index`: the attribute of the attention module that numbers its layer of the cache.
    """

    model_type: str
    architecture: str
    attention: str = "model.layers.{block}.self_attn"
    modules: Mapping[Projection, str] = field(
        default_factory=lambda: {part: f"{part[0]}_proj" for part in PROJECTIONS}
    )
    fused: Literal["by head", "by part"] | None = None
    switches: Mapping[str, tuple[Projection, ...]] = field(default_factory=dict)
    on: tuple[str, ...] = ()
    norms: Literal["head", "all"] | None = None
    gain: float = 0.0
    sinks: bool = False
    rotary: bool = True
    share: float = 1.0
    base: float = 10_000
    share_key: str = "partial_rotary_factor"
    base_key: str = "rope_theta"
    adjacent: bool = False
    scaled: Mapping[str, Any] = field(default_factory=dict)
    full_every: int = 0
    sliding_base: tuple[str, float] | None = None
    unplaced: bool = False
    scale: tuple[str, float, float] | None = None
    cap: str | None = None
    clip: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    head_size: int = 0
    needs: Mapping[str, Any] = field(default_factory=dict)
    alike: str | None = None
    layer_index: str = "layer_idx"

    @property
    def compact_model_type(self) -> str:
        """The model type of its compact checkpoints, so that no other class can load them."""
        return f"attention_free_{self.model_type}"

    @cached_property
    def switch_of(self) -> dict[Projection, str]:
        """Projection → the key of config.json that gives it a bias."""
        return {part: key for key, parts in self.switches.items() for part in parts}

    def is_on(self, key: str, config: Mapping[str, Any]) -> bool:
        """Whether a key of config.json gives biases."""
        return bool(config.get(key, key in self.on))

    def name(self, block: int, projection: Projection, what: What = "weight") -> str:
        """The stored name of the tensor that holds a projection, alone or fused."""
        return f"{self.attention.format(block=block)}.{self.modules[projection]}.{what}"

    def reading(self, block: int) -> tuple[str, str]:
        """The modules of a block that read x, what attention is given, and z, what it makes."""
        x, z = (self.name(block, p).removesuffix(".weight") for p in ("value", "output"))
        return x, z

    def attending(self, modules: Container[str], num_blocks: int) -> tuple[int, ...]:
        """The blocks that have an attention module; edited ones of a compact model have others."""
        return tuple(b for b in range(num_blocks) if self.reading(b)[1] in modules)

    def dimensions(self, config: Mapping[str, Any]) -> Dimensions:
        """Sizes from a parsed config.json."""
        heads, d = self._read(config, "num_heads"), self._read(config, "d")
        size = self._read(config, "head_size", self.head_size)
        if not size and d % heads:
            raise _wrong("hidden_size is not a multiple of the number of heads", f"{d} and {heads}")
        groups = self._read(config, "num_groups", heads)
        if heads % groups:
            what = "the number of heads is not a multiple of the number of key/value heads"
            raise _wrong(what, f"{heads} and {groups}")
        blocks = self._read(config, "num_blocks")
        if blocks > _MOST_BLOCKS:
            raise _wrong("more blocks than any model has", f"{blocks:,}")
        return Dimensions(
            num_blocks=blocks,
            num_heads=heads,
            d=d,
            vocabulary=self._read(config, "vocabulary"),
            max_positions=self._read(config, "max_positions"),
            num_groups=groups,
            head_size=size or d // heads,
        )

    def _read(self, config: Mapping[str, Any], name: str, default: int | None = None) -> int:
        key = self.keys.get(name, _KEYS[name])
        value = config.get(key)
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 1:
            raise _wrong(f"{key!r} is not a positive whole number", value)
        return value


def _wrong(what: str, got: object) -> CheckpointError:
    return CheckpointError(what, where="config.json", got=got)


_KEYS = {
    "num_blocks": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d": "hidden_size",
    "vocabulary": "vocab_size",
    "max_positions": "max_position_embeddings",
    "num_groups": "num_key_value_heads",
    "head_size": "head_dim",
}
_ALL_BIASED: Mapping[str, tuple[Projection, ...]] = {"attention_bias": PROJECTIONS}
_FUSED: dict[Projection, str] = dict.fromkeys(("query", "key", "value"), "qkv_proj")
_DENSE: dict[Projection, str] = {
    **{part: f"{part[0]}_proj" for part in PROJECTIONS},
    "output": "dense",
}
_GEMMA: dict[str, Any] = {
    "switches": _ALL_BIASED,
    "gain": 1.0,
    "head_size": 256,
    "needs": {"use_bidirectional_attention": False},
}
_SCALAR = ("query_pre_attn_scalar", 256, -0.5)

_ALL = (
    # Every Pythia size and GPT-NeoX-20B. One module makes query, key, and value of a head in turn.
    Family(
        "gpt_neox",
        "GPTNeoXForCausalLM",
        attention="gpt_neox.layers.{block}.attention",
        modules={
            **dict.fromkeys(("query", "key", "value"), "query_key_value"),
            "output": "dense",
        },
        fused="by head",
        switches=_ALL_BIASED,
        on=("attention_bias",),
        share=0.25,
        share_key="rotary_pct",
        base_key="rotary_emb_base",
        keys={"num_groups": ""},
    ),
    # Positions are learned and absolute.
    Family(
        "gpt_neo",
        "GPTNeoForCausalLM",
        attention="transformer.h.{block}.attn.attention",
        modules={**{part: f"{part[0]}_proj" for part in PROJECTIONS}, "output": "out_proj"},
        rotary=False,
        keys={
            **{"num_blocks": "num_layers", "num_heads": "num_heads"},
            **{"num_groups": "", "head_size": ""},
        },
        layer_index="layer_id",
    ),
    Family("llama", "LlamaForCausalLM", switches=_ALL_BIASED),
    Family("mistral", "MistralForCausalLM", alike="llama"),
    Family("mixtral", "MixtralForCausalLM", base=1e6),
    Family("qwen2", "Qwen2ForCausalLM"),
    Family(
        "qwen2_moe",
        "Qwen2MoeForCausalLM",
        switches={"qkv_bias": ("query", "key", "value")},
        on=("qkv_bias",),
    ),
    Family("qwen3", "Qwen3ForCausalLM", switches=_ALL_BIASED, norms="head", head_size=128),
    Family("qwen3_moe", "Qwen3MoeForCausalLM", switches=_ALL_BIASED, norms="head"),
    Family("olmo", "OlmoForCausalLM", switches=_ALL_BIASED, clip="clip_qkv"),
    Family("olmo2", "Olmo2ForCausalLM", switches=_ALL_BIASED, norms="all"),
    Family(
        "olmo3",
        "Olmo3ForCausalLM",
        switches=_ALL_BIASED,
        norms="all",
        base=500_000,
        full_every=4,
    ),
    Family("olmoe", "OlmoeForCausalLM", switches=_ALL_BIASED, norms="all", clip="clip_qkv"),
    Family("phi", "PhiForCausalLM", modules=_DENSE, share=0.5, needs={"qk_layernorm": False}),
    Family("phi3", "Phi3ForCausalLM", modules={**_FUSED, "output": "o_proj"}, fused="by part"),
    Family(
        "stablelm",
        "StableLmForCausalLM",
        switches={"use_qkv_bias": ("query", "key", "value")},
        share=0.25,
        needs={"qk_layernorm": False},
    ),
    Family("gemma", "GemmaForCausalLM", **_GEMMA),
    Family("gemma2", "Gemma2ForCausalLM", scale=_SCALAR, cap="attn_logit_softcapping", **_GEMMA),
    Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        norms="head",
        base=1_000_000,
        full_every=6,
        sliding_base=("rope_local_base_freq", 10_000),
        scale=_SCALAR,
        **{**_GEMMA, "needs": {**_GEMMA["needs"], "attn_logit_softcapping": None}},
    ),
    Family(
        "granite",
        "GraniteForCausalLM",
        switches=_ALL_BIASED,
        scale=("attention_multiplier", 1.0, 1.0),
    ),
    Family(
        "cohere",
        "CohereForCausalLM",
        switches=_ALL_BIASED,
        base=500_000,
        adjacent=True,
        needs={"use_qk_norm": False},
    ),
    Family("starcoder2", "Starcoder2ForCausalLM"),
    Family("smollm3", "SmolLM3ForCausalLM", switches=_ALL_BIASED, base=2_000_000, unplaced=True),
    Family(
        "gpt_oss",
        "GptOssForCausalLM",
        switches=_ALL_BIASED,
        on=("attention_bias",),
        sinks=True,
        base=150_000,
        head_size=64,
        scaled={
            "rope_type": "yarn",
            "factor": 32.0,
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "truncate": False,
            "original_max_position_embeddings": 4096,
        },
    ),
)
FAMILIES = {family.model_type: family for family in _ALL}


def family_of(config: Mapping[str, Any]) -> Family:
    """The family of a parsed config.json, compact checkpoints included.

    **Raises:** `UnsupportedError` for every other architecture, and what is near.
    """
    model_type = config.get("model_type")
    for family in FAMILIES.values():
        if model_type in (family.model_type, family.compact_model_type):
            return family
    near = ", ".join(find_near(model_type, FAMILIES, 2))
    missing = "no record says where its attention is (docs/families.md)"
    raise UnsupportedError(
        f"unsupported model_type {str(model_type)[:60]}; supported: {', '.join(FAMILIES)}",
        fix=f"near is {near}, but {missing}" if near else missing,
    )
