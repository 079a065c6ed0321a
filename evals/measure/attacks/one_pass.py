"""Tells members from others by what the pass that attacks share shows."""

from __future__ import annotations

import numpy as np

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization.membership import SCORES

ATTACKS = {
    "membership": {"rank": 100, "groups": "all default", "tells_members": True},
}


def make_membership() -> Attack:
    """Tells members from non-members: it finds out what was trained on, but recovers no text."""

    def run(target: Target) -> AttackOutcome:
        seen = target.seen
        scores = {score.name: score.of(seen) for score in SCORES if score.can(seen)}
        nothing = np.zeros(len(target.samples), dtype=np.bool_)
        return AttackOutcome(nothing, ~nothing, scores=scores)

    return Attack(
        "membership",
        "all scores of extract",
        "area under the ROC curve of each score for members against non-members; 0.5 is chance",
        "; ".join(score.source for score in SCORES),
        "one pass, shared",
        run,
    )
