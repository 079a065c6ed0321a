"""The rivals in benchmarks/rivals, each on a case whose effect is known."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.rivals.bed import Bed, Rival, mlp_layers
from benchmarks.rivals.kfac import kfac, remove_flat
from benchmarks.rivals.training import gradient_difference_kl, npo_kl, npo_loss, simnpo
from benchmarks.rivals.vector_editing import NEURONS, edit_neurons, vector_editing
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


def test_npo_loss_is_its_formula_and_lets_go_of_what_is_unlikely() -> None:
    nll, before = torch.tensor([3.0, 3.0, 900.0], requires_grad=True), torch.tensor([1.0, 9.0, 1.0])
    ratio = torch.exp(before - nll.detach())  # pi / pi_ref
    expected = 2 / 0.1 * torch.log1p(ratio**0.1)  # equation 3 of the paper
    found = npo_loss(nll, before)
    torch.testing.assert_close(found, expected)
    found.sum().backward()
    assert nll.grad is not None
    assert nll.grad[1] < nll.grad[0] < nll.grad[2]
    assert abs(nll.grad[2]) < 1e-30


def test_a_vector_edit_lowers_a_linear_lead_by_exactly_the_amount_asked() -> None:
    torch.manual_seed(0)
    layers = [torch.nn.Linear(64, 8, bias=False) for _ in range(2)]
    activations = [torch.randn(64) for _ in layers]
    gradients = [torch.randn(8) for _ in layers]
    before = [layer.weight.detach().clone() for layer in layers]

    def lead() -> float:
        return sum(
            float(g @ (layer.weight.detach() @ a))
            for layer, a, g in zip(layers, activations, gradients, strict=True)
        )

    old = lead()
    edit_neurons(layers, activations, gradients, 1.5)
    assert lead() == pytest.approx(old - 1.5, abs=1e-4)
    columns = sum(
        int((layer.weight != was).any(0).sum()) for layer, was in zip(layers, before, strict=True)
    )
    assert columns == NEURONS


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rival", "steps"),
    [
        (partial(gradient_difference_kl, rate=1e-3), 4), (partial(npo_kl, rate=1e-3), 4),
        (partial(simnpo, rate=1e-3), 4), (kfac, 21), (vector_editing, 2),
    ],
)  # fmt: skip
def test_each_rival_makes_the_lab_model_recite_less(
    bed: tuple[Any, Bed], rival: Rival, steps: int
) -> None:
    model, passages = bed
    assert passages.measure_recovered(model) == 1.0
    seen = (passages.measure_recovered(model) for _ in islice(rival(model, passages), steps))
    assert any(recovered <= 0.5 for recovered in seen)
    assert all(layer.weight.isfinite().all() for layer in mlp_layers(model).values())
