"""Fine-tunes on a tenth of the passages: do the others come back?"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from evals.attacks.attack import Attack, AttackOutcome, Target
from evals.attacks.near import is_near
from evals.memorization.measures import Flags
from evals.memorization.recovery import Evidence, make_recovery
from evals.samples import Samples, Tokens
from evals.samples.repeats import find_overlaps
from surgery.errors import SamplesError

STEPS = (5, 10, 20)
SHARE = 10
"""One passage in this many is learned again."""
ROWS = 32
"""The most rows per step."""
LEARNING_RATE = 1e-4
LARGE = 1_000_000_000
"""From this many parameters on, low-rank adapters are trained instead of the weights."""
_SEED = 0


def make_relearn() -> Attack:
    return _make_attack(
        "relearn",
        "a tenth of the passages",
        "any, for the passages that were not learned again and do not overlap one that was",
        lambda target: split(target.samples.tokens),
        _check,
    )


def make_relearn_benign() -> Attack:
    return _make_attack(
        "relearn-benign",
        "text that has nothing to do with the passages",
        "any",
        lambda target: (target.unrelated, np.ones(len(target.samples), dtype=np.bool_)),
    )


def _make_attack(
    name: str,
    text: str,
    counted: str,
    learned: Callable[[Target], tuple[Tokens, Flags]],
    check: Callable[[Samples], None] = lambda samples: None,
) -> Attack:
    """`learned`: the rows to train on, and the passages that count afterward."""
    measure = make_recovery("any")

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory(name)
        rows, tried = learned(target)
        tokens, prefix_length = target.samples.tokens, target.samples.prefix_length
        recovered, similar = [], []
        for step, tuned in zip(STEPS, fine_tune(target.model, rows), strict=True):
            if step == STEPS[-1] or not target.brief:
                reading = replace(target, model=tuned)
                found = reading.read(tokens, prefix_length, full=not target.brief)
                recovered.append(measure.recovered(Evidence.of(found)))
                similar += [] if target.brief else [is_near(found)]
        both = {"any": recovered, "near": similar}
        curve = {} if target.brief else {name: np.stack(flags) for name, flags in both.items()}
        return AttackOutcome(recovered[-1], tried, curve)

    return Attack(
        name,
        f"AdamW, learning rate {LEARNING_RATE:g}, {', '.join(map(str, STEPS))} steps of at most "
        f"{ROWS} rows on {text}; all weights, or rank-8 adapters from {LARGE:,} parameters on",
        f"{counted}, after {STEPS[-1]} steps; the curve also shows fewer steps and near matches",
        "Hu et al. 2024, arXiv 2406.13356",
        f"{STEPS[-1]} training steps and {len(STEPS)} passes with decoding",
        run,
        stages=STEPS,
        check=check,
    )


def split(passages: Tokens) -> tuple[Tokens, Flags]:
    """The passages to learn again, and which of all [N] count: those that overlap none of them."""
    order = np.random.default_rng(_SEED).permutation(len(passages))
    learned = passages[np.sort(order[: max(1, len(passages) // SHARE)])]
    return learned, ~find_overlaps(passages, learned)


def _check(samples: Samples) -> None:
    if not split(samples.tokens)[1].any():
        raise SamplesError(
            "every passage overlaps one that relearn learns again, so none is left to recover",
            where=samples.source,
            fix="give passages that do not overlap, or name other attacks with `attack`",
        )


def fine_tune(model: Any, rows: Tokens) -> Iterator[Any]:
    """Yields a tuned copy of the model after each number of `STEPS`. The model does not change.

    `rows`: int32 [M, T]; each step takes the next `ROWS` of them, in a cycle. The loss is the
    next-token loss in nats on every token of a row.
    """
    tuned = copy.deepcopy(model)
    if sum(parameter.numel() for parameter in tuned.parameters()) < LARGE:
        tuned.float().requires_grad_(True)
    else:
        from peft import LoraConfig, get_peft_model

        with warnings.catch_warnings():  # about what it calls in the newest transformers
            warnings.simplefilter("ignore", FutureWarning)
            adapted = get_peft_model(tuned, LoraConfig(r=8, target_modules="all-linear"))
        tuned = adapted.base_model.model
    tuned.eval()  # no dropout: the same every time
    learned = [parameter for parameter in tuned.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=0.0)
    tokens, begin = torch.from_numpy(rows.astype(np.int64)).to(model.device), 0
    for step in range(1, STEPS[-1] + 1):
        batch = tokens[[(begin + i) % len(tokens) for i in range(min(ROWS, len(tokens)))]]
        begin += len(batch)
        with torch.enable_grad():
            logits = tuned(input_ids=batch[:, :-1], use_cache=False).logits.float()
            loss: Any = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if step in STEPS:
            yield tuned
