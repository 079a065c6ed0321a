"""Measures what attention's mixing adds at each token of a block, and two upper bounds on it.

For head h, a^h are the attention weights, M_h = W_O^h W_V^h, and x is what attention reads. The
branch's output with attention, less its output where every token attends only to itself, is

    Δ_i = Σ_h M_h u_i^h        u_i^h = Σ_j a_ij^h (x_j − x_i)

    ‖Δ_i‖ ≤ Σ_h ‖M_h‖ ‖u_i^h‖ ≤ Σ_h ‖M_h‖ Σ_j a_ij^h ‖x_j − x_i‖                      (`pairwise`)
    ‖Δ_i‖ ≤ ‖[M_1 … M_H]‖ (Σ_h ‖u_i^h‖²)^½

`bound` is the lesser of the two tighter ones, token by token. docs/bounds.md derives them. They are
of the same kind as the theorems of Menta, Agrawal and Agarwal 2025 (arXiv 2501.05078).

Shape letters: B rows, T tokens, H heads, h head size, d width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedModel

from surgery.errors import MeasurementError
from surgery.families import family_of
from surgery.layouts import Block


@dataclass(frozen=True)
class Mixing:
    """One block's weights per head, as the model has them, and spectral norms.

    `value` [H, h, d] and `output` [H, d, h]: W_V and W_O; `per_head`: ‖W_O^h W_V^h‖ of each head;
    `stacked`: ‖[W_O^1 W_V^1 … W_O^H W_V^H]‖.
    """

    value: torch.Tensor
    output: torch.Tensor
    per_head: list[float]
    stacked: float


def read_mixing(model: PreTrainedModel, block: int) -> Mixing:
    """Raises `MeasurementError` when a weight is not finite.

    No [d, d] product is formed. With orthonormal Q, W_V^h = (Q R)ᵀ leaves ‖W_O^h W_V^h‖ =
    ‖W_O^h Rᵀ‖, a [d, h] matrix; side by side they are [d, d].
    """
    config = model.config.to_dict()
    family = family_of(config)
    dimensions = family.dimensions(config)

    def weight(name: str) -> Any:
        stored = model.get_parameter(name).detach()
        if not stored.isfinite().all():
            raise MeasurementError("a weight is not finite", where=name, fix="the model is broken")
        return stored

    tensors = Block(family, dimensions, block, frozenset(), weight)
    value_Hhd: Any = tensors.sources().weight
    columns = tensors.read("output_weight").reshape(dimensions.d, *value_Hhd.shape[:2])
    output_Hdh: Any = columns.swapaxes(0, 1)
    r_Hhh = torch.linalg.qr(value_Hhd.cpu().double().mT, mode="r").R
    reduced_Hdh = output_Hdh.cpu().double() @ r_Hhh.mT
    per_head = torch.linalg.matrix_norm(reduced_Hdh, ord=2).tolist()
    stacked = torch.linalg.matrix_norm(torch.cat([*reduced_Hdh], dim=1), ord=2)
    return Mixing(value_Hhd, output_Hdh, per_head, float(stacked))


def measure_differences(x_BTd: torch.Tensor, a_BHTT: torch.Tensor, mixing: Mixing) -> torch.Tensor:
    """‖Δ_i‖, its `bound` and its `pairwise` bound: float64 [3, B, T].

    From `x_BTd`, what attention reads, and `a_BHTT`, its weights.
    """
    x_BTd = x_BTd.double()
    distance_BTT = torch.cdist(x_BTd, x_BTd)
    distance_BTT.diagonal(dim1=1, dim2=2).zero_()  # cdist leaves 1e-8 ‖x‖ there
    delta_BTd = torch.zeros_like(x_BTd)
    by_head, squares, pairwise = x_BTd.new_zeros(3, *x_BTd.shape[:2])
    for head, norm in enumerate(mixing.per_head):
        a_BTT = a_BHTT[:, head].double()
        u_BTd = a_BTT @ x_BTd - a_BTT.sum(-1, keepdim=True) * x_BTd
        value_hd, output_dh = mixing.value[head].double(), mixing.output[head].double()
        delta_BTd += u_BTd @ value_hd.mT @ output_dh.mT
        by_head += norm * u_BTd.norm(dim=-1)
        squares += u_BTd.square().sum(-1)
        pairwise += norm * (a_BTT * distance_BTT).sum(-1)
    bound = by_head.minimum(mixing.stacked * squares.sqrt())
    return torch.stack([delta_BTd.norm(dim=-1), bound, pairwise])
