"""Rounds the weights to fewer bits, which can bring back what an edit hid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from evals.attacks.attack import Attack, AttackOutcome, Target
from evals.memorization.recovery import Evidence, make_recovery

if TYPE_CHECKING:
    import torch
    from torch import nn

GROUP = 32


def make_quantized(bits: int) -> Attack:
    """`bits`: 2 to 8. Raises `ValueError` for any other number."""
    if not 2 <= bits <= 8:
        raise ValueError(f"cannot quantize to {bits} bits (expected 2 to 8)")
    measure = make_recovery("any")

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory(f"quantized:{bits}")
        with quantize_matrices(target.model, bits):
            found = target.read(target.samples.tokens, target.samples.prefix_length)
        return AttackOutcome.of_all(measure.recovered(Evidence.of(found)))

    return Attack(
        f"quantized:{bits}",
        f"every matrix rounded to nearest, with {2**bits - 1} levels per group of {GROUP} weights",
        f"any, on the quantized model: {measure.definition}",
        "Zhang et al. 2024, arXiv 2410.16454",
        "one pass of a quantized model",
        run,
    )


@contextmanager
def quantize_matrices(model: nn.Module, bits: int) -> Iterator[None]:
    """Rounds the model's matrices inside a `with` block and restores them after it."""
    import torch
    from torch import nn

    with ExitStack() as undo, torch.no_grad():
        for module in model.modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                if parameter.ndim == 2:
                    undo.callback(setattr, module, name, parameter)
                    rounded = nn.Parameter(round_to_levels(parameter, bits), requires_grad=False)
                    setattr(module, name, rounded)
        yield


def round_to_levels(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """Rounds [m, n]: each group of 32 weights of a row has its own symmetric scale.

    The scale is max |w| / (2^(bits − 1) − 1). Each weight becomes its nearest multiple.
    """
    import torch
    from torch.nn import functional

    flat: Any = weight.float()
    padded = functional.pad(flat, (0, -flat.shape[1] % GROUP))
    groups = padded.view(len(flat), -1, GROUP)
    scale = groups.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    scale = torch.where(scale == 0, 1, scale)
    rounded = ((groups / scale).round() * scale).view_as(padded)[:, : flat.shape[1]]
    return rounded.to(weight.dtype)
