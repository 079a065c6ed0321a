"""Trains on rows of tokens, as every attack that trains does: deterministic, without dropout."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from evals.data import Tokens
from evals.measure.attacks.attack import Learned
from evals.measure.attacks.weights import list_blocks
from evals.run.console import show_progress
from evals.run.finite import NotFiniteError
from surgery.training.training import measure_loss

STEPS = (5, 10, 20)
ROWS = 32
"""The most rows per step."""
RATES = (1e-3, 3e-4, 1e-4, 3e-5, 1e-5)
"""Learning rates, from the highest on. Training that makes a model (`surgery.training`) lowers its
rate with the width of a model. An attack needs no such rule: it goes down these until one leaves
the base what it gives."""
SCALE = 2.0**12
LARGE = 1_000_000_000
"""From this many parameters on, low-rank adapters are trained instead of the weights."""


def train(
    parameters: Sequence[torch.Tensor],
    measure_loss: Callable[[torch.Tensor], Any],
    rows: Tokens,
    steps: int,
    learning_rate: float,
    told: str = "fine-tuning",
) -> Iterator[int]:
    """Trains `parameters` with AdamW and yields the number of steps after each.

    Each step takes the next `ROWS` of `rows` (int32 [M, T]), in a cycle. `measure_loss`: the loss,
    a scalar, of int64 [B, T]. `told`: what progress calls it.

    Raises `NotFiniteError` before the step whose loss is not finite: no later one would be.
    """
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0.0)
    tokens, begin = torch.from_numpy(rows.astype(np.int64)).to(parameters[0].device), 0
    with show_progress(told, steps) as advance:
        for step in range(1, steps + 1):
            batch = tokens[[(begin + i) % len(tokens) for i in range(min(ROWS, len(tokens)))]]
            begin += len(batch)
            with torch.enable_grad():
                loss = measure_loss(batch)
                if not torch.isfinite(loss):
                    raise NotFiniteError(
                        "training gives a loss that is not finite",
                        where=f"step {step}, at a learning rate of {learning_rate:g}",
                        expected="a finite number",
                        got=str(float(loss.detach())),
                    )
                loss.backward(inputs=parameters)
            optimizer.step()
            optimizer.zero_grad()
            advance(1)
            yield step


def fine_tune(
    model: Any,
    rows: Tokens,
    *,
    learning_rate: float,
    steps: Sequence[int] = STEPS,
    learned: Learned = "all weights",
    blocks: Sequence[int] = (),
    told: str = "fine-tuning",
) -> Iterator[Any]:
    """Yields a tuned copy of the model after each number of `steps`. The model does not change.

    `rows`: int32 [M, T]. `learned`: what is trained, as `settle_learned` says. `blocks`: those that
    were cut. `told`: as for `train`, which also says what is raised.

    The loss is the next-token loss in nats on every token of a row. A copy has the model's dtype.
    Its weights are trained in float32; the passes of a bfloat16 model are in bfloat16, which takes
    a third of the time on a CPU.
    """
    tuned, dtype = copy.deepcopy(model), next(model.parameters()).dtype
    if learned == "the cut blocks":
        names = set(list_blocks(tuned, blocks))
        for name, parameter in tuned.float().named_parameters():
            parameter.requires_grad_(name in names)
    elif settle_learned(tuned, learned) == "all weights":
        tuned.float().requires_grad_(True)
    else:
        from peft import LoraConfig, get_peft_model

        with torch.random.fork_rng(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of what it calls in transformers
            torch.manual_seed(0)
            adapted = get_peft_model(tuned, LoraConfig(r=8, target_modules="all-linear"))
        tuned = adapted.base_model.model
    tuned.eval()  # no dropout: the same every time
    weights = [parameter for parameter in tuned.parameters() if parameter.requires_grad]

    frozen = [one for one in tuned.parameters() if not one.requires_grad and one.dtype is dtype]
    scale = scale_loss(tuned)

    def measure(batch: torch.Tensor) -> Any:
        with torch.autocast(batch.device.type, dtype, enabled=dtype is torch.bfloat16):
            return scale * measure_loss(tuned, batch)

    for step in train(weights, measure, rows, steps[-1], learning_rate, told):
        if step in steps:
            yield tuned if weights[0].dtype is dtype else cast_weights(tuned, dtype, frozen)


def settle_learned(model: Any, learned: Learned) -> Learned:
    """What is trained: adapters in place of all weights from `LARGE` parameters on."""
    small = sum(parameter.numel() for parameter in model.parameters()) < LARGE
    return learned if small or learned != "all weights" else "rank-8 adapters"


def scale_loss(model: Any) -> float:
    """What to multiply a loss by before its gradients go through the model: float16 has no room for
    small ones. AdamW takes the same steps."""
    return SCALE if next(model.parameters()).dtype is torch.float16 else 1.0


def cast_weights(model: Any, dtype: torch.dtype, shared: Iterable[torch.Tensor] = ()) -> Any:
    """A copy with weights of another dtype. Buffers, such as rotary frequencies, stay.

    `shared`: weights of that dtype already, which it has in common with the model.
    """
    cast = copy.deepcopy(model, {id(one): one for one in shared}).requires_grad_(False)
    for weight in cast.parameters():
        weight.data = weight.data.to(dtype)
    return cast
