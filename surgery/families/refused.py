"""Well-known model types without a record, and why.

docs/families.md says what their own classes could hold.
"""

from __future__ import annotations

REFUSED = {
    "gpt2": "its positions are learned, so scores do not depend on the offset",
    "gpt_bigcode": "its positions are learned, and all heads share one key",
    "opt": "its positions are learned and added to the embedding alone",
    "xglm": "its positions are fixed waves, added to the embedding",
    "biogpt": "its positions are learned, beside biases of attention",
    "gptj": "its attention has no biases to hold constants",
    "codegen": "its attention has no biases, and one tensor in an order of its own",
    "bloom": "its positions are ALiBi, whose scores lead by at most the slope",
    "mpt": "its positions are ALiBi, and it has no biases",
    "falcon": "its queries, keys, and values are one tensor in another order",
    "phi3": (
        "its queries, keys, and values are one tensor without biases; where all dimensions "
        "are rotated (Phi-4, not Phi-4-mini), split it and save the model as Llama"
    ),
    "phimoe": "its MLPs are experts of another kind, and its norms have biases",
    "mixtral": "its attention has no biases, and its MLPs are experts",
    "ministral": "its attention has no biases",
    "ministral3": "its attention has no biases, and it scales queries by their position",
    "mistral3": "it reads images, and its attention has no biases",
    "minimax": "most of its blocks have linear attention, and the rest no biases",
    "minimax_m2": "its attention has norms but no biases, so a constant cannot enter them",
    "lfm2": "most of its blocks are convolutions, which mix tokens, too",
    "lfm2_moe": "most of its blocks are convolutions; its MLPs are experts",
    "exaone4": "its attention has norms but no biases, and some blocks have no positions",
    "olmo_hybrid": "most of its blocks are recurrent, and the rest may have no positions",
    "olmoe": "its MLPs are experts beside norms over all heads",
    "llama4": "it reads images; its queries and keys have length one, so scores differ too little",
    "llama4_text": (
        "its queries and keys have length one, so a token's own score leads by at most 23"
    ),
    "mllama": "it reads images, through blocks that attend to them",
    "gemma3n": "it reads images and sound, and its blocks share keys and values",
    "gemma3n_text": "its last blocks read keys and values of earlier ones",
    "gemma4": "it reads images; some blocks share keys, or store one tensor for both",
    "gemma4_text": "some blocks share keys, or store one tensor for keys and values",
    "recurrent_gemma": "most of its blocks are recurrent, which mixes tokens, too",
    "qwen2_moe": "its MLPs are experts beside one that all tokens share",
    "qwen2_vl": "it reads images",
    "qwen2_5_vl": "it reads images, and positions have three axes",
    "qwen3_vl": "it reads images beside norms of queries and keys",
    "qwen3_next": "three of four blocks have linear attention; gates multiply the rest",
    "deepseek_v2": (
        "its keys and values come from one compressed vector (MLA), and small models have "
        "no rank for queries to put a bias in"
    ),
    "falcon_h1": "every block runs a state space model beside attention",
    "jamba": "most of its blocks are state space models",
    "bamba": "most of its blocks are state space models; the rest take biases",
    "zamba2": "its blocks are state space models that share one attention",
    "nemotron_h": "its blocks are state space models, MLPs, and few of attention",
    "granitemoehybrid": "most of its blocks are state space models, and the rest scale scores",
    "granitemoe": "its MLPs are experts in one tensor each",
    "mamba": "it is a state space model, and has no attention",
    "mamba2": "it is a state space model without any attention",
    "rwkv": "it is recurrent, and has no attention",
    "dbrx": "its queries, keys, and values are one clipped tensor without biases",
    "nemotron": "its norms store 1 + gain with biases, and its MLPs are not gated",
    "persimmon": "its queries, keys, and values are one tensor, with norms that have biases",
    "cohere2_moe": "its MLPs are experts beside blocks without positions",
    "bert": "it is an encoder, and predicts no next token",
    "t5": "it is an encoder and a decoder; only decoders recite as measured here",
    "bart": "it is an encoder with a decoder that attends to it",
}
