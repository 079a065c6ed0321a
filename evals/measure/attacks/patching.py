"""Puts hidden states of an edited model into the base: after which block is a passage still there?

An edit may hide at the end what all blocks before it still hold. So at every position that predicts
the suffix, what the base holds after one block becomes what the edited model holds there. The
base's later blocks go on from it: they can read out what the base's own states would have told
them. What the suffix loses in log-probability, the edit took away up to that block.

A model that never saw the passages loses it, too, in the blocks that hold them. Where there is such
a twin, the *unlearning depth score* compares both losses, block by block (Lee, Kim, and Jo 2026,
arXiv 2605.24614, sections 3.2 and 3.3): 0 says that all is still there, 1 that no more is there
than in the twin.

Shape letters: N passages, B rows, S suffix tokens, d width.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from evals.measure.attacks.attack import Attack, AttackOutcome, ScoresByName, Target
from evals.measure.attacks.early_exit import find_blocks, keep_residuals
from evals.measure.memorization.measures import Scores, suffix_nll
from evals.run.batching import row_ranges, rows_per_batch
from evals.run.forward import head_of, hidden_states
from evals.run.predictions import Sampling, measure_predictions
from surgery.processes import share
from surgery.store import ASIDE

ATTACKS = {"patching": {"rank": 22, "who": "related", "diagnoses": True}}
LOST, DEPTH = "nats lost after block", "unlearning depth"
LEAST = 0.05
"""Nats per token that the twin loses, at least, after a block that holds a passage: the paper's."""


@dataclass(frozen=True)
class Kept:
    """The base, and the loss of each suffix there, in nats per token [N]."""

    model: Any = field(metadata=ASIDE)
    loss: Scores


def make_patching() -> Attack:
    return Attack(
        "patching",
        "the edited model's states after one block, at the positions that predict the suffix, in "
        "the base, whose later blocks go on from there",
        "nats per token that the suffix loses then; with a twin, the unlearning depth score, over "
        f"the blocks after which the twin's states lose more than {LEAST:g}: 0 if all is still "
        "there, 1 if no more than in the twin; nothing is recovered",
        "Lee, Kim, and Jo 2026, arXiv 2605.24614",
        "a pass of the edited model, and one of the base for each block; both are in memory",
        _run,
        reads_base=True,
        shows={LOST: "nats", DEPTH: "number"},
        calibrate=measure_depth,
        passes=20,
    )


def _run(target: Target) -> AttackOutcome:
    target.check_in_memory("patching")
    nothing = np.zeros(len(target.samples), dtype=np.bool_)
    if target.base is None:
        losses = _measure_losses(target, target.model, ())
        return AttackOutcome(nothing, ~nothing, kept=Kept(target.model, losses[-1]))
    base: Kept = target.base.kept
    blocks = range(len(find_blocks(target.model)))
    losses = _measure_losses(target, base.model, blocks)
    scores = {f"{LOST} {block}": losses[block] - base.loss for block in blocks}
    return AttackOutcome(nothing, ~nothing, scores=scores)


def _measure_losses(target: Target, base: Any, blocks: Any) -> dict[int, Scores]:
    """The loss of each suffix, [N], from `base` with the target's states after each of `blocks`; as
    -1, from `base` as it is, if there are none."""
    samples, first, head = target.samples, target.samples.prefix_length, head_of(base)

    @torch.inference_mode()
    def read(rows: slice) -> dict[int, Scores]:
        tokens = torch.from_numpy(samples.tokens[rows].astype(np.int64))

        def measure() -> Scores:
            hidden, _ = hidden_states(base, tokens[:, :-1])
            found = measure_predictions(
                hidden[:, first - 1 :], head, tokens[:, first:], sampling=Sampling()
            )
            return suffix_nll(found.log_likelihood, samples.suffixes[rows])

        if not blocks:
            return {-1: measure()}
        with keep_residuals(target.model, first - 1) as kept:
            hidden_states(target.model, tokens[:, :-1])
        losses = {}
        for block in blocks:
            with put_residuals(base, block, first - 1, kept[block]):
                losses[block] = measure()
        return losses

    size = target.batch_size or rows_per_batch(base, samples.tokens.shape[1])
    parts = share(read, row_ranges(len(samples), size))
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


@contextmanager
def put_residuals(model: Any, block: int, first: int, states: torch.Tensor) -> Iterator[None]:
    """Inside the block, a pass goes on from these states [B, S, d] after a block of the model, at
    the tokens from `first` on."""

    def put(module: Any, inputs: Any, output: Any) -> Any:
        own = output[0] if isinstance(output, tuple) else output
        new = torch.cat([own[:, :first], states.to(own)], dim=1)
        return (new, *output[1:]) if isinstance(output, tuple) else new

    handle = find_blocks(model)[block].register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()


def measure_depth(edited: ScoresByName, twin: ScoresByName) -> ScoresByName:
    """The unlearning depth score of each passage, [N]. NaN where the twin's states lose too little
    after every block, as of a passage that the base does not hold either."""
    after, never = (
        np.stack([one[name] for name in edited if name.startswith(LOST)]) for one in (edited, twin)
    )
    weight = np.where(never > LEAST, never, 0.0)
    share_lost = np.clip(after / np.where(weight > 0, never, 1.0), 0.0, 1.0)
    total = weight.sum(axis=0)
    found = (weight * share_lost).sum(axis=0) / np.where(total > 0, total, 1.0)
    return {DEPTH: np.where(total > 0, found, np.nan)}
