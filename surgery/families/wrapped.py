"""Models that read images, too: a decoder of a type of its own, and what stands around it.

`config.json` holds the decoder's configuration under one key, and the names of its tensors begin
otherwise. Only the decoder is edited, loaded, and measured, under the names that it has alone; a
result has the source's names, and everything around the decoder is copied.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from surgery.errors import CheckpointError, UnsupportedError
from surgery.families.code import CODE_KEYS, check_attention_code, refuse_code, walk

TEXT = "text_config"


@dataclass(frozen=True)
class Wrapped:
    """A type of model around a decoder of the type `text`.

    `prefixes`: what names of the decoder's tensors begin with → what they begin with in the decoder
    alone; `settings`: keys of config.json that are of no decoder, in words; `defaults`: sizes of
    the decoder that config.json may leave to the library.
    """

    text: str
    prefixes: Mapping[str, str]
    settings: str
    defaults: Mapping[str, int] = field(default_factory=dict)

    def rename(self, name: str) -> str:
        """The name in the decoder alone; of another tensor, the same name."""
        for stored, alone in self.prefixes.items():
            if name.startswith(stored):
                return alone + name.removeprefix(stored)
        return name


_WHOLE = {
    "tie_word_embeddings",
    "quantization_config",
    "compression_config",
    "transformers_weights",
}
"""Keys of the whole model, which those of its decoder must not hide."""
_IMAGES = "vision_config image_token_id video_token_id vision_start_token_id vision_end_token_id"
_PREFIXED = {"model.language_model.": "model."}
WRAPPED = {
    "gemma3": Wrapped(
        "gemma3_text",
        {
            "language_model.model.": "model.",
            "language_model.lm_head.": "lm_head.",
            "model.language_model.": "model.",
        },
        f"""{_IMAGES} boi_token_index eoi_token_index image_token_index mm_tokens_per_image
        boi_token_id eoi_token_id""",
        {
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "vocab_size": 262_208,
            "max_position_embeddings": 131_072,
        },
    ),
    "qwen3_5": Wrapped("qwen3_5_text", _PREFIXED, _IMAGES),
    "qwen3_5_moe": Wrapped("qwen3_5_moe_text", _PREFIXED, _IMAGES),
}
"""Model type → what it is made of."""


def find_wrapped(config: Mapping[str, Any]) -> Wrapped | None:
    """What a parsed config.json says is around a decoder; None for a decoder alone."""
    return WRAPPED.get(str(config.get("model_type"))) if TEXT in config else None


def settle_layout(layout: str, config: Mapping[str, Any]) -> str:
    """The layout that a model with this config.json can have, of those that were asked for.

    **Raises:** `UnsupportedError` for compact, in which only a decoder alone can be loaded.
    """
    if find_wrapped(config) is None:
        return layout
    if layout == "compact":
        raise UnsupportedError(
            f"a {config['model_type']} model reads images, and only a decoder alone can have "
            "the compact layout",
            fix="use `layout=stock`",
        )
    return "stock"


def unwrap(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration of the decoder alone; one of a decoder comes back as it is.

    **Raises:** `CheckpointError` if both parts have a say in what holds for the whole, and differ;
    `UnsupportedError` if any part asks for code.
    """
    wrapped = find_wrapped(config)
    if wrapped is None:
        return config
    text = config[TEXT]
    if not isinstance(text, dict):
        raise CheckpointError(f"{TEXT!r} is not an object", where="config.json")
    check_attention_code(config)
    for key, value in walk(config):
        if key in CODE_KEYS and value:
            raise refuse_code(key, f"{config['model_type']} class")
    for key in sorted(text.keys() & config.keys() & _WHOLE):
        if (text[key] or None) != (config[key] or None):
            raise CheckpointError(f"{key!r} differs from that in {TEXT!r}", where="config.json")
    around = {TEXT, *wrapped.settings.split()}
    common = {key: value for key, value in config.items() if key not in around}
    return {**wrapped.defaults, **common, **text, "model_type": wrapped.text}


def wrap(decoder: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    """`config` with another configuration of its decoder, as `unwrap` gives it, in its place."""
    wrapped = find_wrapped(config)
    if wrapped is None:
        return dict(decoder)
    before, kept = unwrap(config), {TEXT, "model_type", "architectures", *wrapped.settings.split()}
    text = {key: value for key, value in config[TEXT].items() if key in decoder}
    changed = {key: value for key, value in decoder.items() if before.get(key) != value}
    whole = {key: value for key, value in config.items() if key in kept or key in decoder}
    return {**whole, TEXT: {**text, **changed}}
