"""Telling members from non-members: not a text is recovered, but that it was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from evals.attacks.attack import Attacked
from evals.memorization.measures import Flags, Scores
from evals.memorization.membership import SCORES, auc

NAME = "membership"
DESCRIBED = {
    "setting": "all scores of extract",
    "definition": "area under the ROC curve of each score, members against non-members; 0.5 is "
    "chance",
    "source": "; ".join(score.source for score in SCORES),
    "cost": "one pass, shared",
}


def scores(attacked: Attacked) -> dict[str, Scores]:
    """Every score that can be had of the passages, by name: [N] each."""
    possible = [score for score in SCORES if score.can(attacked.seen)]
    return {score.path[-1]: score.of(attacked.seen) for score in possible}


def areas(found: dict[str, Scores], members: Flags) -> dict[str, Any]:
    """Score -> its AUC with a 95 % interval.

    `found`: as `scores` gives it, of members first. `members`: bool [K], those of them that count.
    """
    rest = len(next(iter(found.values()))) - len(members)
    counted = np.append(members, np.ones(rest, dtype=np.bool_))
    labels = np.arange(len(counted)) < len(members)
    return {name: auc(values[counted], labels[counted]) for name, values in found.items()}
