"""Nearly word for word: free decoding gives the passage back except for a few tokens."""

from __future__ import annotations

from evals.attacks.attack import Attack, AttackOutcome
from evals.memorization.measures import NEAR_MATCH, Flags, Pass, bleu, near_match_similarity


def make_near() -> Attack:
    return Attack(
        "near",
        f"Levenshtein similarity of {NEAR_MATCH} or more, or BLEU-4 above {NEAR_MATCH}",
        "greedy decoding after the prefix gives the suffix except for a few tokens",
        "Lee et al. 2022, arXiv 2107.06499; Ippolito et al. 2023, arXiv 2210.17546",
        "one pass and greedy decoding, shared",
        lambda target: AttackOutcome.of_all(is_near(target.seen)),
    )


def is_near(made: Pass) -> Flags:
    """Whether each row of a pass with decoding is a near match: bool [N]."""
    assert made.decoded is not None
    similar = near_match_similarity(made.decoded, made.suffix) >= NEAR_MATCH
    return similar | (bleu(made.decoded, made.suffix) > NEAR_MATCH)
