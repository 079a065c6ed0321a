"""Tells members from non-members: it finds out what was trained on, but recovers no text."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from evals.attacks.attack import Attack, AttackOutcome, Target
from evals.memorization.membership import SCORES


def make_membership() -> Attack:
    return Attack(
        "membership",
        "all scores of extract",
        "area under the ROC curve of each score for members against non-members; 0.5 is chance",
        "; ".join(score.source for score in SCORES),
        "one pass, shared",
        _run,
        tells_members=True,
    )


def _run(target: Target) -> AttackOutcome:
    scores = {score.path[-1]: score.of(target.seen) for score in SCORES if score.can(target.seen)}
    return replace(
        AttackOutcome.of_all(np.zeros(len(target.samples), dtype=np.bool_)), scores=scores
    )
