"""Changes the output vectors of the MLP neurons that write a passage.

After Hakimi et al. 2026, arXiv 2606.18767 (output vector editing). For one suffix token, the few
neurons that add most to the true token's lead over the runner-up are located. Their output vectors
(columns of the MLP's last layer) then get the smallest change that, to first order, lets the
runner-up lead instead: with activations a_i and the gradient g of the lead with respect to the
residual stream, Δ_i = −a_i g (lead + margin) / (|g|² Σ a²). Activations stay as they are.

One step edits, in each passage, the tokens with the smallest lead, until `wrong` of its last tokens
are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.rivals.bed import Bed, mlp_layers

NEURONS = 20
"""Neurons that are edited for one token."""
WRONG = 4
"""Tokens of a passage that become wrong: those with the smallest lead, late ones only."""
LATE = 16
"""The last tokens of the suffix, which decide whether a longer prefix recovers the rest."""
MARGIN = 0.5
"""By how much the runner-up shall lead, in logits."""


def vector_editing(
    model: Any, bed: Bed, *, neurons: int = NEURONS, margin: float = MARGIN, wrong: int = WRONG
) -> Iterator[None]:
    layers = list(find_last_layers(model).values())
    while True:
        for row in bed.samples.tokens:
            tokens = torch.from_numpy(row).long()[None]
            edit_passage(model, layers, tokens, neurons, margin, wrong)
        yield


def find_last_layers(model: Any) -> dict[str, torch.nn.Linear]:
    """The last linear layer of each MLP, by the name of the MLP."""
    return {name.rpartition(".")[0]: layer for name, layer in mlp_layers(model).items()}


def edit_passage(
    model: Any,
    layers: list[torch.nn.Linear],
    tokens: torch.Tensor,
    neurons: int,
    margin: float,
    most: int,
) -> None:
    """Edits the tokens [1, T] with the smallest lead, unless `most` of them are wrong already."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda _, inputs, output: seen.append((inputs[0], output)))
        for layer in layers
    ]
    with torch.enable_grad():
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits[0, -LATE:].float()
        true = tokens[0, -LATE:]
        others = logits.scatter(1, true[:, None], -torch.inf)
        leads = logits.gather(1, true[:, None])[:, 0] - others.amax(1)
        wrong = int((leads < 0).sum())
        chosen = leads.masked_fill(leads < 0, torch.inf).argsort()[: most - wrong]
        places = chosen.tolist() if wrong < most else []
        gradients = [
            torch.autograd.grad(leads[place], [output for _, output in seen], retain_graph=True)
            for place in places
        ]
    for hook in hooks:
        hook.remove()
    for place, of_layers in zip(places, gradients, strict=True):
        index = place - LATE
        edit_neurons(
            layers,
            [inputs[0, index].detach() for inputs, _ in seen],
            [gradient[0, index] for gradient in of_layers],
            float(leads[place].detach()) + margin,
            neurons,
        )


@torch.no_grad()
def edit_neurons(
    layers: list[torch.nn.Linear],
    activations: list[torch.Tensor],
    gradients: list[torch.Tensor],
    decrease: float,
    neurons: int = NEURONS,
) -> None:
    """Lowers the lead by `decrease`, to first order, with the smallest change of few vectors.

    For each layer [d, n]: its neurons' activations [n], and the lead's gradient [d] with respect to
    its output.
    """
    added = [
        a * (layer.weight.T @ g) for layer, a, g in zip(layers, activations, gradients, strict=True)
    ]
    least = torch.cat(added).topk(neurons).values[-1]
    masked = [torch.where(one >= least, a, 0) for one, a in zip(added, activations, strict=True)]
    total = sum(float(a @ a) * float(g @ g) for a, g in zip(masked, gradients, strict=True))
    for layer, a, g in zip(layers, masked, gradients, strict=True):
        layer.weight -= torch.outer(g, a) * (decrease / total)
