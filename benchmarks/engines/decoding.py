"""Greedy decoding in each engine: prefixes [B, P] → the next tokens, [B, length], int64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch


def with_transformers(folder: Path, prefixes: np.ndarray, length: int) -> np.ndarray:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None  # it is a token like any other, as elsewhere
    tokens = torch.from_numpy(prefixes)
    said = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        do_sample=False,
        max_new_tokens=length,
        pad_token_id=0,
    )
    return said[:, prefixes.shape[1] :].numpy()


def with_llama_cpp(
    path: Path, prefixes: np.ndarray, length: int, keys: str | None = None
) -> np.ndarray:
    """Of a GGUF file; one row at a time, with its cache. `keys`: how the cache holds keys."""
    import llama_cpp

    cache = None if keys is None else getattr(llama_cpp, f"GGML_TYPE_{keys.upper()}")
    model = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, logits_all=True, type_k=cache, verbose=False
    )
    said = np.empty((len(prefixes), length), np.int64)
    for row, prefix in enumerate(prefixes.tolist()):
        model.reset()
        following = prefix
        for step in range(length):
            model.eval(following)
            said[row, step] = model.scores[model.n_tokens - 1].argmax()
            following = [int(said[row, step])]
    model.close()
    return said


def write_onnx(folder: Path, path: Path, rows: int, tokens: int) -> None:
    """A model as torch's exporter writes it, for token ids of one shape: [rows, tokens]."""
    from transformers import AutoModelForCausalLM

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, attn_implementation="eager"
            ).eval()

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.model(ids, use_cache=False).logits

    ids = torch.zeros(rows, tokens, dtype=torch.int64)
    torch.onnx.export(
        Logits(), (ids,), path, input_names=["ids"], output_names=["logits"], dynamo=True
    )


def with_onnxruntime(path: Path, prefixes: np.ndarray, length: int) -> np.ndarray:
    """Of an ONNX file for [B, P + length]: what is not yet said is padding that no token sees."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(path), providers=["CPUExecutionProvider"])
    given = prefixes.shape[1]
    ids = np.pad(prefixes, ((0, 0), (0, length)))
    for place in range(given, given + length):
        (logits,) = session.run(["logits"], {"ids": ids})
        ids[:, place] = logits[:, place - 1].argmax(-1)
    return ids[:, given:]
