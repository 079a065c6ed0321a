"""What a family is: names, shapes and config keys as data. No tensor library is needed here."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from surgery.errors import CheckpointError

Role = Literal[
    "query_key_value_weight",  # fused: [3 d, d], rows interleaved per head as [heads, 3, head_size]
    "query_key_value_bias",  # fused: [3 d]
    "query_weight",  # separate: [d, d]
    "key_weight",
    "value_weight",
    "value_bias",  # separate: [d]
    "output_weight",  # [d, d]
    "output_bias",  # [d]
    "attention_buffer",  # masks and frequencies stored by older libraries; never a parameter
    "affine_weight",  # compact layout only: [d, d]
    "affine_bias",  # compact layout only: [d]
]

# Keys of config.json that every model of the library may have, old spellings included; then how to
# generate, which older versions kept there; and the compact layout's.
_COMMON = """
_name_or_path _num_labels add_cross_attention architectures bos_token_id
chunk_size_feed_forward classifier_dropout cross_attention_hidden_size decoder_start_token_id dtype
eos_token_id finetuning_task gradient_checkpointing id2label initializer_range is_decoder
is_encoder_decoder label2id model_type num_labels output_attentions output_hidden_states output_past
pad_token_id prefix problem_type return_dict sep_token_id task_specific_params tf_legacy_loss
tie_encoder_decoder tie_word_embeddings tokenizer_class torch_dtype torchscript transformers_version
use_bfloat16 use_cache

bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping
encoder_no_repeat_ngram_size exponential_decay_length_penalty forced_bos_token_id
forced_eos_token_id length_penalty max_length min_length no_repeat_ngram_size num_beam_groups
num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
return_dict_in_generate suppress_tokens temperature top_k top_p typical_p

attention_free_blocks auto_map
"""


@dataclass(frozen=True)
class TensorRule:
    """One tensor of a checkpoint, or one per block when the name holds `{block}`.

    `shape` names its dimensions by the keys of `Dimensions.sizes`; None leaves it unchecked
    (buffers, whose shape has changed between library versions).
    """

    name: str
    shape: tuple[str, ...] | None
    role: Role | None = None
    optional: bool = False

    @property
    def per_block(self) -> bool:
        return "{block}" in self.name


@dataclass(frozen=True)
class Dimensions:
    """The sizes of one model. `d`: model width, `head_size`: d / num_heads."""

    num_blocks: int
    num_heads: int
    d: int
    intermediate: int
    vocabulary: int
    max_positions: int

    @property
    def head_size(self) -> int:
        return self.d // self.num_heads

    @property
    def sizes(self) -> dict[str, int]:
        """Symbol of a `TensorRule.shape` → size."""
        return {
            "d": self.d,
            "3d": 3 * self.d,
            "ff": self.intermediate,
            "vocab": self.vocabulary,
            "positions": self.max_positions,
        }


@dataclass(frozen=True)
class Family:
    """One architecture: where its tensors are and which config keys give its sizes.

    `attention` is the template of the attention module's name; `epsilon` the config key of the
    layer norms' constant; `rotary` tells whether positions are rotary; `fused` whether query, key
    and value are one tensor; `tied_head` whether the head is the embedding unless config.json says
    otherwise; `settings` are the other keys of config.json that this architecture has, in words;
    `aliases` maps second names of keys, which the library takes as well, to the first.
    """

    model_type: str
    architecture: str
    title: str
    attention: str
    epsilon: str
    rules: tuple[TensorRule, ...]
    config_keys: dict[str, str]  # field of Dimensions → key of config.json
    rotary: bool
    fused: bool
    tied_head: bool
    settings: str
    aliases: Mapping[str, str]

    @property
    def compact_model_type(self) -> str:
        """The model type of its compact checkpoints, so that no other class can load them."""
        return f"attention_free_{self.model_type}"

    def dimensions(self, config: dict[str, Any]) -> Dimensions:
        """Sizes from a parsed config.json. Raises `CheckpointError` for a senseless key."""
        values: dict[str, int] = {}
        for field, key in self.config_keys.items():
            value = config.get(key)
            if field == "intermediate" and value is None and "d" in values:
                value = 4 * values["d"]  # the library's own default for GPT-Neo
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise CheckpointError(
                    f"{key!r} is not a positive whole number", where="config.json", got=value
                )
            values[field] = value
        for alias, key in self.aliases.items():
            if alias in config and repr(config[alias]) != repr(config.get(key)):  # 2.0 is not 2
                raise CheckpointError(
                    f"{alias!r} and {key!r} are two names of one setting, and differ",
                    where="config.json",
                    expected=repr(config.get(key)),
                    got=repr(config[alias])[:50],
                    fix=f"remove {alias!r}",
                )
        dimensions = Dimensions(**values)
        if dimensions.d % dimensions.num_heads:
            raise CheckpointError(
                "hidden_size is not a multiple of the number of heads",
                where="config.json",
                got=f"{dimensions.d} and {dimensions.num_heads}",
            )
        return dimensions

    def unknown_keys(self, config: Mapping[str, Any]) -> tuple[str, ...]:
        """The keys of a parsed config.json that this architecture does not have, ascending."""
        known = {*self.config_keys.values(), *self.aliases, self.epsilon}
        return tuple(sorted(set(config) - known - set(f"{_COMMON} {self.settings}".split())))

    def known_config(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """The same configuration without them."""
        unknown = self.unknown_keys(config)
        return {key: value for key, value in config.items() if key not in unknown}

    def match(self, name: str) -> tuple[TensorRule, int | None] | None:
        """The one rule that `name` matches, with its block index; None for an unknown name."""
        index = _INDEX.search(name)
        template = name if index is None else _INDEX.sub(".{block}.", name, count=1)
        rule = self._by_name.get(template)
        if rule is None or rule.per_block != (index is not None):
            return None
        return rule, None if index is None else int(index[1])

    def name(self, role: Role, block: int) -> str:
        """The stored name of a block's tensor of that role."""
        (template,) = (rule.name for rule in self.rules if rule.role == role)
        return template.format(block=block)

    def reading(self, block: int) -> tuple[str, str]:
        """The modules of a block that read x, what attention is given, and z, what it makes."""
        first: Role = "query_key_value_weight" if self.fused else "value_weight"
        x, z = (self.name(role, block).removesuffix(".weight") for role in (first, "output_weight"))
        return x, z

    def attending(self, modules: Container[str], num_blocks: int) -> tuple[int, ...]:
        """The blocks that have an attention module; edited ones of a compact model have others."""
        return tuple(b for b in range(num_blocks) if self.reading(b)[1] in modules)

    def has(self, role: Role) -> bool:
        return any(rule.role == role for rule in self.rules)

    @cached_property
    def _by_name(self) -> dict[str, TensorRule]:
        return {rule.name: rule for rule in self.rules}


def left_out(unknown: Sequence[str]) -> str:
    """The sentence that names such keys."""
    more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
    names = ", ".join(key[:60] for key in unknown[:8])
    return (
        f"config.json has keys that are not of its architecture; they are left out: {names}{more}"
    )


_INDEX = re.compile(r"\.(0|[1-9][0-9]{0,8})\.")
