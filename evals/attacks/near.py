"""Nearly word for word: the free-running continuation, compared loosely."""

from __future__ import annotations

from evals.attacks.attack import Attack, Attacked, Flags, Outcome
from evals.memorization.measures import bleu, near_match_similarity
from evals.samples import Tokens

ENOUGH = 0.75


def nearly(decoded: Tokens, suffixes: Tokens) -> Flags:
    """Which of int32 [N, S] continuations are near matches of their suffixes: bool [N]."""
    similar = near_match_similarity(decoded, suffixes) >= ENOUGH
    flags: Flags = similar | (bleu(decoded, suffixes) > ENOUGH)
    return flags


def near() -> Attack:
    def run(attacked: Attacked) -> Outcome:
        decoded = attacked.seen[0].decoded
        assert decoded is not None
        return Outcome.of_all(nearly(decoded, attacked.passages.suffixes))

    return Attack(
        "near",
        f"Levenshtein similarity of {ENOUGH} or more, or BLEU-4 above {ENOUGH}",
        "greedy decoding after the prefix gives the suffix, but for a few tokens",
        "Lee et al. 2022, arXiv 2107.06499; Ippolito et al. 2023, arXiv 2210.17546",
        "one pass and greedy decoding, shared",
        run,
    )
