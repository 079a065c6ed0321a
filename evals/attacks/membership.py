"""Telling members from non-members: not a text is recovered, but that it was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np

from evals.attacks.attack import Attacked
from evals.memorization.extraction import membership_scores
from evals.memorization.membership import auc
from evals.statistics import SEED

NAME = "membership"
DEFINITION = "area under the ROC curve of each score, members against non-members; 0.5 is chance"
SOURCE = "Yeom et al. 2018; Carlini et al. 2021; Shi et al. 2024; Zhang et al. 2025"


def areas(attacked: Attacked, members: slice) -> dict[str, Any]:
    """Score -> its AUC with a 95 % interval, of passages of which `members` were trained on."""
    positions = attacked.seen[0].positions
    scores = membership_scores(positions, attacked.passages.suffixes, attacked.tokenizer)
    labels = np.zeros(len(attacked.passages), dtype=np.bool_)
    labels[members] = True
    found = {name: auc(values, labels, seed=SEED) for name, values in scores.items()}
    return {name: {"auc": area.value, "ci95": area.ci95.as_list()} for name, area in found.items()}
