"""Runs an attack that trains several times, because what it brings back depends on luck.

A *draw* is one run: what is learned, and in what order, follow from its number.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from evals.measure.attacks.attack import AttackOutcome, Target
from surgery.processes import current_processes

DRAWS = 5
SECONDS = 60.0
"""How long one run may take; of longer ones, fewer run."""
SETTING = f"{DRAWS} runs on other draws, fewer where one takes more than {SECONDS:.0f} seconds"


def repeat(target: Target, run: Callable[[int], AttackOutcome]) -> AttackOutcome:
    """The outcome of `target.draws` runs, or of as many as `count_draws` allows: flags are [D, N].

    `run` gets the number of the draw, from 0 on. The curve is that of the first, and so is `left`.
    """
    begun = time.perf_counter()
    made = [run(0)]
    took = current_processes().agree(time.perf_counter() - begun)
    made += map(run, range(1, target.draws or count_draws(took)))
    return AttackOutcome(
        np.stack([one.recovered for one in made]),
        np.stack([one.tried for one in made]),
        made[0].curve,
        settings={key: np.stack([one.settings[key] for one in made]) for key in made[0].settings},
        left_out=made[0].left_out,
        left=made[0].measure_left(),
    )


def count_draws(seconds: float) -> int:
    """How many draws there are where one run takes so long."""
    return max(1, min(DRAWS, int(DRAWS * SECONDS / max(seconds, 1e-9))))
