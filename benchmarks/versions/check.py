"""Run inside an environment: whether the exported models load there, and equal the reference.

    python check.py FOLDER      # which holds source-FAMILY, and exports of it

Needs torch and transformers only. The reference is the source with the attention of the edited
blocks replaced by W_O (W_V x + b_V) + b_O while it runs, under the same versions. Prints JSON.
"""

from __future__ import annotations

import json
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

warnings.simplefilter("ignore")
BLOCKS = (4, 5)


def context_of(module: Any, hidden: torch.Tensor) -> torch.Tensor:
    """What the branch gives where every token attends to itself alone, [B, T, d]."""
    if hasattr(module, "out_proj"):  # GPT-Neo
        return module.out_proj(module.v_proj(hidden))
    batch, tokens, width = hidden.shape
    size = module.head_size if hasattr(module, "head_size") else module.head_dim
    rows = module.query_key_value(hidden).view(batch, tokens, -1, 3, size)
    return module.dense(rows[..., 2, :].reshape(batch, tokens, width))


def attend_to_self(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
    hidden = args[0] if args else kwargs["hidden_states"]
    return (context_of(module, hidden), *output[1:])


def logits(folder: Path, tokens: torch.Tensor, *, edited: bool = False, **options: Any) -> Any:
    model = AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options).eval()
    if edited:
        neox = model.config.model_type == "gpt_neox"
        blocks = model.gpt_neox.layers if neox else model.transformer.h
        for block in BLOCKS:
            module = blocks[block].attention if neox else blocks[block].attn.attention
            module.register_forward_hook(attend_to_self, with_kwargs=True)
    with torch.no_grad():
        return model(tokens).logits


def attempt(folder: Path, tokens: torch.Tensor, **options: Any) -> Any:
    """The logits, or what these versions raise, in one line."""
    try:
        return logits(folder, tokens, **options)
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]


def main(folder: Path) -> None:
    tokens = torch.randint(0, 1000, (2, 200), generator=torch.Generator().manual_seed(0))
    wanted = {
        name: logits(folder / f"source-{name}", tokens, edited=True)
        for name in ("pythia", "gpt-neo")
    }
    stock = logits(folder / "stock-pythia", tokens)
    found: dict[str, Any] = {
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "huggingface_hub")},
        "stock": torch.equal(stock, wanted["pythia"]),
        "compact": {},
    }
    for name, reference in wanted.items():
        compact = attempt(folder / f"compact-{name}", tokens, trust_remote_code=True)
        if not isinstance(compact, str):
            compact = float((compact - reference).abs().max() / reference.abs().max())
        found["compact"][name] = compact
    refusal = attempt(folder / "compact-pythia", tokens, trust_remote_code=False)
    if isinstance(refusal, str):
        found["without_code"] = refusal
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
