"""Configurations of the lab models, with the keys of the Hub repositories they stand for.

Everything but sizes is as in EleutherAI/pythia-* and EleutherAI/gpt-neo-125m. Contexts are 256
tokens, so that the stored mask buffers stay small; GPT-Neo's local window is 32, an eighth of
the context, as in the real ones.
"""

# transformers and torch annotate few methods:
# mypy: disable-error-code="no-untyped-call"

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from benchmarks.lab.vocabulary import SIZE

CONTEXT = 256

_NEO_LAYERS = 6

CONFIGS: dict[str, dict[str, Any]] = {
    "pythia": {
        "architectures": ["GPTNeoXForCausalLM"],
        "bos_token_id": 0,
        "eos_token_id": 0,
        "hidden_act": "gelu",
        "hidden_size": 160,
        "initializer_range": 0.02,
        "intermediate_size": 640,
        "layer_norm_eps": 1e-05,
        "max_position_embeddings": CONTEXT,
        "model_type": "gpt_neox",
        "num_attention_heads": 5,
        "num_hidden_layers": 6,
        "rotary_emb_base": 10000,
        "rotary_pct": 0.25,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": transformers.__version__,
        "use_cache": True,
        "use_parallel_residual": True,
        "vocab_size": -(-SIZE // 64) * 64,  # padded, as Pythia's
    },
    "gpt-neo": {
        "activation_function": "gelu_new",
        "architectures": ["GPTNeoForCausalLM"],
        "attention_dropout": 0,
        "attention_layers": ["global", "local"] * (_NEO_LAYERS // 2),
        "attention_types": [[["global", "local"], _NEO_LAYERS // 2]],
        "bos_token_id": 0,
        "embed_dropout": 0,
        "eos_token_id": 0,
        "gradient_checkpointing": False,
        "hidden_size": 128,
        "initializer_range": 0.02,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-05,
        "max_position_embeddings": CONTEXT,
        "model_type": "gpt_neo",
        "num_heads": 4,
        "num_layers": _NEO_LAYERS,
        "resid_dropout": 0,
        "summary_activation": None,
        "summary_first_dropout": 0.1,
        "summary_proj_to_labels": True,
        "summary_type": "cls_index",
        "summary_use_proj": True,
        "torch_dtype": "float32",
        "transformers_version": transformers.__version__,
        "use_cache": True,
        "vocab_size": SIZE,
        "window_size": CONTEXT // 8,
    },
}


def new_model(name: str, seed: int) -> PreTrainedModel:
    """An untrained lab model in float32, its weights drawn with `seed`."""
    torch.manual_seed(seed)
    settings = dict(CONFIGS[name])
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation="eager"
    )
    return model
