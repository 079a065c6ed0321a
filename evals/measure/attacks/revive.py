"""Wakes the attention that an edit put to sleep: noise in its queries and keys, then training.

A cut in the stock layout makes softmax exactly one-hot. Its gradient is exactly zero, so that
fine-tuning cannot wake the heads. An attacker who knows this needs the folder alone:

- Weights that the edit set to zero become noise: of queries and keys, and of values and the output
  projection where these are gone, too. A compact block gets its attention module back, all noise.
- The constants in the biases of its queries and keys shrink, until attention is nearly uniform.
  Gains that an edit raised become 1.
- Only attention of the cut blocks is trained, on half passages and half other text.

The sweep that chose this, on `lab:pythia`, blocks 4-5 `identity` (block 0 `linear`): constants at a
tenth leave softmax asleep, and give 10.9 % (5.9 %) of the other passages; at a hundredth, 38.0 %
(10.6 %). Waking alone takes the first cut's cost from +0.67 to +0.28 nats, with noise of 0.005 as
with 0.05, and to +0.30 with 0.1. After 20, 40, 80, and 120 steps, the first gives 40.6, 40.6, 38.0,
and 29.4 %.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from evals.data import Tokens
from evals.data.repeats import find_overlaps
from evals.measure.attacks.attack import NEEDS, Attack, AttackOutcome, Target, can_split, split
from evals.measure.attacks.draws import SETTING, repeat
from evals.measure.attacks.tuning import ROWS, train
from evals.measure.attacks.weights import list_attention, put_weights, restore_modules
from evals.measure.memorization.measures import Flags
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.console import say
from evals.run.finite import NotFiniteError
from surgery.families import Dimensions, Family, family_of
from surgery.training.training import measure_loss

NOISE = 0.02
"""The standard deviation of weights that are put back."""
SHRINK = 0.01
"""What constants of queries and keys are multiplied by."""
STEPS = 80
LEARNING_RATE = 1e-3
SHARE = 10
"""One passage in this many is learned again."""

Weights = dict[str, nn.Parameter]


def make_revive() -> Attack:
    measure = make_recovery("any")

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("revive")
        whole = replace(target, model=restore_modules(target.model))
        return repeat(whole, partial(run_once, whole))

    def run_once(target: Target, draw: int) -> AttackOutcome:
        rows, tried = choose_rows(target, draw)
        model, asked = target.model, (target.samples.tokens, target.samples.prefix_length)
        woken = wake(model, target.cut, draw)
        try:
            with put_weights(model, learn_attention(model, woken, rows) if woken else {}):
                found = target.read(*asked)
        except NotFiniteError:
            target.read(*asked)  # it may have been broken before
            say("revive: training breaks the model, so this run brings nothing back")
            return AttackOutcome(np.zeros_like(tried), tried)
        return AttackOutcome(measure.recovered(Evidence.of(found)), tried)

    return Attack(
        "revive",
        f"queries and keys that the edit set become noise ({NOISE:g}), their constants {SHRINK:g} "
        f"of what they were, and what else it took from attention becomes noise; then {STEPS} "
        f"steps of AdamW, learning rate {LEARNING_RATE:g}, on attention of the cut blocks alone: "
        f"{ROWS} rows a step, half of them from a tenth of the passages, half unrelated text; "
        + SETTING,
        "any, for the passages that were not learned again and overlap nothing that was; a model "
        "without cut blocks is read as it is",
        "ours",
        f"in each draw, {STEPS} training steps and a pass",
        run,
        can=lambda samples: can_split(samples, SHARE),
        needs=NEEDS,
        share=SHARE,
        in_draws=True,
        on_cuts=True,
        reads_text=True,
        count_trained=lambda passages, windows: STEPS * ROWS,
    )


def choose_rows(target: Target, draw: int = 0) -> tuple[Tokens, Flags]:
    """What to train on, int32 [M, T]; and which passages count afterward, bool [N]."""
    tokens = target.samples.tokens
    held, others = target.hold(SHARE, draw)
    text = target.unrelated[split(target.unrelated, 2)[0]]  # the rest may be the control
    known, tried = tokens[held], others & ~find_overlaps(tokens, text)
    shape = STEPS, ROWS // 2, tokens.shape[1]
    mixed = [np.resize(some, shape) for some in (known, text)]  # again and again, if there are few
    return np.concatenate(mixed, axis=1).reshape(-1, tokens.shape[1]), tried


def wake(model: Any, blocks: tuple[int, ...], seed: int = 0) -> Weights:
    """Attention of `blocks` in float32, with noise where an edit left zeros. None of it is shared
    with the model."""
    config = model.config.to_dict()
    family = family_of(config)
    size = family.dimensions(config)
    draw = torch.Generator().manual_seed(seed)
    old = dict(model.named_parameters())
    new = {name: old[name].detach().float().clone() for name in list_attention(model, blocks)}
    for name, weight in new.items():
        if weight.ndim == 2:
            match = family.match(name)
            is_output = match is not None and match[0].role == "output_weight"
            rows = weight.T if is_output else weight
            asleep = (rows != 0).sum(dim=1) <= 1  # a column of its own may hold a constant
            noise = NOISE * torch.randn(tuple(rows.shape), generator=draw)
            rows[asleep] = noise.to(rows.device)[asleep]
            if not is_output:
                _calm(family, size, name, asleep, new)
    return {name: nn.Parameter(weight) for name, weight in new.items()}


def _calm(
    family: Family, size: Dimensions, name: str, asleep: torch.Tensor, new: dict[str, torch.Tensor]
) -> None:
    """Shrinks the biases of queries and keys that slept, and resets the gains of their norms."""
    match = family.match(name)
    assert match is not None
    rule, block = match
    part = str(rule.role).removesuffix("_weight")
    bias = new.get(name.removesuffix("weight") + "bias")
    if part != "value" and bias is not None:
        scored = asleep.clone()
        if family.fused:
            scored.view(-1, 3, size.head_size)[:, 2] = False
        bias[scored] *= SHRINK
    norm: Any = f"{part}_norm"
    if family.rule(norm) is not None and block is not None:
        gain = new[family.name(norm, block)]
        if part == "query" and family.gated:  # the rows of gates are never asleep
            asleep = asleep.view(-1, 2, size.head_size)[:, 0].flatten()
        slept = asleep if gain.shape == asleep.shape else asleep.all().expand_as(gain)
        gain[slept] = 1.0 - family.gain  # some families store what is added to that


def learn_attention(model: Any, woken: Weights, rows: Tokens) -> Weights:
    """Trains `woken` in the place of the model's own. The result has the model's dtype."""
    dtype = next(model.parameters()).dtype

    def measure(batch: torch.Tensor) -> Any:
        half = dtype is not torch.float32
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
            return measure_loss(model, batch)

    with put_weights(model, woken):
        for _ in train(list(woken.values()), measure, rows, STEPS, LEARNING_RATE):
            pass
    return {
        name: nn.Parameter(weight.detach().to(dtype), requires_grad=False)
        for name, weight in woken.items()
    }
