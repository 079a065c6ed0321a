"""What attention's mixing adds at each token of a block, and two upper bounds on it.

For head h, M_h = W_O^h W_V^h [d, d]; a^h the attention weights; x the attention input after the
layer norm; token i of block l adds Σ_h W_O^h Σ_j a_ij^h (W_V^h x_j + b_V^h) + b_O with mixing, and
Σ_h W_O^h (W_V^h x_i + b_V^h) + b_O without (the `identity` variant, every token attending to itself
alone). Rows of a sum to 1, so both biases cancel in the difference:

    Δ_i = Σ_h M_h u_i^h        u_i^h = Σ_j a_ij^h (x_j − x_i)

and by the triangle inequality and the definition of the spectral norm

    ‖Δ_i‖ ≤ Σ_h ‖M_h‖ ‖u_i^h‖ ≤ Σ_h ‖M_h‖ Σ_j a_ij^h ‖x_j − x_i‖                      (`pairwise`)
    ‖Δ_i‖ ≤ ‖[M_1 … M_H]‖ (Σ_h ‖u_i^h‖²)^½

`bound` is the lesser of the two tighter ones, token by token. Both hold for every input; they are
of the same kind as the theorems of Menta, Agrawal and Agarwal 2025 (arXiv 2501.05078), which bound
the difference of a layer's output with and without attention bypassed. docs/bounds.md says more.

Shape letters: B rows, T tokens, H heads, h head size, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from evals.bounds.attention import AttentionView, attending_family
from surgery.errors import MeasurementError
from surgery.layouts import Block


@dataclass(frozen=True)
class Norms:
    """Spectral norms of one block, computed in float64.

    `per_head`: float64 [H], ‖W_O^h W_V^h‖; `stacked`: ‖[W_O^1 W_V^1 … W_O^H W_V^H]‖, at most the
    root of the sum of their squares, and at least the largest of them.
    """

    per_head: torch.Tensor
    stacked: float


def norms_of(model: PreTrainedModel, block: int) -> Norms:
    """`Norms` of a block. No [d, d] product is formed: W_V^h = (Q R)ᵀ with orthonormal Q, which
    leaves ‖W_O^h W_V^h‖ = ‖W_O^h Rᵀ‖, a [d, h] matrix; side by side they are [d, d].

    Raises `MeasurementError` when a weight is not finite.
    """
    family = attending_family(model)
    dimensions = family.dimensions(model.config.to_dict())
    heads, size, d = dimensions.num_heads, dimensions.head_size, dimensions.d

    def weight(name: str) -> Any:
        stored = model.get_parameter(name).detach()
        if not stored.isfinite().all():
            raise MeasurementError("a weight is not finite", where=name, fix="the model is broken")
        return stored.cpu().double()

    tensors = Block(family, dimensions, block, frozenset(), weight)
    value_Hhd: Any = tensors.sources().weight
    output_Hdh: Any = tensors.read("output_weight").reshape(d, heads, size).swapaxes(0, 1)
    r_Hhh = torch.linalg.qr(value_Hhd.mT, mode="r").R
    reduced_Hdh = output_Hdh @ r_Hhh.mT
    per_head = torch.linalg.matrix_norm(reduced_Hdh, ord=2)
    stacked = torch.linalg.matrix_norm(reduced_Hdh.transpose(0, 1).reshape(d, -1), ord=2)
    return Norms(per_head, float(stacked))


def differences(view: AttentionView, norms: Norms) -> torch.Tensor:
    """‖Δ_i‖ and its bounds, not yet relative to the residual.

    Returns float64 [3, B, T]: measured, `bound`, `pairwise`. The bounds hold up to the rounding of
    the model's own dtype, in which attention was computed.
    """
    x_BTd = view.inputs.double()
    measured = (view.output.double() - view.alone.double()).norm(dim=-1)
    distance_BTT = _distances(x_BTd)
    by_head, squares, pairwise = (torch.zeros_like(measured) for _ in range(3))
    for head, norm in enumerate(norms.per_head.tolist()):
        a_BTT = view.pattern[:, head].double()
        shift = (a_BTT @ x_BTd - a_BTT.sum(-1, keepdim=True) * x_BTd).norm(dim=-1)
        by_head += norm * shift
        squares += shift.square()
        pairwise += norm * (a_BTT * distance_BTT).sum(-1)
    return torch.stack([measured, by_head.minimum(norms.stacked * squares.sqrt()), pairwise])


def _distances(x_BTd: torch.Tensor) -> torch.Tensor:
    """‖x_j − x_i‖, float64 [B, T, T], through products: cancellation leaves 1e-8 ‖x‖."""
    squares_BT = x_BTd.square().sum(-1)
    products_BTT = x_BTd @ x_BTd.mT
    distance = squares_BT[:, :, None] + squares_BT[:, None] - 2 * products_BTT
    distance.diagonal(dim1=1, dim2=2).zero_()
    return distance.clamp_(min=0).sqrt_()
