"""Memorization of single rows: every measure with its definition and source.

All functions are pure. `greedy` and `decoded` stand for int [N, S] tokens, the first
teacher-forced (the most likely token given the true ones before it), the second free-running
(greedy decoding's own). S is the suffix length, N the number of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]


def exact_match(greedy: Ints, suffix: Ints) -> Flags:
    """Discoverable extraction: greedy decoding after the prefix repeats the whole suffix.

    Carlini et al. 2022, "Quantifying Memorization Across Neural Language Models", definition 3.1.
    True iff greedy[n, s] = suffix[n, s] for every s; the same for teacher-forced and for
    free-running tokens. Returns bool [N].
    """
    flags: Flags = (greedy == suffix).all(axis=1)
    return flags


def first_divergence(greedy: Ints, suffix: Ints) -> npt.NDArray[np.int64]:
    """The first suffix position where greedy decoding leaves the passage; S where it never does.

    Returns int64 [N].
    """
    wrong = greedy != suffix
    found: npt.NDArray[np.int64] = np.where(
        wrong.any(axis=1), wrong.argmax(axis=1), suffix.shape[1]
    ).astype(np.int64)
    return found


def memorization_score(tokens: Ints, suffix: Ints) -> npt.NDArray[np.float64]:
    """The share of suffix positions whose token is right: (1/S) Σ_s 1[tokens[s] = suffix[s]].

    Biderman et al. 2023, "Emergent and Predictable Memorization in Large Language Models", for
    free-running tokens; teacher-forced, it is the accuracy of the next token on the suffix.
    Returns float64 [N] in [0, 1].
    """
    score: npt.NDArray[np.float64] = (tokens == suffix).mean(axis=1, dtype=np.float64)
    return score


def suffix_nll(log_likelihood: Floats) -> npt.NDArray[np.float64]:
    """Mean negative log-likelihood of the suffix given the prefix, in nats per token.

    −(1/S) Σ_s log p(suffix[s] | everything before it). Returns float64 [N].
    """
    nll: npt.NDArray[np.float64] = -log_likelihood.mean(axis=1, dtype=np.float64)
    return nll


def completion_entropy(entropy: Floats) -> npt.NDArray[np.float64]:
    """Mean entropy of the predicted distributions over the suffix, in nats.

    (1/S) Σ_s H(p_s), H over the vocabulary, p_s the distribution at suffix position s. Menta et
    al. 2025, "Analyzing Memorization in Large Language Models through the Lens of Model
    Attribution": their third metric. `entropy`: [N, S]. Returns float64 [N].
    """
    mean: npt.NDArray[np.float64] = entropy.mean(axis=1, dtype=np.float64)
    return mean


def extraction_strength(greedy: Ints, suffix: Ints) -> npt.NDArray[np.float64]:
    """How little of the suffix must be given for greedy decoding to repeat all the rest.

    1 − k/S, with k the smallest number such that greedy decoding after the prefix and the first
    k suffix tokens gives the remaining S − k exactly (k = S always does). From Carlini et al.
    2021, "Extracting Training Data from Large Language Models", as made a measure by Wang et al.
    2024, "Towards Effective Evaluations and Comparisons for LLM Unlearning Methods". Teacher-forced
    tokens decide it: k follows the last position that is wrong. Returns float64 [N] in [0, 1].
    """
    wrong = greedy != suffix
    length = suffix.shape[1]
    given = np.where(wrong.any(axis=1), length - wrong[:, ::-1].argmax(axis=1), 0)
    strength: npt.NDArray[np.float64] = 1.0 - given / length
    return strength


def near_match_similarity(decoded: Ints, suffix: Ints) -> npt.NDArray[np.float64]:
    """Token edit similarity: 1 − Levenshtein(decoded, suffix) / S, on free-running tokens.

    The normalized edit distance of Lee et al. 2022, "Deduplicating Training Data Makes Language
    Models Better"; a near match is a similarity of 0.75 or more. Returns float64 [N] in [0, 1].
    """
    from rapidfuzz.distance import Levenshtein

    rows = zip(decoded.tolist(), suffix.tolist(), strict=True)
    return np.asarray([Levenshtein.normalized_similarity(a, b) for a, b in rows])


def bleu(decoded: Ints, suffix: Ints) -> npt.NDArray[np.float64]:
    """BLEU-4 of the free-running tokens against the suffix, each token id being a word.

    The geometric mean of the clipped 1- to 4-gram precisions, without smoothing; lengths are
    equal, so there is no brevity penalty (Papineni et al. 2002). Above 0.75 a row counts as
    approximately memorized: Ippolito et al. 2023, "Preventing Verbatim Memorization in Language
    Models Gives a False Sense of Privacy". Zero for suffixes under four tokens.
    Returns float64 [N] in [0, 1].
    """
    from sacrebleu.metrics.bleu import BLEU

    metric = BLEU(tokenize="none", smooth_method="none", force=True)
    texts = [[" ".join(map(str, row)) for row in rows.tolist()] for rows in (decoded, suffix)]
    scores = [
        metric.corpus_score([mine], [[true]]).score / 100 for mine, true in zip(*texts, strict=True)
    ]
    return np.asarray(scores)


def log_extraction_probability(log_drawn: Floats) -> npt.NDArray[np.float64]:
    """log p_z: the probability that one sampled completion is exactly the suffix.

    Hayes et al. 2024, "Measuring Memorization in Language Models via Probabilistic Extraction":
    the product over suffix positions of the true token's probability under the sampling scheme,
    known exactly from the one pass. `log_drawn`: log-probabilities [N, S], −inf where the scheme
    cannot draw the token. Returns float64 [N], −inf where p_z = 0.
    """
    total: npt.NDArray[np.float64] = log_drawn.sum(axis=1, dtype=np.float64)
    return total


def np_extractable(log_p_z: Floats, n: int, p: float) -> Flags:
    """(n, p)-discoverable extraction: n samples hold the suffix with probability p or more.

    1 − (1 − p_z)^n ≥ p (Hayes et al. 2024). `log_p_z`: [N]. Returns bool [N].
    """
    return attempts_needed(log_p_z, p) <= n


def attempts_needed(log_p_z: Floats, p: float) -> npt.NDArray[np.float64]:
    """The least n for which a row is (n, p)-discoverably extractable; infinite where p_z = 0.

    n = ⌈log(1 − p) / log(1 − p_z)⌉, at least 1 (Hayes et al. 2024). `p` is in
    (0, 1). Returns float64 [N].
    """
    p_z = np.exp(log_p_z)
    with np.errstate(divide="ignore"):
        needed = np.log1p(-p) / np.log1p(-np.minimum(p_z, 1.0))
    needed = np.ceil(needed * (1 - 1e-12))  # a whole number stays one whatever it was rounded to
    # Below the smallest float, log(1 − p_z) is −p_z; a p_z of 1 needs one attempt.
    needed = np.where(p_z >= 1.0, 1.0, needed)
    needed = np.where(p_z == 0.0, np.inf, needed)
    return np.maximum(needed, 1.0)
