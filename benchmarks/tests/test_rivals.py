"""The rivals in benchmarks/rivals, each on a case whose effect is known."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.rivals.bed import Bed, mlp_layers
from benchmarks.rivals.kfac import kfac, remove_flat
from evals.data import load_samples
from evals.data.windows import cut_windows
from evals.lab import calibration_texts
from evals.run.models import open_model


@pytest.fixture
def bed() -> tuple[Any, Bed]:
    loaded = open_model("lab:pythia", dtype="float32")
    samples = load_samples("lab:pythia")
    often = np.flatnonzero(samples.counts == np.max(samples.counts))[:16]
    text = cut_windows(calibration_texts(), loaded.tokenizer, 64, most=64)
    return (
        loaded.model.requires_grad_(True),
        Bed("lab:pythia", loaded.tokenizer, samples.select(often), text),
    )


def test_kfac_with_equal_output_gradients_keeps_the_principal_inputs() -> None:
    """The closed form of a linear layer: with G = 1 the edit projects W on top directions of A."""
    torch.manual_seed(0)
    weight = torch.randn(6, 8, dtype=torch.float64)
    basis, _ = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))
    values = torch.tensor([40.0, 30, 20, 4, 3, 2, 0.5, 0.5], dtype=torch.float64)
    inputs = basis @ values.diag() @ basis.T
    moments = (inputs, torch.eye(6, dtype=torch.float64))
    kept = remove_flat(weight, *(torch.linalg.eigh(one) for one in moments), 0.9 - 1e-9)
    top = basis[:, :3] @ basis[:, :3].T  # 40 + 30 + 20 are 90 % of all
    torch.testing.assert_close(kept, weight @ top)


@pytest.mark.slow
def test_kfac_makes_the_lab_model_recite_less(bed: tuple[Any, Bed]) -> None:
    model, passages = bed
    assert passages.measure_recovered(model) == 1.0
    seen = (passages.measure_recovered(model) for _ in islice(kfac(model, passages), 21))
    assert any(recovered <= 0.5 for recovered in seen)
    assert all(layer.weight.isfinite().all() for layer in mlp_layers(model).values())
