"""What a family is: names, shapes and config keys as data. No tensor library is needed here."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from surgery.errors import CheckpointError
from surgery.families.rotary import Rotary

Role = Literal[
    "query_key_value_weight",  # fused: [3 d, d], rows interleaved per head as [heads, 3, head_size]
    "query_key_value_bias",  # fused: [3 d]
    "query_weight",  # separate: [q, d], q = heads x head size
    "key_weight",  # separate: [kv, d], kv = key/value heads x head size
    "value_weight",
    "query_bias",  # separate: [q]
    "key_bias",  # separate: [kv]
    "value_bias",
    "query_norm",  # the gain of the norm of queries: [h], one for all heads, or [q]
    "key_norm",
    "sinks",  # one score per query head that takes weight from all tokens: [heads]
    "output_weight",  # [d, q]
    "output_bias",  # [d]
    "attention_buffer",  # masks and frequencies stored by older libraries; never a parameter
    "affine_weight",  # compact layout only: [d, d]
    "affine_bias",  # compact layout only: [d]
]

_MOST_BLOCKS = 10_000


def read_whole(config: Mapping[str, Any], key: str, default: int) -> int:
    """A whole number of config.json. Raises `CheckpointError` for anything else."""
    value = config.get(key)
    if value is None:
        return default
    if type(value) is not int:
        raise CheckpointError(f"{key!r} is not a whole number", where="config.json", got=value)
    return value


# Keys of config.json that every model of the library may have, old spellings included; then how to
# generate, which older versions kept there; and the compact layout's.
_COMMON = """
_name_or_path _num_labels add_cross_attention architectures bos_token_id
chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id dtype
eos_token_id finetuning_task gradient_checkpointing id2label initializer_range is_decoder
is_encoder_decoder label2id model_type num_labels output_attentions output_hidden_states output_past
pad_token_id prefix problem_type return_dict sep_token_id task_specific_params tf_legacy_loss
quantization_config tie_encoder_decoder tie_word_embeddings tokenizer_class torch_dtype torchscript
transformers_version use_bfloat16 use_cache

bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
return_dict_in_generate suppress_tokens temperature top_k top_p typical_p

attention_free_blocks auto_map
"""


@dataclass(frozen=True)
class Switch:
    """A key of config.json, with the library's default, whose `value` makes tensors exist."""

    key: str
    default: bool
    value: bool = True

    def on(self, config: Mapping[str, Any]) -> bool:
        return bool(config.get(self.key, self.default)) == self.value


@dataclass(frozen=True)
class Factor:
    """A key of config.json that multiplies something, with the library's default and a power."""

    key: str
    default: float
    power: float = 1.0

    def of(self, config: Mapping[str, Any]) -> float:
        """**Raises:** `CheckpointError` unless it is a number above 0."""
        value = config.get(self.key)
        value = self.default if value is None else value
        if type(value) not in (int, float) or not 1e-30 < value < 1e30:
            raise CheckpointError(
                f"{self.key!r} makes no sense",
                where="config.json",
                expected="a number above 0",
                got=repr(value)[:50],
            )
        return float(value**self.power)


SomeBlocks = Callable[[Mapping[str, Any], int], bool]
"""A parsed config.json and a block → whether the block is one of some kind."""


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a checkpoint, or one per block when the name holds `{block}`; with `{expert}`,
    one per expert of each block.

    `shape` names its dimensions by the keys of `Dimensions.sizes`; None leaves it unchecked
    (buffers, whose shape has changed between library versions). `when`: the switch without which
    the model has no such tensor; `blocks`: which blocks have it, if not all. `optional`: it may be
    missing all the same. `instead_of`: the tensor that holds the same numbers where the library
    stores them in another way; one of the two is there. `any_dtype`: it keeps a dtype of its own.
    """

    name: str
    shape: tuple[str, ...] | None
    role: Role | None = None
    optional: bool = False
    when: Switch | None = None
    blocks: SomeBlocks | None = None
    instead_of: str | None = None
    any_dtype: bool = False

    @property
    def per_block(self) -> bool:
        return "{block}" in self.name


def module(
    name: str,
    *shape: str,
    role: Literal[
        "query_key_value",
        "query",
        "key",
        "value",
        "output",
        "affine",
    ]
    | None = None,
    bias: Switch | bool = True,
    when: Switch | None = None,
    optional: bool = False,
    blocks: SomeBlocks | None = None,
) -> tuple[TensorRule, ...]:
    """The weight of a module, and its bias: always, never, or as a key of config.json says."""
    roles: Any = (f"{role}_weight", f"{role}_bias") if role else (None, None)
    weight = TensorRule(f"{name}.weight", shape, roles[0], optional, when, blocks)
    switch = bias if isinstance(bias, Switch) else when
    if not bias:
        return (weight,)
    return weight, TensorRule(f"{name}.bias", shape[:1], roles[1], optional, switch, blocks)


def beside(attention: str, *buffers: str) -> tuple[TensorRule, ...]:
    """What an attention module may hold beside its parameters, and what may replace them all."""
    return (
        *(TensorRule(f"{attention}.{name}", None, "attention_buffer", True) for name in buffers),
        *module(f"{attention}.affine", "d", "d", role="affine", optional=True),
    )


@dataclass(frozen=True)
class Dimensions:
    """The sizes of one model.

    `d`: model width. `num_groups`: key/value heads, each shared by as many query heads; 0 stands
    for one for each. `head_size`: 0 stands for d / num_heads. `more`: symbols that only this family
    has, with their sizes.
    """

    num_blocks: int
    num_heads: int
    d: int
    intermediate: int
    vocabulary: int
    max_positions: int
    num_groups: int = 0
    head_size: int = 0
    more: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_groups", self.num_groups or self.num_heads)
        object.__setattr__(self, "head_size", self.head_size or self.d // self.num_heads)

    @property
    def heads_per_group(self) -> int:
        return self.num_heads // self.num_groups

    @property
    def rotated(self) -> int:
        """The size of that part of a head's queries and keys which has rotary positions."""
        return dict(self.more).get("rotated", self.head_size)

    @property
    def context(self) -> int:
        """The width of the context vectors of all heads, side by side."""
        return self.num_heads * self.head_size

    @property
    def sizes(self) -> dict[str, int]:
        """Symbol of a `TensorRule.shape` → size."""
        return {
            "d": self.d,
            "3d": 3 * self.d,
            "heads": self.num_heads,
            "q": self.context,
            "2q": 2 * self.context,
            "kv": self.num_groups * self.head_size,
            "h": self.head_size,
            "ff": self.intermediate,
            "2ff": 2 * self.intermediate,
            "vocab": self.vocabulary,
            "positions": self.max_positions,
            **dict(self.more),
        }


_MAY_BE_NULL = {"num_groups", "head_size"}
KEYS = {
    "num_blocks": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "d": "hidden_size",
    "intermediate": "intermediate_size",
    "vocabulary": "vocab_size",
    "max_positions": "max_position_embeddings",
}


@dataclass(frozen=True)
class Family:
    """One architecture: where its tensors are and which config keys give its sizes.

    - `attention`: the template of the attention module's name; `layer_index`: its attribute that
      numbers its layer of the cache.
    - `epsilon`: the config key of the norms' constant, if there is one.
    - `config_keys`: field of `Dimensions` → key of config.json; `head_size`: where config.json
      gives none (0: width / heads).
    - `fused`: whether query, key and value are one tensor.
    - `sizes`: the symbols of `Dimensions.more` and the keys or formulas that give them.
    - `rotary`: what config.json says of rotary positions; None: positions are of another kind.
    - `scores`: what multiplies the products of queries and keys (None: 1 / root of the head size);
      `logits`: what multiplies the output; `score_cap`, `logit_cap`: the keys of the bounds that
      they are bent to (null: none).
    - `qk_norm`: whether queries and keys are normalized, each head alone ("head") or all heads
      together ("all"), in models that store gains for them; `norm_after`: the norm that
      attention's output goes through, as a template of names;
      `gain`: what the library adds to a stored gain of a norm.
    - `clip`: the config key of the bound that queries, keys and values are clipped to.
    - `window`: the config key of a window that every block attends within.
    - `beyond`: the key of how many blocks are stored after the last, which the library leaves out.
    - `tied_head`: whether the head is the embedding unless config.json says otherwise; `pad`: the
      largest token that some version of the library pads with unless it says otherwise.
    - `needs`: keys that can be edited with one value only, which is the library's default.
    - `settings`: the other keys of config.json that this architecture has, in words; `aliases`
      maps second names of keys, which the library takes as well, to the first.
    - `saved_as`: model types with the same tensors, which a checkpoint can be saved as.
    """

    model_type: str
    architecture: str
    title: str
    attention: str
    rules: tuple[TensorRule, ...]
    settings: str
    config_keys: Mapping[str, str] = field(default_factory=KEYS.copy)
    epsilon: str | None = None
    sizes: Mapping[str, str | Callable[[Mapping[str, int]], int]] = field(default_factory=dict)
    rotary: Rotary | None = None
    scores: Factor | None = None
    score_cap: str | None = None
    logits: Factor | None = None
    logit_cap: str | None = None
    fused: bool = False
    head_size: int = 0
    qk_norm: Literal["head", "all"] | None = None
    norm_after: str | None = None
    gain: float = 0.0
    clip: str | None = None
    window: str | None = None
    beyond: str | None = None
    tied_head: bool = False
    pad: int = 1
    layer_index: str = "layer_idx"
    needs: Mapping[str, Any] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    saved_as: tuple[str, ...] = ()

    @property
    def compact_model_type(self) -> str:
        """The model type of its compact checkpoints, so that no other class can load them."""
        return f"attention_free_{self.model_type}"

    def dimensions(self, config: Mapping[str, Any]) -> Dimensions:
        """Sizes from a parsed config.json."""
        values: dict[str, int] = {}
        number = config.get(self.config_keys.get("num_blocks", "num_hidden_layers"))
        if type(number) is int and number > _MOST_BLOCKS:
            what, most = "more blocks than any model has", f"at most {_MOST_BLOCKS:,}"
            raise CheckpointError(what, where="config.json", expected=most, got=f"{number:,}")
        for name, key in self.config_keys.items():
            value = config.get(key)
            if value is None and name in _MAY_BE_NULL:
                continue
            if name == "intermediate" and value is None and "d" in values:
                value = 4 * values["d"]  # the library's own default for GPT-Neo
            if type(value) is not int or value < 1:
                raise CheckpointError(
                    f"{key!r} is not a positive whole number", where="config.json", got=value
                )
            values[name] = value
        _check_aliases(self.aliases, config)
        window = config.get(self.window or "sliding_window")
        if window is not None and type(window) is not int:
            what = f"{self.window or 'sliding_window'!r} is not a whole number"
            raise CheckpointError(what, where="config.json", got=window)
        more = self._read_more(config)
        size = Dimensions(**{"head_size": self.head_size, **values}, more=tuple(more.items()))
        counts = [("the number of heads", size.num_heads, "key/value heads", size.num_groups)]
        if not (self.head_size or "head_size" in values):
            counts.insert(0, ("hidden_size", size.d, "heads", size.num_heads))
        for name, many, what, few in counts:
            if many % few:
                raise CheckpointError(
                    f"{name} is not a multiple of the number of {what}",
                    where="config.json",
                    got=f"{many} and {few}",
                )
        return size

    def _read_more(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Sizes by symbol. A formula gets those before it."""
        found: dict[str, int] = {}
        for symbol, given in self.sizes.items():
            if callable(given):
                found[symbol] = given(found)
                continue
            names = (given, *(alias for alias, key in self.aliases.items() if key == given))
            value = next((config[name] for name in names if name in config), None)
            if type(value) is not int or value < 1:
                raise CheckpointError(
                    f"{given!r} is not a positive whole number", where="config.json", got=value
                )
            found[symbol] = value
        return found

    def unknown_keys(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys of a parsed config.json that this architecture does not have, ascending."""
        known = {*self.config_keys.values(), *self.aliases, *self.needs, *_named_keys(self)}
        return tuple(sorted(set(config) - known - set(f"{_COMMON} {self.settings}".split())))

    def known_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The same configuration without them."""
        unknown = self.unknown_keys(config)
        return {key: value for key, value in config.items() if key not in unknown}

    def match(self, name: str) -> tuple[TensorRule, int | None] | None:
        """The one rule that `name` matches, with its block index; None for an unknown name."""
        index = _INDEX.search(name)
        template = name if index is None else _INDEX.sub(".{block}", name, count=1)
        rule = self._by_name.get(template) or self._by_name.get(
            _INDEX.sub(".{expert}", template, count=1)
        )
        if rule is None or rule.per_block != (index is not None):
            return None
        return rule, None if index is None else int(index[1])

    def is_outside_attention(self, name: str) -> bool:
        """Whether a tensor belongs to a module that is no part of attention, by whatever name.

        Quantized weights have names of their own.
        """
        template = _INDEX.sub(".{block}", name, count=1)
        several = (template, _INDEX.sub(".{expert}", template, count=1))
        return any(one.rpartition(".")[0] in self._others for one in several)

    def rule(self, role: Role) -> TensorRule | None:
        """The rule of a role that is one tensor a block; None where the family has none."""
        return next((rule for rule in self.rules if rule.role == role), None)

    def name(self, role: Role, block: int) -> str:
        """The stored name of a block's tensor of that role."""
        rule = self.rule(role)
        assert rule is not None
        return rule.name.format(block=block)

    def reading(self, block: int) -> tuple[str, str]:
        """The modules of a block that read x, what attention is given, and z, what it makes."""
        first: Role = "query_key_value_weight" if self.fused else "value_weight"
        x, z = (self.name(role, block).removesuffix(".weight") for role in (first, "output_weight"))
        return x, z

    def attending(self, modules: Container[str], num_blocks: int) -> tuple[int, ...]:
        """The blocks that have an attention module; edited ones of a compact model have others."""
        return tuple(b for b in range(num_blocks) if self.reading(b)[1] in modules)

    @cached_property
    def _others(self) -> frozenset[str]:
        """The modules outside attention, as templates of names."""
        rules = (rule for rule in self.rules if rule.role is None)
        return frozenset(rule.name.rpartition(".")[0] for rule in rules)

    @cached_property
    def _by_name(self) -> dict[str, TensorRule]:
        return {rule.name: rule for rule in self.rules}


def _named_keys(family: Family) -> Iterator[str]:
    """The keys of config.json that fields of the record and of its rules name."""
    keys = (family.epsilon, family.clip, family.window, family.score_cap, family.logit_cap)
    yield from (key for key in keys if key is not None)
    yield from (factor.key for factor in (family.scores, family.logits) if factor is not None)
    yield from (size for size in family.sizes.values() if isinstance(size, str))
    yield from (rule.when.key for rule in family.rules if rule.when is not None)
    if family.rotary is not None:
        yield from family.rotary.keys


def _check_aliases(aliases: Mapping[str, str], config: Mapping[str, Any]) -> None:
    for alias, key in aliases.items():
        if alias in config and key in config and repr(config[alias]) != repr(config[key]):
            raise CheckpointError(
                f"{alias!r} and {key!r} are two names of one setting, and differ",
                where="config.json",
                expected=repr(config.get(key)),
                got=repr(config[alias])[:50],
                fix=f"remove {alias!r}",
            )


def left_out(unknown: Sequence[str]) -> str:
    """The sentence that names such keys."""
    more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    names = ", ".join(key[:60] for key in unknown[:8])
    return (
        f"config.json has keys that are not of its architecture; they are left out: {names}{more}"
    )


def expert_of(name: str) -> int | None:
    """The index of the expert that a tensor belongs to, if it has one beside the block's."""
    indices = _INDEX.findall(name)
    return int(indices[1]) if len(indices) > 1 else None


_INDEX = re.compile(r"\.(0|[1-9][0-9]{0,8})(?=\.)")
