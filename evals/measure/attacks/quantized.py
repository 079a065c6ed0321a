"""Rounds the weights to fewer bits, which can bring back what an edit hid."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from evals.measure.attacks.attack import Attack, AttackOutcome, Need, Target
from evals.measure.memorization.recovery import make_recovery
from surgery.errors import UnknownNameError

ATTACKS = {
    "quantized:8": {"rank": 40, "who": "files", "form": "quantized:BITS"},
    "quantized:4": {
        "rank": 41,
        "who": "files",
        "form": "quantized:BITS",
        "groups": "all default trained",
    },
    "quantized:nf4": {"rank": 42, "who": "files"},
}
BITSANDBYTES: Need = (
    "the package bitsandbytes (pip install bitsandbytes)",
    lambda plan: find_spec("bitsandbytes") is not None,
)
GROUP = 32
NF4_GROUP = 64

Round = Callable[[nn.Module, torch.Tensor], torch.Tensor]
"""A matrix and the module that it belongs to → the rounded matrix."""


def make_quantized(bits: int) -> Attack:
    """`bits`: 2 to 8. Raises `UnknownNameError` for any other number."""
    if not 2 <= bits <= 8:
        raise UnknownNameError(f"no attack 'quantized:{bits}'", expected="2 to 8 bits", got=bits)
    return _make_attack(
        f"quantized:{bits}",
        f"every matrix rounded to nearest, with {2**bits - 1} levels per group of {GROUP} weights",
        "Zhang et al. 2024, arXiv 2410.16454",
        lambda model: lambda module, weight: round_to_levels(weight, bits),
    )


def make_quantized_nf4() -> Attack:
    return _make_attack(
        "quantized:nf4",
        f"linear layers but the output embedding in NF4, groups of {NF4_GROUP} weights, as "
        "bitsandbytes loads a model in 4 bits",
        "Zhang et al. 2024, arXiv 2410.16454; Dettmers et al. 2023, arXiv 2305.14314",
        _round_to_nf4,
        needs=(BITSANDBYTES,),
    )


def _make_attack(
    name: str, setting: str, source: str, make_round: Callable[[Any], Round], **more: Any
) -> Attack:
    """`make_round`: how a model's matrices are rounded."""

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory(name)
        with quantize_matrices(target.model, make_round(target.model)):
            return AttackOutcome.of_all(target.recover(target.model))

    return Attack(
        name,
        setting,
        f"any, on the quantized model: {make_recovery('any').definition}",
        source,
        "one pass of a quantized model",
        run,
        **more,
    )


@contextmanager
def quantize_matrices(model: nn.Module, round_matrix: Round) -> Iterator[None]:
    """Rounds the model's matrices inside a `with` block and restores them after it."""
    with ExitStack() as undo, torch.no_grad():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                stack = parameter.ndim == 3 and not isinstance(module, nn.Conv1d)  # experts
                if parameter.ndim == 2 or stack:
                    undo.callback(setattr, module, name, parameter)
                    rounded = nn.Parameter(round_matrix(module, parameter), requires_grad=False)
                    setattr(module, name, rounded)
        yield


def round_to_levels(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Rounds [..., n]: each group of 32 weights of a row has its own symmetric scale.

    The scale is max |w| / (2^(bits − 1) − 1). Each weight becomes its nearest multiple.
    """
    flat: Any = weight.float().reshape(-1, weight.shape[-1])
    padded = nn.functional.pad(flat, (0, -flat.shape[1] % GROUP))
    groups = padded.view(len(flat), -1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    scale = torch.where(scale == 0, 1, scale)
    rounded = ((groups / scale).round() * scale).view_as(padded)[:, : flat.shape[1]]
    return rounded.reshape(weight.shape).to(weight.dtype)


def _round_to_nf4(model: Any) -> Round:
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    kept = model.get_output_embeddings()

    def round_matrix(module: nn.Module, weight: torch.Tensor) -> torch.Tensor:
        if not isinstance(module, nn.Linear) or module is kept:
            return weight
        # One group a row: on a CPU, bitsandbytes misreads groups that run over the end of a row.
        flat = nn.functional.pad(weight.data.flatten(), (0, -weight.numel() % NF4_GROUP))
        rows = flat.view(-1, NF4_GROUP)
        packed, state = quantize_4bit(rows, blocksize=NF4_GROUP, quant_type="nf4")
        rounded: torch.Tensor = dequantize_4bit(packed, state)
        return rounded.flatten()[: weight.numel()].view_as(weight)

    return round_matrix
