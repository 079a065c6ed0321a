"""Which configurations are known to build, so that no one has to ask the library.

To ask it takes seconds and hundreds of megabytes. A configuration is ordinary if each of its keys
is here, with a value of its kind. Of any other the library is the judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from surgery.families import Family

_NAMES = {
    **dict.fromkeys(("hidden_act", "activation_function"), ("gelu", "gelu_new", "relu", "silu")),
    **dict.fromkeys(("dtype", "torch_dtype"), ("bfloat16", "float16", "float32")),
}
_RANGES: dict[str, list[Any]] = {  # types, least and most
    key: kind
    for keys, *kind in (
        ("attention_bias mlp_bias qk_layernorm tie_word_embeddings use_cache", (bool,), 0, 1),
        ("use_parallel_residual use_qkv_bias use_sliding_window", (bool,), 0, 1),
        ("layer_norm_eps layer_norm_epsilon rms_norm_eps", (float,), 0, 1),
        ("attention_dropout embed_dropout hidden_dropout resid_dropout", (int, float), 0, 1),
        ("embd_pdrop initializer_range resid_pdrop", (float,), 0, 1),
        ("partial_rotary_factor rotary_pct", (float,), 0, 1),
        ("rope_theta rotary_emb_base", (int, float), 1, 1e30),
        ("bos_token_id eos_token_id", (int,), 0, 2**31),
        ("max_window_layers sliding_window window_size", (int,), 1, 2**31),
        ("model_type transformers_version _name_or_path", (str,), "", "~"),
    )
    for key in str(keys).split()
}
_TURNS = {"attention_types"}  # the library's default is for models of one depth
_MAY_BE_NULL = {
    "bos_token_id",
    "clip_qkv",
    "eos_token_id",
    "pad_token_id",
    "rope_scaling",
    "sliding_window",
}


def is_ordinary(config: Mapping[str, Any], family: Family) -> bool:
    """Whether the library surely builds the model of a parsed config.json.

    Its sizes must make sense, and none may be left to the library, except that of a head.
    """
    size, known = family.dimensions(config), family.known_config(config)
    keys = {*family.config_keys.values()}
    ranges = {
        **_RANGES,
        **{key: [(int,), 1, 2**31] for key in (*keys, *family.aliases)},
        "pad_token_id": [(int,), 0, size.vocabulary - 1],
    }
    values = _list_values(config, family)

    def is_known(key: str, value: Any) -> bool:
        types, least, most = ranges.get(key, [(), 0, 0])
        return (
            (value is None and key in _MAY_BE_NULL)
            or repr(value) in map(repr, values.get(key, ()))  # 2.0 is not 2
            or (type(value) in types and least <= value <= most)
        )

    needed = keys - {family.config_keys.get("head_size")} | (_TURNS & set(family.settings.split()))
    return (
        (size.vocabulary > family.pad or known.get("pad_token_id") is not None)
        and size.d % size.num_heads == 0  # some refuse it, even with another size of heads
        and needed <= set(known)
        and all(is_known(key, value) for key, value in known.items())
    )


def _list_values(config: Mapping[str, Any], family: Family) -> dict[str, Sequence[Any]]:
    """The ordinary values of keys that are no numbers."""
    num_blocks = family.dimensions(config).num_blocks
    values: dict[str, Sequence[Any]] = {
        **_NAMES,
        "architectures": [[family.architecture]],
        "gradient_checkpointing": [False],
    }
    if family.model_type == "gpt_neo" and num_blocks % 2 == 0:
        turns, times = ["global", "local"], num_blocks // 2
        values["attention_types"] = [[[turns, times]]]
        values["attention_layers"] = [turns * times]
        values["intermediate_size"] = [None]  # the library has the same default
    return values
