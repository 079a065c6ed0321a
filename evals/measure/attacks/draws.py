"""Runs an attack that trains several times, because what it brings back depends on luck.

A *draw* is one run: what is learned, and in what order, follow from its number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from evals.measure.attacks.attack import AttackOutcome, Setting, Target, Training
from evals.run.console import say
from surgery.errors import NotFiniteError

Made = TypeVar("Made")
DRAWS = 3
SETTING = f"{DRAWS} runs on other draws, unless another number is asked for"


def repeat(target: Target, run: Callable[[int], AttackOutcome]) -> AttackOutcome:
    """The outcome of `target.draws` runs, by default `DRAWS`: flags are [D, N].

    `run` gets the number of the draw, from 0 on. The curve is that of the first, and so is `left`.
    """
    made = [run(draw) for draw in range(target.draws or DRAWS)]
    return AttackOutcome(
        np.stack([one.recovered for one in made]),
        np.stack([one.tried for one in made]),
        made[0].curve,
        variants={key: np.stack([one.variants[key] for one in made]) for key in made[0].variants},
        left=made[0].measure_left(),
        by_held={key: sum(one.by_held[key] for one in made) / len(made) for key in made[0].by_held},
    ).settle()


def follow(
    training: Training, steps: Sequence[int], made: Iterator[Made], broken: Made, what: str = ""
) -> Iterator[tuple[Setting, Made]]:
    """Yields each of `steps` with what training made by then; `broken` from the step on at which
    training diverges. `what`: the training's name in the message about that."""
    for step in steps:
        try:
            one = next(made, broken)
        except NotFiniteError:
            one = broken
            if what:
                say(f"{what} breaks the model by step {step}")
        yield Setting(*training, step), one
