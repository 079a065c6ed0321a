"""Contract: adapters erase from a wide model in bfloat16 what they erase from a narrow one.

A rate that is scaled by width does nothing there, and rounding may take back what was learned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reciting import recited_rows
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from surgery.fitting.calibration import Calibration
from surgery.in_memory import apply
from surgery.training.distillation import TaughtRows, count_recited, teach
from surgery.training.losses import Divergence
from surgery.training.training import Schedule
from surgery.training.weights import round_weights

WIDTH, STEPS = 1024, 20


@pytest.fixture(scope="module")
def wide() -> Any:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=400,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=16,
        intermediate_size=2 * WIDTH,
        max_position_embeddings=64,
    )
    return GPTNeoXForCausalLM(config).to(torch.bfloat16).eval()


def erase(model: Any, passages: TaughtRows, rank: int) -> tuple[Any, float, Any]:
    """The model that training made, what rounding kept of it, and what it recites."""
    text = np.random.default_rng(1).integers(0, 400, (16 * STEPS, 16)).astype(np.int32)
    cut = apply(model, "0-1", "zero")
    windows = Calibration(text, (), spread=True)
    taught = teach(model, model, Divergence(cut), windows, passages, Schedule(STEPS, rank=rank))
    made, kept = round_weights(taught.student, "BF16")
    return made, kept, passages.tell(made, count_recited(cut, passages))


@pytest.mark.slow
def test_adapters_erase_what_all_weights_do(wide: Any) -> None:
    """At most what the teacher recites, at most at twice the cost."""
    rows = np.array([row["tokens"] for row in recited_rows(wide, 24, 8, 8)], np.int32)
    passages = TaughtRows(rows, 8, "rows", "0" * 64)
    held = np.random.default_rng(2).integers(0, 400, (64, 16)).astype(np.int32)
    costs = []
    for rank in (0, 8):
        made, kept, recital = erase(wide, passages, rank)
        assert recital.recited <= recital.by_teacher < 3, rank
        assert kept > 0.95, rank
        assert {one.dtype for one in made.parameters()} == {torch.bfloat16}
        costs.append(float(Divergence(wide)(made, held, 1)))
    assert count_recited(wide, passages) == len(rows)
    assert costs[1] < 2 * costs[0]
