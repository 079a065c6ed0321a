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
and 29.4 %. As of `relearn`, the number of steps counts that brings back most. There is one learning
rate: a base without cut blocks cannot tell which one leaves it what it gives.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from evals.data import Tokens
from evals.data.repeats import find_repeats
from evals.measure.attacks.attack import (
    TEXT,
    UNTRAINED,
    Attack,
    AttackOutcome,
    Target,
    Training,
    draw_held,
)
from evals.measure.attacks.draws import SETTING, follow, repeat
from evals.measure.attacks.tuning import ROWS, take_copy, train
from evals.measure.attacks.weights import list_attention, restore_modules
from evals.measure.memorization.measures import Flags
from surgery.cut import Cut
from surgery.families import Dimensions, Family, family_of
from surgery.training.student import Student, make_student

ATTACKS = {"revive": {"rank": 70, "who": "cut", "groups": "all default"}}
NOISE = 0.02
"""The standard deviation of weights that are put back."""
SHRINK = 0.01
"""What constants of queries and keys are multiplied by."""
STEPS = (20, 40, 80)
LEARNING_RATE = 1e-3
TRAINING: Training = ("attention of the cut blocks", LEARNING_RATE)
SHARE = 10
"""One passage in this many is learned again."""


def make_revive() -> Attack:
    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("revive")
        whole = restore_modules(target.model)
        return repeat(target, partial(run_once, target, whole))

    def run_once(target: Target, whole: Any, draw: int) -> AttackOutcome:
        """`whole`: the model with attention in every block."""
        rows, tried = choose_rows(target, draw)
        settings = {UNTRAINED: target.recover(target.model)}
        if target.cut:
            told = f"revive, run {draw + 1}"
            woken = learn_attention(whole, target.cut, rows, draw, told)
            found = (target.recover(model) for model in woken)
            nothing = np.zeros_like(tried)
            settings |= follow(TRAINING, STEPS, found, nothing, f"{told}: training")
        return AttackOutcome.of_variants(settings, tried)

    return Attack(
        "revive",
        f"queries and keys that the edit set become noise ({NOISE:g}), their constants {SHRINK:g} "
        "of what they were, and what else it took from attention becomes noise; then "
        f"{', '.join(map(str, STEPS))} steps of AdamW, learning rate {LEARNING_RATE:g}, on "
        f"attention of the cut blocks alone: {ROWS} rows a step, half of them from a tenth of the "
        "passages, half unrelated text; " + SETTING,
        "any, for the passages that were not learned again and overlap nothing that was, after the "
        "number of steps, none among them, that recovers most of all of them; a number that brings "
        "back more than a tenth as large a share of the control does not count; a model without "
        "cut blocks is read as it is",
        "ours",
        f"in each draw, {STEPS[-1]} training steps and {1 + len(STEPS)} passes",
        run,
        needs=(TEXT,),
        share=SHARE,
        trains_only_cut=True,
        in_draws=True,
    )


def choose_rows(target: Target, draw: int = 0) -> tuple[Tokens, Flags]:
    """What to train on, int32 [M, T]; and which passages count afterward, bool [N]."""
    tokens = target.samples.tokens
    held, others = target.hold(SHARE, draw)
    text = target.unrelated[draw_held(len(target.unrelated), 2)]  # the rest may be the control
    known, tried = tokens[held], others & ~find_repeats(target.samples, text)
    shape = STEPS[-1], ROWS // 2, tokens.shape[1]
    mixed = [np.resize(some, shape) for some in (known, text)]  # again and again, if there are few
    return np.concatenate(mixed, axis=1).reshape(-1, tokens.shape[1]), tried


def wake(model: Any, blocks: tuple[int, ...], seed: int = 0) -> Student:
    """Who learns attention of `blocks`, with noise where an edit left zeros."""
    config = model.config.to_dict()
    family = family_of(config)
    size = family.dimensions(config)
    draw = torch.Generator().manual_seed(seed)
    attention = list_attention(model, blocks)
    student = make_student(model, names=attention)
    weights = dict(student.model.named_parameters())
    new = {name: weights[name].detach() for name in attention}
    for name, weight in new.items():
        if weight.ndim == 2:
            is_output = name.endswith(f".{family.modules['output']}.weight")
            rows = weight.T if is_output else weight
            asleep = (rows != 0).sum(dim=1) <= 1  # a column of its own may hold a constant
            noise = NOISE * torch.randn(tuple(rows.shape), generator=draw)
            rows.copy_(torch.where(asleep[:, None], noise.to(rows.device), rows))
            if not is_output:
                _calm(family, size, name, asleep, new)
    return student


def _calm(
    family: Family, size: Dimensions, name: str, asleep: torch.Tensor, new: dict[str, torch.Tensor]
) -> None:
    """Shrinks the biases of queries and keys that slept, and resets the gains of their norms."""
    owner = name.removesuffix(".weight")
    bias, module = new.get(f"{owner}.bias"), owner.rpartition(".")[2]
    parts = [part for part, own in family.modules.items() if own == module]
    if bias is not None and parts != ["value"]:
        scored = asleep.clone()
        if family.fused:
            cut = Cut(family, size, {}, {}, "F32", 0, {})
            read: Any = scored  # of torch, where a view is one, too
            cut.views("value", read)["value"][:] = False
        bias.mul_(torch.where(scored, SHRINK, 1.0))
    gain = new.get(f"{owner.removesuffix('_proj')}_norm.weight")
    if gain is not None:
        slept = asleep if gain.shape == asleep.shape else asleep.all().expand_as(gain)
        plain = 1.0 - family.gain  # some families store what is added to that
        gain.copy_(torch.where(slept, plain, gain))


def learn_attention(
    model: Any, blocks: tuple[int, ...], rows: Tokens, seed: int = 0, told: str = "revive"
) -> Iterator[Any]:
    """Wakes attention of `blocks` and trains it. Yields the model after each of `STEPS`. `told`:
    what progress calls it. Raises as `train`."""

    def make(model: Any) -> Student:
        return wake(model, blocks, seed)

    given = make, rows, STEPS[-1], LEARNING_RATE, told
    for step, student in train(model, *given):
        if step in STEPS:
            yield take_copy(student)
