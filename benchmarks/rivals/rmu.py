"""Steers what late blocks read on the passages toward a random direction.

Li et al. 2024, arXiv 2403.03218 (RMU): at one layer, the hidden states of the passages shall be a
fixed random vector, and those of other text shall stay. Only the MLPs of that layer and of the two
below learn. The paper gives the vector a fixed length; here it is `times` the length that hidden
states have there, which differs between models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.nn import functional

from benchmarks.rivals.bed import Bed
from benchmarks.rivals.training import LEARNING_RATE, train
from benchmarks.rivals.vector_editing import find_last_layers
from surgery.training.student import cast_weights


def rmu(
    model: Any,
    bed: Bed,
    *,
    depth: float = 0.5,
    times: float = 2.0,
    keep: float = 10.0,
    rate: float = LEARNING_RATE,
) -> Iterator[None]:
    """`depth`: of the layer, as a share of all; `keep`: the weight of other text."""
    layer = max(1, round(depth * model.config.num_hidden_layers))
    base = cast_weights(model, bed.passes)
    draw = torch.Generator().manual_seed(bed.seed)
    vector = torch.rand(model.config.hidden_size, generator=draw)
    passages, _ = next(bed.draw_batches())
    with torch.no_grad():
        length = _read(base, passages, layer).norm(dim=-1).mean()
    target = times * length * vector / vector.norm()

    def loss(passages: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            before = _read(base, text, layer)
        forget = functional.mse_loss(
            _read(model, passages, layer)[:, bed.samples.prefix_length - 1 :],
            target.expand(len(passages), bed.samples.suffix_length + 1, -1),
        )
        return forget + keep * functional.mse_loss(_read(model, text, layer), before)

    names = list(find_last_layers(model))[max(0, layer - 3) : layer]
    return train(model, bed, loss, rate, lambda name: name.startswith(tuple(names)))


def _read(model: Any, tokens: torch.Tensor, layer: int) -> torch.Tensor:
    """The hidden states after a layer: [B, T] → [B, T, d]. The head does not run."""
    seen = model.base_model(input_ids=tokens, use_cache=False, output_hidden_states=True)
    hidden: torch.Tensor = seen.hidden_states[layer]
    return hidden.float()
