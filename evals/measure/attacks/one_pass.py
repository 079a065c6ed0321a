"""What the pass that attacks share shows beside the measures of `recovery.py`."""

from __future__ import annotations

import numpy as np

from evals.measure.attacks.attack import Attack, AttackOutcome, Target
from evals.measure.memorization.measures import NEAR_MATCH, is_near
from evals.measure.memorization.membership import SCORES

ATTACKS = {
    "near": {"rank": 10, "groups": "all default"},
    "membership": {"rank": 100, "groups": "all default", "tells_members": True},
}


def make_near() -> Attack:
    return Attack(
        "near",
        f"Levenshtein similarity of {NEAR_MATCH} or more, or BLEU-4 above {NEAR_MATCH}",
        "greedy decoding after the prefix gives the suffix except for a few tokens",
        "Lee et al. 2022, arXiv 2107.06499; Ippolito et al. 2023, arXiv 2210.17546",
        "one pass and greedy decoding, shared",
        lambda target: AttackOutcome.of_all(is_near(target.seen)),
    )


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
