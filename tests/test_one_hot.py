"""Contract: the constant queries and keys leave a gap that no dtype's rounding can close.

The gap that the search reports is checked against the scores themselves, computed the obvious way
in float64, and against rotated queries and keys in the least precise dtype.
"""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import CheckpointError, MarginError
from surgery.layouts.one_hot import UNDERFLOW, OneHot, inverse_frequencies, one_hot

# model: head size, rotary share, worst gap measured for the model before
SUITE = {
    "14m, 31m": (32, 272.211),
    "70m to 410m": (64, 315.335),
    "1b": (256, 320.675),
    "1.4b, 6.9b, 12b": (128, 314.097),
    "2.8b": (80, 302.838),
    "GPT-NeoX-20b": (96, 359.863),
}


def pythia_frequencies(head_size: int) -> np.ndarray:
    return inverse_frequencies({"rotary_pct": 0.25, "rotary_emb_base": 10_000}, head_size)


@pytest.mark.parametrize("model", SUITE)
def test_every_pythia_size_has_a_wide_margin(model: str) -> None:
    head_size, gap = SUITE[model]
    found = one_hot(pythia_frequencies(head_size), head_size, 2048)
    assert found.gap == gap
    assert found.gap > found.required > UNDERFLOW
    assert found.kappa**2 * found.num_pairs <= 30_000


@given(
    head_size=st.sampled_from([32, 64, 80, 96, 128, 256]),
    share=st.sampled_from([0.25, 0.5, 1.0]),
    base=st.sampled_from([1_000.0, 10_000.0, 500_000.0]),
    positions=st.integers(1, 3000),
)
def test_gap_is_the_worst_of_all_offsets(
    head_size: int, share: float, base: float, positions: int
) -> None:
    frequencies = inverse_frequencies({"rotary_pct": share, "rotary_emb_base": base}, head_size)
    try:
        found = one_hot(frequencies, head_size, positions)
    except MarginError:
        return
    score = [
        found.kappa**2
        * sum(math.cos(theta * offset) for theta in frequencies[: found.num_pairs])
        / math.sqrt(head_size)
        for offset in range(found.num_offsets + 1)
    ]
    gaps = [score[0] - other for other in score[1:]]
    assert min(gaps) == pytest.approx(found.gap, abs=0.01)
    assert gaps[found.worst_offset - 1] == pytest.approx(min(gaps), abs=0.01)


@pytest.mark.parametrize("head_size", [head_size for head_size, _ in SUITE.values()])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_softmax_is_one_hot_in_every_dtype(head_size: int, dtype: torch.dtype) -> None:
    """Rotates as the library does, and rounds where it rounds."""
    frequencies = torch.tensor(pythia_frequencies(head_size), dtype=torch.float32)
    found = one_hot(pythia_frequencies(head_size), head_size, 2048)
    angles = torch.arange(2048).float()[:, None] * frequencies
    cos, sin = (torch.cat([f, f], dim=-1).to(dtype) for f in (angles.cos(), angles.sin()))
    constant = torch.zeros(2 * len(frequencies), dtype=dtype)
    constant[: found.num_pairs] = found.kappa
    half = len(frequencies)
    turned = torch.cat([-constant[half:], constant[:half]])
    rotated = constant * cos + turned * sin
    scores = (rotated @ rotated.T) * head_size**-0.5
    assert torch.isfinite(scores).all()
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32)
    assert torch.equal(weights, torch.eye(2048))


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
        one_hot(inverse_frequencies(config, head_size), head_size, positions)
    assert "use `layout=compact`" in str(error.value)


@pytest.mark.parametrize(
    "config",
    [
        {"rope_scaling": {"type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 10_000.0}},
    ],
)
def test_refuses_rotary_scaling(config: dict[str, object]) -> None:
    with pytest.raises(MarginError, match=r"rotary scaling '(linear|dynamic|yarn)'"):
        inverse_frequencies(config, 64)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"rotary_pct": "a quarter"}, "the rotary share makes no sense"),
        ({"rotary_pct": 1.5}, "the rotary share makes no sense"),
        ({"rotary_emb_base": 0}, "the rotary base makes no sense"),
        ({"rope_parameters": [1]}, "'rope_parameters' is not an object"),
    ],
)
def test_refuses_values_that_make_no_sense(config: dict[str, object], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        inverse_frequencies(config, 64)


def test_refuses_a_context_too_long_to_prove() -> None:
    with pytest.raises(MarginError, match="up to 4,194,304, got 1000000000000"):
        one_hot(pythia_frequencies(64), 64, 10**12)


def test_both_spellings_of_the_configuration_agree() -> None:
    old = inverse_frequencies({"rotary_pct": 0.25, "rotary_emb_base": 10_000}, 64)
    parameters = {"rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.25}
    new = inverse_frequencies({"rope_parameters": parameters}, 64)
    assert np.array_equal(old, new)


def test_record_is_plain_data() -> None:
    record = asdict(OneHot(70, 6, 315.3, 190.1, 1, 2047))
    assert record["kappa"] == 70
    assert set(record) == {
        "kappa", "num_pairs", "gap", "required", "worst_offset", "num_offsets"
    }  # fmt: skip
