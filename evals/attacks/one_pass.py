"""Attacks that the pass over the passages decides, or the free-running continuation after it."""

from __future__ import annotations

from evals.attacks.attack import Attack, Attacked, Outcome
from evals.memorization.measures import NEAR_MATCH, Flags, Pass, bleu, near_match_similarity
from evals.memorization.recovery import Evidence, recovery_of


def one_pass(name: str) -> Attack:
    """The attack by that measure. Raises `ValueError` for an unknown name."""
    measure = recovery_of(name)

    def run(attacked: Attacked) -> Outcome:
        return Outcome.of_all(measure.recovered(Evidence.of(attacked.seen)))

    return Attack(
        name, "greedy or known tokens", measure.definition, measure.source, "one pass, shared", run
    )


def near() -> Attack:
    """Nearly word for word."""
    return Attack(
        "near",
        f"Levenshtein similarity of {NEAR_MATCH} or more, or BLEU-4 above {NEAR_MATCH}",
        "greedy decoding after the prefix gives the suffix, but for a few tokens",
        "Lee et al. 2022, arXiv 2107.06499; Ippolito et al. 2023, arXiv 2210.17546",
        "one pass and greedy decoding, shared",
        lambda attacked: Outcome.of_all(nearly(attacked.seen)),
    )


def nearly(made: Pass) -> Flags:
    """Which rows of a pass that decoded are near matches: bool [N]."""
    assert made.decoded is not None
    similar = near_match_similarity(made.decoded, made.suffix) >= NEAR_MATCH
    return similar | (bleu(made.decoded, made.suffix) > NEAR_MATCH)
