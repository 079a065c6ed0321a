"""What a loaded model is, beyond the hashes of its weights, and how large it is."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch

from evals.bench_process import cache_bytes
from evals.forward import hidden_states
from evals.report import Size
from evals.subjects import Subject
from surgery.checkpoint.source import open_checkpoint

__all__ = ["content_of", "size_of"]

_TOKENS = 8


def content_of(subject: Subject) -> dict[str, Any]:
    """Hashes of what weights alone do not tell: configuration and tokenizer."""
    config = subject.model.config.to_dict()
    config = {k: v for k, v in config.items() if k not in ("_name_or_path", "transformers_version")}
    tokenizer, text = subject.tokenizer, None
    if tokenizer is not None:
        fast = getattr(tokenizer, "backend_tokenizer", None)
        text = fast.to_str() if fast is not None else json.dumps(sorted(tokenizer.get_vocab()))
    return {
        "config_sha256": _sha256(json.dumps(config, sort_keys=True, default=str)),
        "tokenizer_sha256": None if text is None else _sha256(text),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def size_of(subject: Subject) -> Size:
    ids = torch.zeros(1, _TOKENS, dtype=torch.long, device=subject.model.device)
    with torch.inference_mode():
        _, cache = hidden_states(subject.model, ids, use_cache=True)
    return Size(
        parameters=sum(parameter.numel() for parameter in subject.model.parameters()),
        weight_bytes=sum(info.nbytes for info in open_checkpoint(subject.folder).infos.values()),
        cache_bytes_per_token=cache_bytes(cache) // _TOKENS if cache is not None else 0,
    )
