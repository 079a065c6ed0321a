"""Telling members from non-members: not a text is recovered, but that it was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from evals.attacks.attack import Attacked
from evals.memorization.membership import SCORES, auc

NAME = "membership"
DESCRIBED = {
    "setting": "all scores of extract",
    "definition": "area under the ROC curve of each score, members against non-members; 0.5 is "
    "chance",
    "source": "; ".join(score.source for score in SCORES),
    "cost": "one pass, shared",
}


def areas(attacked: Attacked, members: slice) -> dict[str, Any]:
    """Score -> its AUC with a 95 % interval, of passages of which `members` were trained on."""
    labels = np.zeros(len(attacked.passages), dtype=np.bool_)
    labels[members] = True
    possible = [score for score in SCORES if score.can(attacked.seen)]
    return {score.path[-1]: auc(score.of(attacked.seen), labels) for score in possible}
