"""Rounds the weights to fewer bits, which can bring back what an edit hid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization.recovery import make_recovery

ATTACKS = {"quantized:4": {"rank": 41, "who": "files", "groups": "all default trained"}}
BITS, GROUP = 4, 32


def make_quantized_4() -> Attack:
    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("quantized:4")
        with quantize_matrices(target.model):
            return AttackOutcome.of_all(target.recover(target.model))

    return Attack(
        "quantized:4",
        f"every matrix rounded to nearest, with {2**BITS - 1} levels per group of {GROUP} weights",
        f"any, on the quantized model: {make_recovery('any').definition}",
        "Zhang et al. 2024, arXiv 2410.16454",
        "one pass of a quantized model",
        run,
    )


@contextmanager
def quantize_matrices(model: nn.Module) -> Iterator[None]:
    """Rounds the model's matrices inside a `with` block and restores them after it."""
    with ExitStack() as undo, torch.no_grad():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                stack = parameter.ndim == 3 and not isinstance(module, nn.Conv1d)  # experts
                if parameter.ndim == 2 or stack:
                    undo.callback(setattr, module, name, parameter)
                    rounded = nn.Parameter(round_to_levels(parameter), requires_grad=False)
                    setattr(module, name, rounded)
        yield


def round_to_levels(weight: torch.Tensor) -> torch.Tensor:
    """Rounds [..., n]: each group of 32 weights of a row has its own symmetric scale.

    The scale is max |w| / (2^(BITS − 1) − 1). Each weight becomes its nearest multiple.
    """
    flat: Any = weight.float().reshape(-1, weight.shape[-1])
    padded = nn.functional.pad(flat, (0, -flat.shape[1] % GROUP))
    groups = padded.view(len(flat), -1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (BITS - 1) - 1)
    scale = torch.where(scale == 0, 1, scale)
    rounded = ((groups / scale).round() * scale).view_as(padded)[:, : flat.shape[1]]
    return rounded.reshape(weight.shape).to(weight.dtype)
