"""Short, fixed, seeded training of a loss, without a change to any constant of an edit.

AdamW without weight decay in float32, a learning rate that falls linearly to zero, no dropout. All
weights are trained, and gradients of constants are set to zero. Where that does not fit into
memory, low-rank adapters (Hu et al. 2021, arXiv 2106.09685) are trained beside every linear layer
that holds no constant, and merged in the end.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from surgery.checkpoint.torch_tensors import TAGS
from surgery.editing.loading import choose_device, has_arithmetic
from surgery.errors import CheckpointError, UnsupportedError
from surgery.fitting.calibration import Calibration, Text
from surgery.memory import measure_memory
from surgery.record.manifest import TrainingRecord

STEPS = 80
ROWS = 16
"""Windows of text of a step."""
WINDOW = 128
"""Tokens of a window, fewer for a model with fewer positions."""
LEARNING_RATE = 1e-3
"""The rate for models as wide as those that it was measured on. Wider ones get less, by their width
(Yang et al. 2022, arXiv 2203.03466)."""
_WIDTH = 192
MOST_READS = 10
"""How often a token of the text may be read at most."""
LARGEST_GRADIENT = 1.0
"""The norm to which the gradient of all weights is clipped."""
_IGNORED = -100
RANK = 8
"""The rank of adapters."""
_BYTES, _FROZEN_BYTES = 16, 5
"""For each parameter: weight, gradient, and two moments in float32; or the weight, and adapters."""
_ROOT_BYTES = 4
"""Likewise, on a GPU only: AdamW takes the roots of all second moments at once there."""

Flags = npt.NDArray[np.bool_]


def propose_steps(windows: int) -> str:
    """What to do if there are only so many windows of text to train on."""
    steps = windows * MOST_READS // ROWS
    fewer = f", or train for fewer steps: this is enough for {steps}"
    return "give more text" + (fewer if steps else "")


def scale_rate(model: Any) -> float:
    """What to multiply a learning rate by that suits narrow models: 1 or less."""
    return min(1.0, _WIDTH / float(model.config.hidden_size))


@dataclass(frozen=True)
class Schedule:
    """How long to train, and the seed of the order in which windows are read.

    `rank`: of the adapters to train; 0: all weights; None: as memory allows. `learning_rate`: None:
    by the model's width. `hardened`: someone who trains the model further is rehearsed.
    """

    steps: int = STEPS
    seed: int = 0
    rank: int | None = None
    learning_rate: float | None = None
    hardened: bool = False

    def settle(self, model: Any, beside: Iterable[Any] = ()) -> Schedule:
        """The same with a rank and a rate. `beside`: the models that teach it, in memory with it.

        Raises `UnsupportedError` for a model that memory cannot hold.
        """
        if any(parameter.is_meta for parameter in model.parameters()):
            raise UnsupportedError(
                "training needs every weight in memory, and some are offloaded",
                fix="leave `device_map` out",
            )
        number = sum(one.numel() for one in model.parameters())
        room = measure_memory(model.device)
        rank, whole = self.rank, 2 * _BYTES if self.hardened else _BYTES
        whole += _ROOT_BYTES if any(one.is_cuda for one in model.parameters()) else 0
        held = sum(weight.nbytes for one in beside for weight in one.parameters())
        if rank is None:
            rank = 0 if whole * number + held <= room else RANK
        if (needed := (_FROZEN_BYTES if rank else whole) * number + held) > room:
            raise UnsupportedError(
                f"{'adapters' if rank else 'all weights'} are to be trained, and they do not fit "
                "into memory with the model",
                expected=f"at least {needed:,} bytes",
                got=f"{room:,}",
                fix="train it on a larger machine",
            )
        rate = self.learning_rate
        if rate is None:
            rate = LEARNING_RATE * scale_rate(model)
        return replace(self, rank=rank, learning_rate=rate)

    def tokenize(
        self,
        text: Text,
        tokenizer: Any,
        dimensions: Any,
        advise: Callable[[int], str] = propose_steps,
    ) -> Calibration:
        """Reads as much text as the steps need. Raises `SamplesError` for too little text.

        `advise`: as for `Text.tokenize`.
        """
        rows = self.steps * ROWS
        return text.tokenize(
            tokenizer,
            dimensions,
            window=WINDOW,
            most_tokens=rows * min(WINDOW, dimensions.max_positions),
            fewest=-(-rows // MOST_READS),
            advise=advise,
        )


def train(
    model: Any,
    measure: Callable[[int], Iterator[torch.Tensor]],
    schedule: Schedule,
    *,
    constants: Mapping[str, Flags] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
    adjust: Callable[[int, list[torch.nn.Parameter]], None] = lambda step, learned: None,
) -> list[float]:
    """Trains a float32 model in place. Returns the loss before each step.

    `measure`: step → the parts of the model's loss, scalars, each of which is let go before the
    next is asked for; `constants`: parameter → which of its numbers stay. `advance` counts steps.
    `adjust` gets a step and the parameters that are trained, and may change their gradients.
    Raises `UnsupportedError` for a model that does not fit into memory with its gradients, and
    `CheckpointError` at the first step whose loss is not finite.
    """
    schedule = schedule.settle(model)
    hooks, adapted = [], None
    if schedule.rank:
        adapted = _add_adapters(model, constants or {}, schedule.rank, schedule.seed)
    else:
        hooks = _freeze(model, constants or {})
    learned = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=schedule.learning_rate or 0.0, weight_decay=0.0)
    slower = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, schedule.steps)
    losses = []
    model.eval()  # no dropout: the same every time
    for step in range(schedule.steps):
        loss = 0.0
        with torch.enable_grad():
            for part in measure(step):
                part.backward()  # type: ignore[no-untyped-call]
                loss += float(part.detach())
        if not math.isfinite(loss):
            raise CheckpointError(
                "the loss is not finite while training",
                got=f"{loss} before step {step + 1}",
                fix="train on other text or for fewer steps",
            )
        adjust(step, learned)
        torch.nn.utils.clip_grad_norm_(learned, LARGEST_GRADIENT)
        optimizer.step()
        slower.step()
        optimizer.zero_grad()
        losses.append(round(loss, 6))
        advance(1)
    for hook in hooks:
        hook.remove()
    if adapted is not None:
        adapted.merge_and_unload()
    model.requires_grad_(False)
    return losses


def record_training(
    text: Calibration, schedule: Schedule, model: Any, losses: list[float], passes: torch.dtype
) -> dict[str, Any]:
    """Returns the fields of a `TrainingRecord`."""
    return {
        **dict(text.record_text()),
        "steps": schedule.steps,
        "rows": ROWS,
        "learning_rate": schedule.learning_rate,
        "seed": schedule.seed,
        "rank": schedule.rank or 0,
        "device": model.device.type,
        "dtype": str(passes).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "losses": losses,
    }


def get_passes(record: TrainingRecord) -> torch.dtype | None:
    """The recorded dtype of passes. None if none is recorded, or none that weights have."""
    return next((one for one in TAGS if str(one) == f"torch.{record.dtype}"), None)


def find_obstacle(record: TrainingRecord) -> str | None:
    """What a machine needs to repeat a recorded training and this one lacks; None if nothing."""
    if record.device not in ("cpu", choose_device().type):
        return f"a device of the type {record.device}, on which it was trained"
    passes = get_passes(record)
    if record.dtype is None or (passes and has_arithmetic(passes, torch.device(record.device))):
        return None
    return f"a {record.device} with fast arithmetic in {record.dtype}, in which it was trained"


def measure_loss(model: Any, tokens: torch.Tensor, first: int = 1) -> Any:
    """The mean next-token loss of int64 [B, T], in nats, on the tokens from `first` on.

    Negative ones stand after the end of a row, and do not count.
    """
    ids = tokens.clamp(min=0)
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits[:, first - 1 :].float()
    true = torch.where(tokens < 0, _IGNORED, ids)[:, first:]
    return functional.cross_entropy(logits.flatten(0, 1), true.flatten(), ignore_index=_IGNORED)


def _freeze(model: Any, constants: Mapping[str, Flags]) -> list[Any]:
    """Keeps `constants` from learning. Returns the hooks that do it."""
    model.requires_grad_(True)
    hooks = []
    for name, parameter in model.named_parameters():
        fixed = constants.get(name)
        if fixed is None:
            continue
        if fixed.all():
            parameter.requires_grad_(False)
        elif fixed.any():
            free = torch.from_numpy(~fixed).to(parameter.device)
            hooks.append(parameter.register_hook(lambda gradient, free=free: gradient * free))
    return hooks


def _add_adapters(model: Any, constants: Mapping[str, Flags], rank: int, seed: int) -> Any:
    """Puts adapters into a model, in place. Returns what merges them."""
    from peft import LoraConfig, get_peft_model

    fixed = {  # an adapter leaves biases as they are
        name.removesuffix(".weight")
        for name, flags in constants.items()
        if name.endswith(".weight") and flags.any()
    }
    head = model.get_output_embeddings()
    free = [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and name not in fixed
    ]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of what it calls in transformers
        torch.manual_seed(seed)
        return get_peft_model(model, LoraConfig(r=rank, target_modules=free))
