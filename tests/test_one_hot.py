"""Contract: the constant queries and keys leave a gap that no dtype's rounding can close.

The gap that the search reports is checked against the scores themselves, computed the obvious way
in float64, and against rotated queries and keys in the least precise dtype.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import transformers
from command_line import memory_below
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from surgery.errors import CheckpointError, MarginError
from surgery.families import FAMILIES
from surgery.onehot import UNDERFLOW, frequencies, search

# model: head size, rotary share, worst gap measured for the model before
SUITE = {
    "14m, 31m": (32, 272.211),
    "70m to 410m": (64, 315.335),
    "1b": (256, 320.675),
    "1.4b, 6.9b, 12b": (128, 314.097),
    "2.8b": (80, 302.838),
    "GPT-NeoX-20b": (96, 359.863),
}


SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 8}


def inverse_frequencies(config: dict[str, object], head_size: int) -> tuple[float, ...]:
    whole = {**SIZES, "hidden_size": 2 * head_size, "max_position_embeddings": 2048, **config}
    return tuple(frequencies(whole, FAMILIES["gpt_neox"], 0)[0].tolist())


def pythia_frequencies(head_size: int) -> tuple[float, ...]:
    return inverse_frequencies({"rotary_pct": 0.25, "rotary_emb_base": 10_000}, head_size)


@pytest.mark.parametrize("model", SUITE)
def test_every_pythia_size_has_a_wide_margin(model: str) -> None:
    head_size, gap = SUITE[model]
    found = search(pythia_frequencies(head_size), head_size, 2048)
    assert found.gap == gap
    assert found.gap > found.required > UNDERFLOW
    assert found.kappa**2 * found.num_pairs <= 30_000


@given(
    head_size=st.sampled_from([32, 64, 80, 96, 128, 256]),
    share=st.sampled_from([0.25, 0.5, 1.0]),
    base=st.sampled_from([1_000.0, 10_000.0, 500_000.0]),
    positions=st.integers(1, 2048),
)
def test_gap_is_the_worst_of_all_offsets(
    head_size: int, share: float, base: float, positions: int
) -> None:
    theta = inverse_frequencies({"rotary_pct": share, "rotary_emb_base": base}, head_size)
    try:
        found = search(theta, head_size, positions)
    except MarginError:
        return
    score = [
        found.kappa**2
        * sum(math.cos(angle * offset) for angle in theta[: found.num_pairs])
        / math.sqrt(head_size)
        for offset in range(found.num_offsets + 1)
    ]
    gaps = [score[0] - other for other in score[1:]]
    assert min(gaps) == pytest.approx(found.gap, abs=0.01)


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LONG = {  # config.json beside head_dim, and positions
    "Llama 3.1": ({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 131_072),
    "Qwen2.5": ({"rope_theta": 1e6}, 32_768),
    "Qwen2.5, yarn": (
        {"rope_theta": 1e6, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        131_072,
    ),
    "linear": ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 4096),
}


@pytest.mark.parametrize("model", LONG)
def test_long_contexts_hold_with_the_rounding_of_float32(model: str) -> None:
    """Angles as the library computes them, at offsets from positions all over the context."""
    given, length = LONG[model]
    original = 8192 if model.startswith("Llama") else 32_768
    config = {"max_position_embeddings": length, "head_dim": 128, **given}
    if "rope_scaling" in config:
        config["rope_scaling"] = {
            "original_max_position_embeddings": original, **config["rope_scaling"]
        }  # fmt: skip
    config = {**SIZES, "hidden_size": 256, **config}
    rotary = LlamaRotaryEmbedding(transformers.LlamaConfig(**config))
    theta, growth = frequencies(config, FAMILIES["llama"], 0)
    torch.testing.assert_close(torch.tensor(theta).float(), rotary.inv_freq, rtol=1e-6, atol=0)
    assert growth == pytest.approx(rotary.attention_scaling)
    found = search(tuple(theta.tolist()), 128, length, growth=growth)
    pairs = rotary.inv_freq[: found.num_pairs]
    angles = (torch.arange(length).float()[:, None] * pairs).double()
    unit = (found.kappa * growth) ** 2 / math.sqrt(128)
    for last in torch.randint(length // 2, length, (20,)).tolist():
        lost = (1 - torch.cos(angles[last] - angles[:last])).sum(-1)
        assert float(lost.min()) * unit > found.gap - 0.01
    assert found.num_offsets == length - 1


def test_long_contexts_need_no_table_of_all_offsets() -> None:
    """131,072 offsets of 64 pairs would take 67 MB in float64."""
    theta = tuple(5e5 ** -(np.arange(0, 128, 2) / 128))
    with memory_below(4e6):
        found = search(theta, 128, 131_072)
    assert found.gap > found.required
    assert found.num_offsets == 131_071


@pytest.mark.parametrize(
    ("config", "head_size", "positions", "figure"),
    [
        ({"rotary_pct": 0.0}, 64, 2048, "got no rotary dimensions"),
        ({"rotary_pct": 0.05}, 64, 2048, "got a gap of"),
        ({"rotary_emb_base": 1e12}, 64, 2048, "got a gap of"),
    ],
)
def test_refuses_with_the_figure(
    config: dict[str, float], head_size: int, positions: int, figure: str
) -> None:
    with pytest.raises(MarginError, match=figure) as error:
        search(inverse_frequencies(config, head_size), head_size, positions)
    assert "variant=zero" in str(error.value)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rotary_pct": "a quarter"}, "the rotary share is not a number from 0 to 1"),
        ({"rotary_pct": 1.5}, "the rotary share is not a number from 0 to 1"),
        ({"rotary_emb_base": 0}, "the rotary base is not a number of at least 1"),
        ({"rope_parameters": [1]}, "'rope_parameters' or 'rope_scaling' is not an object"),
    ],
)
def test_refuses_values_that_make_no_sense(config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        inverse_frequencies(config, 64)


def test_refuses_a_context_too_long_to_prove() -> None:
    with pytest.raises(MarginError, match="up to 4,194,304, got 1000000000000"):
        search(pythia_frequencies(64), 64, 10**12)


def test_both_spellings_of_the_configuration_agree() -> None:
    old = inverse_frequencies({"rotary_pct": 0.25, "rotary_emb_base": 10_000}, 64)
    parameters = {"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.25}
    new = inverse_frequencies({"rope_parameters": parameters}, 64)
    assert old == new
