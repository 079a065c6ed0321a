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


def scores(members: Attacked, others: Attacked) -> dict[str, Scores]:
    """Every score that can be had, by name: of the passages trained on, then of the others."""
    return {
        score.path[-1]: np.concatenate([score.of(seen) for seen in (members.seen, others.seen)])
        for score in SCORES
        if score.can(members.seen)
    }


def areas(found: dict[str, Scores], members: Flags) -> dict[str, Any]:
    """Score -> its AUC with a 95 % interval.

    `found`: as `scores` gives it. `members`: bool [K], those trained on that count.
    """
    rest = len(next(iter(found.values()))) - len(members)
    counted = np.append(members, np.ones(rest, dtype=np.bool_))
    labels = np.arange(len(counted)) < len(members)
    return {name: auc(values[counted], labels[counted]) for name, values in found.items()}
