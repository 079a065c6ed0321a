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


def areas(members: Attacked, others: Attacked) -> dict[str, Any]:
    """Score -> its AUC with a 95 % interval, of passages that were trained on and of others."""
    passes = members.seen, others.seen
    labels = np.repeat([True, False], [len(members.passages), len(others.passages)])
    return {
        score.path[-1]: auc(np.concatenate([score.of(seen) for seen in passes]), labels)
        for score in SCORES
        if score.can(members.seen)
    }
