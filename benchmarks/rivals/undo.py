"""Unlearns, adds noise, and distills: what training hid is not in a student that starts from noise.

Lee et al. 2025, arXiv 2506.06278 (UNDO): a first method makes a teacher that no longer gives the
passages. The student is the teacher with a share `noise` of each matrix replaced by a tenth of a
new one, drawn as for training from the start (Glorot and Bengio 2010): the mixing coefficient and
the noise scale of the paper. It then learns the predictions of the teacher, on the passages and on
other text. Here the first method is gradient difference with KL.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any

import click
import torch
from torch import nn

from benchmarks.rivals.bed import Bed, read_seconds, token_kl
from benchmarks.rivals.training import LEARNING_RATE, gradient_difference_kl, train
from surgery.training.student import cast_weights
from surgery.training.training import scale_rate

SCALE = 0.1
"""Of the noise: the paper's."""
RATE, FORGOTTEN, MOST = 1e-3, 0.01, 20
"""The first method trains at this rate (a wide model at less). It ends at this share recovered, or
after so many looks at the passages, or when its time is over. A student of a teacher that still
recites recites, too, so it does not count."""

BOUND = 5.0
"""The first method raises the loss on a passage up to so many nats per token."""


def undo(
    model: Any,
    bed: Bed,
    *,
    teacher: Any = None,
    noise: float = 0.2,
    rate: float = 10 * LEARNING_RATE,
) -> Iterator[None]:
    """`teacher`: of `make_teacher`, which several settings can share."""
    teacher = teacher or make_teacher(copy.deepcopy(model), bed)["teacher"]
    model.load_state_dict(teacher.state_dict())
    replace_by_noise(model, noise, bed.seed)
    teacher = cast_weights(teacher, bed.passes)

    def loss(passages: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        parts = [token_kl(teacher, model, tokens).mean() for tokens in (passages, text)]
        return (parts[0] + parts[1]) / 2

    yield from train(model, bed, loss, rate)


def make_teacher(model: Any, bed: Bed, seconds: float = math.inf) -> dict[str, Any]:
    """Changes the model into one that no longer gives the passages: the argument `teacher`."""
    end, rate = read_seconds() + seconds, RATE * scale_rate(model)
    for look, _ in enumerate(gradient_difference_kl(model, bed, rate=rate, most=BOUND), 1):
        recovered = bed.measure_recovered(model)
        if recovered <= FORGOTTEN or look == MOST or read_seconds() > end:
            click.echo(f"undo: the teacher gives {recovered:.1%} after {look} looks", err=True)
            break
    return {"teacher": model.requires_grad_(False)}


@torch.no_grad()
def replace_by_noise(model: Any, share: float, seed: int) -> None:
    """w → (1 − share) w + share · `SCALE` · ε for each matrix, with ε drawn as Glorot does."""
    draw = torch.Generator().manual_seed(seed)
    for weight in model.parameters():
        if weight.ndim == 2:
            random = nn.init.xavier_uniform_(torch.empty(weight.shape), generator=draw)
            weight.mul_(1 - share).add_(share * SCALE * random.to(weight))
