"""Splits passages: the attacker holds some of them and tries to recover the others."""

from __future__ import annotations

import numpy as np

from evals.memorization.measures import Flags
from evals.samples import Samples, Tokens
from evals.samples.repeats import find_overlaps

NEEDS = "passages that do not overlap those that the attacker holds"
_SEED = 0


def split(passages: Tokens, share: int) -> tuple[Flags, Flags]:
    """One passage in `share`, at random, and those that overlap none of them: two bool [N]."""
    order = np.random.default_rng(_SEED).permutation(len(passages))
    held = np.zeros(len(passages), dtype=np.bool_)
    held[order[: max(1, len(passages) // share)]] = True
    return held, ~find_overlaps(passages, passages[held])


def can_split(samples: Samples, share: int) -> bool:
    """Whether any passage is left that overlaps none of those that the attacker holds."""
    return bool(split(samples.tokens[samples.trained_on], share)[1].any())
