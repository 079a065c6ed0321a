"""Reads the model's guesses after each block: does a passage stand there that the last one hides?

The residual after a block goes through the final norm and the output embedding (the logit lens), or
before that through an affine map to the residual after the last block, fitted on other text (the
tuned lens).

Shape letters: B rows, T tokens, S suffix tokens, n positions of text, d width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from evals.data import Tokens
from evals.data.repeats import find_overlaps
from evals.measure.attacks.attack import TEXT, Attack, AttackOutcome, Target, split
from evals.measure.memorization.measures import Pass
from evals.measure.memorization.recovery import Evidence, make_recovery
from evals.run.batching import row_ranges, rows_per_batch
from evals.run.forward import head_of, hidden_states
from evals.run.predictions import Predictions, Sampling, measure_predictions
from surgery.families import family_of
from surgery.processes import share

ATTACKS = {"early-exit": {"rank": 20, "who": "files"}}
POSITIONS = 8192
"""The most positions of text that a lens is fitted on."""
PENALTY = 1e-2
"""The weight of its ridge penalty, as a share of the mean variance of the residual."""

Lens = Callable[[torch.Tensor], torch.Tensor]
"""Residuals after a block [..., d] → as after the last block."""


def make_early_exit() -> Attack:
    measure = make_recovery("any")

    def run(target: Target) -> AttackOutcome:
        target.check_in_memory("early-exit")
        text = target.unrelated[split(target.unrelated, 2)[0]]
        lenses = fit_lenses(target.model, text)
        found = [measure.recovered(Evidence.of(block)) for block in read_blocks(target, lenses)]
        return AttackOutcome(np.any(found, axis=0), ~find_overlaps(target.samples.tokens, text))

    return Attack(
        "early-exit",
        "the residual after each block, through the final norm and the output embedding; and "
        f"before that through an affine map, fitted on at most {POSITIONS:,} tokens of unrelated "
        "text (half of it) by ridge least squares",
        f"any, read after at least one of the blocks: {measure.definition}",
        "nostalgebraist 2020 (logit lens); Belrose et al. 2023, arXiv 2303.08112",
        "one pass, and two output embeddings for each block",
        run,
        needs=(TEXT,),
    )


@contextmanager
def keep_residuals(model: Any, first: int) -> Iterator[list[torch.Tensor]]:
    """Inside the block, a pass puts the residual after each block from token `first` on here."""
    with ExitStack() as undo:
        kept: list[torch.Tensor] = []

        def keep(module: Any, inputs: Any, output: Any) -> None:
            kept.append((output[0] if isinstance(output, tuple) else output)[:, first:])

        for block in find_blocks(model):
            undo.callback(block.register_forward_hook(keep).remove)
        yield kept


def find_blocks(model: Any) -> Any:
    """The list of the model's blocks."""
    family = family_of(model.config.to_dict())
    return model.get_submodule(family.attention.partition(".{block}")[0])


def find_final_norm(model: Any) -> Lens:
    """What the last block's residual goes through: the one norm beside the blocks, not in them."""
    norm: Lens = next(
        child for child in model.base_model.children() if "Norm" in type(child).__name__
    )
    return norm


@torch.inference_mode()
def fit_lenses(model: Any, text: Tokens) -> list[Lens]:
    """One for each block but the last, from int32 [M, T]."""
    rows = min(len(text), max(1, POSITIONS // text.shape[1]))
    states: list[list[torch.Tensor]] = []
    for some in row_ranges(rows, rows_per_batch(model, text.shape[1])):
        with keep_residuals(model, 0) as kept:
            hidden_states(model, torch.from_numpy(text[some].astype(np.int64)))
        states.append([one.flatten(0, 1) for one in kept])
    *earlier, last = (torch.cat(parts) for parts in zip(*states, strict=True))
    return [_fit(one, last.to(one.device)) for one in earlier]


def _fit(here: torch.Tensor, last: torch.Tensor) -> Lens:
    """y = x + A (x − mean) + b, by ridge: [n, d] twice. With much penalty, the logit lens."""
    x = here.double()
    change = last.double() - x  # not in 16 bits, whose difference would be rounded
    middle, offset = x.mean(dim=0), change.mean(dim=0)
    x = x - middle
    gram = x.T @ x
    penalty = PENALTY * gram.diagonal().mean() * torch.eye(len(gram), device=x.device)
    slope = torch.linalg.solve(gram + penalty, x.T @ (change - offset))
    slope, middle, offset = (one.float() for one in (slope, middle, offset))

    def lens(residual: torch.Tensor) -> torch.Tensor:
        wide = residual.float()  # in 16 bits, a small map would be rounded away
        return (wide + (wide - middle) @ slope + offset).to(residual.dtype)

    return lens


def read_blocks(target: Target, lenses: list[Lens]) -> Iterator[Pass]:
    """A pass over the passages as each block's guesses, plain and through its lens."""
    model, samples = target.model, target.samples
    first = samples.prefix_length
    size = target.batch_size or rows_per_batch(model, samples.tokens.shape[1])
    norm, head = find_final_norm(model), head_of(model)

    @torch.inference_mode()
    def read(rows: slice) -> list[Predictions]:
        some = torch.from_numpy(samples.tokens[rows].astype(np.int64))
        with keep_residuals(model, first - 1) as kept:
            hidden_states(model, some[:, :-1])
        seen = [*kept, *(lens(one) for lens, one in zip(lenses, kept, strict=False))]
        return [
            measure_predictions(norm(one), head, some[:, first:], sampling=Sampling())
            for one in seen
        ]

    parts = share(read, row_ranges(len(samples), size))
    for each in zip(*parts, strict=True):
        yield Pass(samples.suffixes, Predictions.concatenate(list(each)), size, None)
