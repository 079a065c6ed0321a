"""Contract: a stock export equals, bit for bit, the model whose attention modules are replaced.

The reference is built here, from the source checkpoint, without the code under test: the attention
module of each edited block becomes W_O (W_V x + b_V) + b_O, computed by the library's own layers.
Every dtype, attention implementation and head size of the Pythia suite; one token and 2,048; left
padding; with and without a cache. No tolerance anywhere. On a GPU where there is one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import DTYPES, neo_config, neox_config, write_checkpoint
from torch import nn

import surgery
from surgery.editing.loading import load_model

HEAD_SIZES = (32, 64, 80, 96, 128, 256)
POSITIONS = 2048
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class OwnValuesOnly(nn.Module):
    """GPT-NeoX attention in which every token sees its own value and nothing else."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.query_key_value, self.dense = attention.query_key_value, attention.dense
        self.head_size, self.layer_idx = attention.head_size, attention.layer_idx

    def forward(self, x: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        heads = self.query_key_value(x).view(*x.shape[:2], -1, 3 * self.head_size)
        values = heads[..., 2 * self.head_size :]
        if kwargs.get("layer_past") is not None:  # so that the cache counts its tokens
            cached = values.transpose(1, 2)
            kwargs["layer_past"].update(cached, cached, self.layer_idx)
        return self.dense(values.reshape(x.shape)), None


class Nothing(nn.Module):
    """An attention branch that adds nothing."""

    def forward(self, x: torch.Tensor, **kwargs: Any) -> tuple[torch.Tensor, None]:
        return torch.zeros_like(x), None


def neox_pair(
    folder: Path, blocks: tuple[int, ...], attn: str, *, variant: str = "identity", **config: Any
) -> tuple[Any, Any]:
    """(the stock export, the reference), both loaded in their stored dtype."""
    source = write_checkpoint(folder / "source", neox_config(**config))
    spec = ",".join(map(str, blocks))
    out = folder / "out"
    surgery.export(source, spec, output=out, variant=variant, layout="stock")
    edited, reference = (
        load_model(path, attn_implementation=attn).to(DEVICE) for path in (out, source)
    )
    assert type(edited).__module__.startswith("transformers.")
    for block in blocks:
        layer = reference.gpt_neox.layers[block]
        layer.attention = OwnValuesOnly(layer.attention) if variant == "identity" else Nothing()
    return edited, reference


def tokens(vocabulary: int, *shape: int) -> torch.Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(1)).to(DEVICE)


@torch.no_grad()
def assert_equal_without_cache(edited: Any, reference: Any, length: int) -> None:
    ids = tokens(edited.config.vocab_size, 1, length)
    ours, theirs = edited(ids, use_cache=False).logits, reference(ids, use_cache=False).logits
    assert torch.isfinite(ours).all()
    assert torch.equal(ours, theirs)


@torch.no_grad()
def assert_equal_padded_and_cached(edited: Any, reference: Any) -> None:
    """Left padding, a prefill, and single-token steps that continue from the cache."""
    ids = tokens(edited.config.vocab_size, 2, 40)
    mask = torch.ones_like(ids)
    mask[0, :13] = 0
    caches: list[Any] = [None, None]
    for start, end in ((0, 33), (33, 34), (34, 35), (35, 40)):
        logits = []
        for i, model in enumerate((edited, reference)):
            out = model(
                ids[:, start:end],
                attention_mask=mask[:, :end],
                position_ids=(mask[:, :end].cumsum(1) - 1).clamp(min=0)[:, start:end],
                use_cache=True,
                **{cache_argument(model): caches[i]},
            )
            caches[i] = out[cache_argument(model)]
            logits.append(out.logits[mask[:, start:end].bool()])
        assert torch.equal(*logits)


def cache_argument(model: Any) -> str:
    """transformers renamed `past_key_values` to `cache`."""
    import inspect

    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


SLOW = ("float16", "eager")  # which a CPU computes in single numbers
CELLS = [
    pytest.param(dtype, attn, marks=pytest.mark.slow if (dtype, attn) == SLOW else ())
    for dtype in DTYPES
    for attn in ("eager", "sdpa")
]


@pytest.mark.parametrize(("dtype", "attn"), CELLS)
@pytest.mark.parametrize("head_size", HEAD_SIZES)
def test_identity(tmp_path: Path, head_size: int, dtype: str, attn: str) -> None:
    edited, reference = neox_pair(
        tmp_path,
        (1,),
        attn,
        hidden_size=2 * head_size,
        intermediate_size=head_size,
        num_hidden_layers=2,
        torch_dtype=dtype,
    )
    assert_equal_without_cache(edited, reference, 1)
    assert_equal_without_cache(edited, reference, POSITIONS)
    assert_equal_padded_and_cached(edited, reference)


@pytest.mark.parametrize("variant", ["identity", "zero"])
def test_without_attention_biases(tmp_path: Path, variant: str) -> None:
    edited, reference = neox_pair(tmp_path, (0, 3), "sdpa", variant=variant, attention_bias=False)
    assert_equal_without_cache(edited, reference, 300)


def test_all_dimensions_rotary(tmp_path: Path) -> None:
    edited, reference = neox_pair(tmp_path, (1,), "sdpa", rotary_pct=1.0)
    assert_equal_without_cache(edited, reference, POSITIONS)


def test_all_blocks(tmp_path: Path) -> None:
    edited, reference = neox_pair(tmp_path, (0, 1, 2, 3), "sdpa")
    assert_equal_padded_and_cached(edited, reference)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gpt_neo_zero(tmp_path: Path, dtype: str) -> None:
    """Global and local blocks; GPT-Neo runs eager attention only."""
    source = write_checkpoint(tmp_path / "source", neo_config(torch_dtype=dtype))
    out = tmp_path / "out"
    surgery.export(source, "0,3", output=out, variant="zero", layout="stock")
    edited, reference = load_model(out).to(DEVICE), load_model(source).to(DEVICE)
    for block in (0, 3):
        reference.transformer.h[block].attn = Nothing()
    assert_equal_without_cache(edited, reference, 1)
    assert_equal_without_cache(edited, reference, POSITIONS)
