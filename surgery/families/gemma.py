"""Gemma: norms store 1 + gain, and the embedding is scaled; Gemma 2 and 3 have norms all around."""

from __future__ import annotations

from surgery.families.llama import BLOCK, NORMS, WITH_HEAD_SIZE, attention, decoder, gated, norm
from surgery.families.record import Factor
from surgery.families.rotary import Rotary

GEMMA = decoder(
    "Gemma",
    (*NORMS, *attention(), *gated()),
    config_keys=WITH_HEAD_SIZE,
    head_size=256,
    gain=1.0,
    tied_head=True,
    needs={"use_bidirectional_attention": False},
    settings="hidden_activation",
)

_AROUND = (
    *NORMS,
    *norm(BLOCK + "pre_feedforward_layernorm"),
    *norm(BLOCK + "post_feedforward_layernorm"),
)

GEMMA2 = decoder(
    "Gemma2",
    (*_AROUND, *attention(), *gated()),
    title="Gemma 2",
    config_keys=WITH_HEAD_SIZE,
    head_size=256,
    gain=1.0,
    norm_after=BLOCK + "post_attention_layernorm",
    scores=Factor("query_pre_attn_scalar", 256, -0.5),
    score_cap="attn_logit_softcapping",
    logit_cap="final_logit_softcapping",
    tied_head=True,
    needs={"use_bidirectional_attention": False},
    settings="cache_implementation hidden_activation layer_types sliding_window",
)

GEMMA3 = decoder(
    "Gemma3",
    (*_AROUND, *attention(qk_norm="head"), *gated()),
    model_type="gemma3_text",
    title="Gemma 3 (text)",
    config_keys=WITH_HEAD_SIZE,
    head_size=256,
    gain=1.0,
    qk_norm="head",
    norm_after=BLOCK + "post_attention_layernorm",
    rotary=Rotary(base=1_000_000, full_every=6, sliding_base=("rope_local_base_freq", 10_000)),
    scores=Factor("query_pre_attn_scalar", 256, -0.5),
    logit_cap="final_logit_softcapping",
    tied_head=True,
    needs={"attn_logit_softcapping": None, "use_bidirectional_attention": False},
    settings="attention_dropout cache_implementation hidden_activation sliding_window",
)

FAMILIES = (GEMMA, GEMMA2, GEMMA3)
