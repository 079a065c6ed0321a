"""Tells members from others by what the pass that attacks share shows."""

from __future__ import annotations

import numpy as np

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization.measures import suffix_nll
from evals.measure.memorization.membership import SCORE, SOURCE

ATTACKS = {"membership": {"rank": 100, "groups": "all default", "tells_members": True}}


def make_membership() -> Attack:
    """Tells members from non-members: it finds out what was trained on, but recovers no text."""

    def run(target: Target) -> AttackOutcome:
        seen = target.seen
        loss = suffix_nll(seen.predictions.log_likelihood, seen.suffix)
        nothing = np.zeros(len(target.samples), dtype=np.bool_)
        return AttackOutcome(nothing, ~nothing, scores={SCORE: -loss})

    return Attack(
        "membership",
        "the loss of the suffix after the prefix",
        "area under the ROC curve of the loss for members against non-members; 0.5 is chance",
        SOURCE,
        "one pass, shared",
        run,
    )
