"""Contract: models whose blocks partly have linear attention are measured like all others.

Such a block keeps one state for all earlier tokens, which cannot be cut back to fewer of them. The
library's own `generate` says what greedy decoding is.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from decoders import write_decoder

from evals.measure.memorization.extraction import run_pass
from evals.measure.memorization.measures import first_divergence
from evals.run.decoding import continue_prompt
from evals.run.early_exit import read_divergences
from evals.run.predictions import Sampling
from surgery.editing.loading import load_model

PREFIX, SUFFIX = 8, 12
TYPES = ["linear_attention", "full_attention", "linear_attention"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """Sure of what comes next, so that greedy decoding is likely in sampling, too."""
    folder = tmp_path_factory.mktemp("linear")
    made = load_model(write_decoder(folder, "qwen3_5_text", layer_types=TYPES))
    with torch.no_grad():
        made.lm_head.weight.mul_(16)
    return made


@pytest.fixture(scope="module")
def rows(model: torch.nn.Module) -> np.ndarray:
    """Six rows: the first is recited, the next leave the true suffix after 1, 2, 4, 7 tokens."""
    prompts = np.random.default_rng(0).integers(5, 60, (6, PREFIX))
    made = generate(model, torch.from_numpy(prompts))
    for row, place in enumerate((1, 2, 4, 7, 11), 1):
        made[row, PREFIX + place] = (made[row, PREFIX + place] + 1) % 50
    return made.numpy().astype(np.int32)


def generate(model: torch.nn.Module, prompts: torch.Tensor) -> torch.Tensor:
    options = {"min_new_tokens": SUFFIX, "do_sample": False, "pad_token_id": 0}
    return model.generate(prompts, max_new_tokens=SUFFIX, **options)


def test_greedy_decoding_is_the_library_s(model: torch.nn.Module, rows: np.ndarray) -> None:
    found = run_pass(model, rows, PREFIX, full=True, sampling=Sampling(), batch_size=4)
    prompts = torch.from_numpy(rows[:, :PREFIX].astype(np.int64))
    assert found.decoded is not None
    assert found.decoded.tolist() == generate(model, prompts)[:, PREFIX:].tolist()
    leaves = first_divergence(found.predictions.greedy, rows[:, PREFIX:])
    assert leaves.tolist() == [12, 1, 2, 4, 7, 11]
    continued = continue_prompt(model, rows[1, :PREFIX].tolist(), SUFFIX)
    assert continued[0].tolist() == found.decoded[1].tolist()


def test_early_exit_finds_where_each_row_leaves(model: torch.nn.Module, rows: np.ndarray) -> None:
    tokens = torch.from_numpy(rows.astype(np.int64))
    assert read_divergences(model, tokens, PREFIX).tolist() == [12, 1, 2, 4, 7, 11]
