"""The lab's tokenizer: byte-level BPE trained on the lab's text, shared by both models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SIZE = 1_000
"""Tokens, `<|endoftext|>` (id 0) among them."""

_END = "<|endoftext|>"
_NEOX = "GPTNeoXTokenizer"
_HUB_CLASS = {"pythia": _NEOX, "deep": _NEOX, "gpt-neo": "GPT2Tokenizer"}


def train_tokenizer(texts: Sequence[str]) -> Tokenizer:
    """Train it. The result depends on the texts alone."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=SIZE,
        special_tokens=[_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, name: str, folder: Path) -> None:
    """Write the tokenizer files of lab model `name` as its Hub repository has them."""
    stored = Tokenizer.from_str(tokenizer.to_str())
    if _HUB_CLASS[name] == _NEOX:
        stored.normalizer = normalizers.NFC()  # as GPT-NeoX's tokenizer has it
    stored.save(str(folder / "tokenizer.json"))
    special = {"bos_token": _END, "eos_token": _END, "unk_token": _END}
    settings = {"add_prefix_space": False, **special, "tokenizer_class": _HUB_CLASS[name]}
    for file, content in (
        ("special_tokens_map.json", special),
        ("tokenizer_config.json", settings),
    ):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
