"""Removes directions of low curvature from MLP weights.

Merullo et al. 2025, arXiv 2510.24256: what a model recites lies in directions in which the loss is
flat on average. K-FAC approximates the curvature of a layer W [out, in] by G ⊗ A, where A is the
second moment of the layer's inputs and G that of the gradients of its outputs, on ordinary text. In
the eigenbases of G and A each entry of W has its own curvature. The edit keeps the entries with the
most curvature, up to a share of the total, and removes the others.

The paper edits the layers of a few late blocks. This rival starts with the last block and half of
the model's depth is its most; in each range it keeps ever less curvature.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch.nn import functional

from benchmarks.rivals.bed import Bed, mlp_layers

KEPT = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of the curvature that remain, the mildest edit first."""
BATCHES = 20
"""Batches of other text for the moments."""

Moments = tuple[torch.Tensor, torch.Tensor]
Eigen = tuple[torch.Tensor, torch.Tensor]
"""Eigenvalues [n], ascending, and the basis [n, n] of a second moment."""


def kfac(model: Any, bed: Bed) -> Iterator[None]:
    number = model.config.num_hidden_layers
    late = {n: layer for n, layer in mlp_layers(model).items() if _block_of(n) >= number // 2}
    weights = {name: layer.weight.detach().clone() for name, layer in late.items()}
    found = measure_moments(model, late, bed)
    eigen = {name: [torch.linalg.eigh(one) for one in pair] for name, pair in found.items()}
    for kept in KEPT:
        for first in (number - 1, number * 3 // 4, number // 2):
            with torch.no_grad():
                for name, layer in late.items():
                    weight = weights[name]
                    if _block_of(name) >= first:
                        weight = remove_flat(weight, *eigen[name], kept)
                    layer.weight.copy_(weight)
            yield


def remove_flat(weight: torch.Tensor, inputs: Eigen, outputs: Eigen, kept: float) -> torch.Tensor:
    """W [m, n] with its directions of highest curvature only.

    `inputs` [n], `outputs` [m]: of the second moments. `kept`: the share of the curvature.
    """
    (in_values, in_basis), (out_values, out_basis) = inputs, outputs
    curvature = torch.outer(out_values.clamp(min=0), in_values.clamp(min=0))
    ordered, order = curvature.flatten().sort(descending=True)
    share = ordered.cumsum(0) / ordered.sum()
    mask = torch.zeros_like(ordered)
    mask[order[: int((share < kept).sum()) + 1]] = 1
    entries = (out_basis.T @ weight.double() @ in_basis) * mask.view_as(curvature)
    return (out_basis @ entries @ in_basis.T).to(weight.dtype)


def measure_moments(
    model: Any, layers: Mapping[str, torch.nn.Linear], bed: Bed
) -> dict[str, Moments]:
    """Layer → second moments of its inputs [n, n] and of its outputs' gradients [m, m], float64.

    The targets are drawn from the model itself, as for the Fisher information.
    """
    found = {
        name: [
            torch.zeros(size, size, dtype=torch.float64)
            for size in (layer.in_features, layer.out_features)
        ]
        for name, layer in layers.items()
    }
    hooks = [layer.register_forward_hook(_make_hook(found[name])) for name, layer in layers.items()]
    torch.manual_seed(bed.seed)
    batches = bed.draw_batches()
    model.requires_grad_(False)  # gradients of the other weights would take most of the time
    for layer in layers.values():
        layer.requires_grad_(True)
    for _ in range(BATCHES):
        _, text = next(batches)
        with torch.enable_grad():
            logits = model(input_ids=text[:, :-1], use_cache=False).logits.float()
            drawn = torch.distributions.Categorical(logits=logits.detach()).sample()
            loss = functional.cross_entropy(logits.flatten(0, 1), drawn.flatten(), reduction="sum")
            loss.backward()  # type: ignore[no-untyped-call]
        model.zero_grad()
    for hook in hooks:
        hook.remove()
    return {name: (inputs, outputs) for name, (inputs, outputs) in found.items()}


def _make_hook(sums: list[torch.Tensor]) -> Any:
    def add_inputs(layer: Any, inputs: Any, output: torch.Tensor) -> None:
        if not output.requires_grad:
            return
        _add_moment(sums[0], inputs[0].detach())

        def add_gradients(gradient: torch.Tensor) -> None:
            _add_moment(sums[1], gradient)

        output.register_hook(add_gradients)

    return add_inputs


def _add_moment(total: torch.Tensor, vectors: torch.Tensor) -> None:
    with torch.autocast(vectors.device.type, enabled=False):
        rows = vectors.flatten(0, -2).float()
        total.add_((rows.T @ rows).double())


def _block_of(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())
