"""The one training loop, without weight decay: deterministic, on whatever is to be learned.

All that trains comes here: what makes a model, what attacks it, and what this is compared with.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Literal

import torch

from surgery.errors import NotFiniteError
from surgery.processes import current_processes

LARGEST_GRADIENT = 1.0
"""The norm to which the gradient of all that is learned is clipped, where training makes a model.
"""
SCALE = 2.0**12
"""What losses are multiplied by before gradients go through float16, which has no room for small
ones."""

Optimizer = Literal["AdamW", "SGD"]
LossPart = Callable[[], torch.Tensor]
"""Computes a part of a step's loss, a scalar. Only one part is in memory at a time."""


def descend(
    learned: Sequence[torch.Tensor],
    measure: Callable[[int], Sequence[LossPart]],
    rates: Iterable[float],
    *,
    begin: Callable[[int], float] = lambda step: 0.0,
    clip: float | None = None,
    scale: float = 1.0,
    optimizer: Optimizer = "AdamW",
) -> Iterator[float]:
    """Trains float32 tensors in place. Yields the loss before each step, once the step is taken.

    `measure`: step, from 0 → the parts of its loss. Several processes share them, and take the same
    step. `rates`: the learning rate of each step. `begin` gets a step that has no gradients yet. It
    may make some, and returns their loss; the parts of `measure` are added. `clip`: the norm to
    which the sum is clipped then. `scale`: what losses are multiplied by on their way back, and
    gradients divided by when they are there. `optimizer`: SGD is that without momentum.

    Raises `NotFiniteError` before the first step whose loss is not finite.
    """
    # One tensor at a time: all at once, on a GPU, it makes one more copy of them.
    kinds = {"AdamW": torch.optim.AdamW, "SGD": torch.optim.SGD}
    how = kinds[optimizer](learned, lr=0.0, weight_decay=0.0, foreach=False)
    for step, rate in enumerate(rates):
        how.zero_grad()
        loss = begin(step) + add_gradients(learned, measure(step), scale)
        if not math.isfinite(loss):
            raise NotFiniteError(
                "the loss is not finite while training",
                where=f"step {step + 1}, at a learning rate of {rate:g}",
                expected="a finite number",
                got=str(loss),
                fix="train on other text, for fewer steps, or at a lower rate",
            )
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(learned, clip)
        for group in how.param_groups:
            group["lr"] = rate
        how.step()
        yield loss
    how.zero_grad()


def add_gradients(
    learned: Sequence[torch.Tensor], parts: Sequence[LossPart], scale: float = 1.0
) -> float:
    """Adds the gradients of a loss to those that `learned` has. Returns the loss.

    Gradients and losses are summed over processes. `scale`: as for `descend`.
    """
    processes, loss = current_processes(), 0.0
    before = [one.grad for one in learned]
    for one in learned:
        one.grad = None
    for number, part in enumerate(parts):
        if not processes.is_own(number):
            continue
        with torch.enable_grad():
            value = part()
            (scale * value).backward(inputs=learned)  # type: ignore[no-untyped-call]
        loss += float(value.detach())
        del value  # the graph goes before the next is made
    if processes.count > 1:
        for one in learned:
            one.grad = processes.add(torch.zeros_like(one) if one.grad is None else one.grad)
    if scale != 1.0:
        for one in learned:
            if one.grad is not None:
                one.grad.div_(scale)
    for one, earlier in zip(learned, before, strict=True):
        if earlier is not None:
            one.grad = earlier if one.grad is None else earlier.add_(one.grad)
    return sum(processes.gather([loss]))


def fall(rate: float, steps: int) -> list[float]:
    """Rates that fall linearly, from `rate` at the first step to zero after the last."""
    return [rate * (1 - step / steps) for step in range(steps)]
