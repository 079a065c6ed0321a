"""Llama and the decoders that differ from it in a few ways each."""

from __future__ import annotations

from surgery.families.decoder import (
    BLOCK,
    GATED,
    KEYS,
    WITH_HEAD_SIZE,
    attention,
    decoder,
    norm,
)
from surgery.families.record import Switch, TensorRule
from surgery.families.rotary import Rotary

_NORMS = (*norm(BLOCK + "input_layernorm"), *norm(BLOCK + "post_attention_layernorm"))
_NORMS_AFTER = (
    *norm(BLOCK + "post_attention_layernorm"),
    *norm(BLOCK + "post_feedforward_layernorm"),
)
_WINDOWS = "layer_types max_window_layers sliding_window use_sliding_window"
_MLP_BIAS = Switch("mlp_bias", default=False)

LLAMA = decoder(
    "Llama",
    (
        *_NORMS,
        *attention(),
        *GATED,
        TensorRule(BLOCK + "mlp.gate_proj.bias", ("ff",), when=_MLP_BIAS),
        TensorRule(BLOCK + "mlp.up_proj.bias", ("ff",), when=_MLP_BIAS),
        TensorRule(BLOCK + "mlp.down_proj.bias", ("d",), when=_MLP_BIAS),
    ),
    title="Llama (1 to 3, SmolLM2, TinyLlama and more)",
    config_keys=WITH_HEAD_SIZE,
    needs={"pretraining_tp": 1},
)

# The same tensors as Llama, and no biases that its own class would load.
MISTRAL = decoder(
    "Mistral",
    (*_NORMS, *attention(qkv=False, out=False), *GATED),
    config_keys=WITH_HEAD_SIZE,
    window="sliding_window",
    saved_as=("llama",),
)

QWEN2 = decoder(
    "Qwen2",
    (*_NORMS, *attention(qkv=True, out=False), *GATED),
    title="Qwen2 (and 2.5)",
    config_keys=WITH_HEAD_SIZE,
    settings=_WINDOWS,
)

QWEN3 = decoder(
    "Qwen3",
    (*_NORMS, *attention(qk_norm="head"), *GATED),
    config_keys=WITH_HEAD_SIZE,
    head_size=128,
    qk_norm="head",
    settings=_WINDOWS,
)

# Its norms have no parameters.
OLMO = decoder(
    "Olmo",
    (*attention(), *GATED),
    title="OLMo",
    epsilon=None,
    clip="clip_qkv",
    last_norm=(),
)

OLMO2 = decoder(
    "Olmo2",
    (*attention(qk_norm="all"), *_NORMS_AFTER, *GATED),
    title="OLMo-2",
    qk_norm="all",
    norm_before=None,
    norm_after=BLOCK + "post_attention_layernorm",
)

OLMO3 = decoder(
    "Olmo3",
    (*attention(qk_norm="all"), *_NORMS_AFTER, *GATED),
    title="OLMo-3",
    qk_norm="all",
    norm_before=None,
    norm_after=BLOCK + "post_attention_layernorm",
    rotary=Rotary(base=500_000, full_every=4),
    settings="sliding_window",
)

PHI = decoder(
    "Phi",
    (
        *norm(BLOCK + "input_layernorm", bias=True),
        *attention(qkv=True, out=True, output="dense"),
        TensorRule(BLOCK + "mlp.fc1.weight", ("ff", "d")),
        TensorRule(BLOCK + "mlp.fc1.bias", ("ff",)),
        TensorRule(BLOCK + "mlp.fc2.weight", ("d", "ff")),
        TensorRule(BLOCK + "mlp.fc2.bias", ("d",)),
        TensorRule("lm_head.bias", ("vocab",)),
    ),
    title="Phi (1, 1.5 and 2)",
    epsilon="layer_norm_eps",
    rotary=Rotary(share=0.5, partial=True),
    last_norm=norm("model.final_layernorm", bias=True),
    needs={"qk_layernorm": False},
    settings="embd_pdrop resid_pdrop",
)

STABLELM = decoder(
    "StableLm",
    (
        *norm(BLOCK + "input_layernorm", bias=True),
        *norm(
            BLOCK + "post_attention_layernorm",
            bias=True,
            when=Switch("use_parallel_residual", default=False, value=False),
        ),
        *attention(qkv=Switch("use_qkv_bias", default=False), out=False),
        *GATED,
    ),
    title="StableLM",
    config_keys=KEYS,
    epsilon="layer_norm_eps",
    rotary=Rotary(share=0.25, partial=True),
    last_norm=norm("model.norm", bias=True),
    needs={"qk_layernorm": False},
    settings="hidden_dropout rope_pct",
)
