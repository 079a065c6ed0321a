"""A byte-level BPE tokenizer of 400 tokens, trained in a moment, and random models for it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

TEXT = (
    "the quick brown fox jumps over the lazy dog\n"
    "def first(values):\n    for value in values:\n        return value\n"
    "Pack my box with five dozen liquor jugs; encyclopedia, tokenization, memorization.\n"
) * 4


@lru_cache
def tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )


def tiny_model(seed: int = 0, **changes: Any) -> Any:
    """GPT-NeoX of 2 blocks, d 32, in eval mode; always the same weights for a seed. `changes` are
    of its configuration."""
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    torch.manual_seed(seed)
    own = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**_common() | own | changes)).eval()


def tiny_neo(blocks: int = 2) -> Any:
    """GPT-Neo of the same sizes, with blocks that see all and blocks that see five tokens."""
    import torch
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    kinds = [[["global", "local"], blocks // 2]]
    own = {"num_layers": blocks, "num_heads": 2, "attention_types": kinds, "window_size": 5}
    return GPTNeoForCausalLM(GPTNeoConfig(**_common() | own)).eval()


def _common() -> dict[str, Any]:
    return {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": None,
        "initializer_range": 0.3,
    }


def save_tiny(folder: Path, model: Any = None) -> Path:
    """Writes a model, else `tiny_model()`, and the tokenizer into a folder."""
    (tiny_model() if model is None else model).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
