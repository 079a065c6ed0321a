"""Measures of memorization, each as one record. docs/which-passages.md defines them.

A measure takes a pass over N rows with suffixes of S tokens ([N, S] tokens and numbers), gives one
value per row, and figures of many rows. No measure counts what stands after the end of a shorter
suffix. All that tests, prints or draws measures reads `MEASURES`. `recovery.py` beside it decides
when a passage is recovered.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evals.data import NOTHING, Tokens, measure_lengths
from evals.table.measured import measure_mean, measure_share
from surgery.record.measured import BASE, Measured, On, Unit

if TYPE_CHECKING:
    from evals.run.predictions import Predictions

Ints = npt.NDArray[np.integer[Any]]
Floats = npt.NDArray[np.floating[Any]]
Flags = npt.NDArray[np.bool_]
Scores = npt.NDArray[np.float64]

NEAR_MATCH = 0.75


@dataclass(frozen=True)
class Pass:
    """What one model predicts for N rows.

    - `suffix`: int32 [N, S], the true tokens; a shorter one ends with `NOTHING`. `predictions`: the
      model's, at each of them.
    - `decoded`: int32 [N, S], greedy decoding after each prefix; None if not requested.
    """

    suffix: Tokens
    predictions: Predictions
    batch_size: int
    decoded: Tokens | None = None

    @property
    def arrays(self) -> dict[str, Any]:
        """The inputs of measures by name; None if not requested."""
        return {**vars(self.predictions), **vars(self)}


@dataclass(frozen=True)
class Measure:
    """A measure: its value for each row of a pass, and the figures of many rows.

    - `name`: its key among the values of a test. `figure`: that of its figure, if another one.
    - `values`: arrays of a pass, named by its parameters -> one value per row, [N].
    - `source`: who defined it, where reports say so. `column`: its key in a row, if not its name.
    - `unit`: of its mean over rows, which is its figure. None: it is in rows only.
    - `flags`: values of some rows, [n] -> what to add to the name of a figure -> the rows that
      count for it, bool [n]. Its figures are then these shares.
    - `headline`: also for every stratum, and in each row for the baseline.
    - `label`: what people call it; empty: no table shows it.
    """

    name: str
    values: Callable[..., npt.NDArray[Any]]
    source: str = ""
    column: str = ""
    figure: str = ""
    unit: Unit | None = None
    flags: Callable[[Any], Mapping[str, Flags]] | None = None
    headline: bool = False
    label: str = ""

    def measure(
        self,
        of: str,
        on: On | None,
        edited: Any,
        base: Any = None,
        part: str = "",
        twin: Any = None,
        groups: npt.NDArray[np.int64] | None = None,
    ) -> Iterator[Measured]:
        """The figures of an edited model, and of the base, if there is one: values of rows, [n].

        `part`: of the rows, for the names. `twin`: of the model that never saw the passages, for
        how far shares are above its own. `groups`: those of `Samples`.
        """
        if self.flags is not None:
            before, never = ({} if one is None else self.flags(one) for one in (base, twin))
            for name, flags in self.flags(edited).items():
                key = f"{self.figure or self.name}{part}{name}"
                there = before.get(name)
                if there is not None:
                    yield measure_share(key, there, of=BASE, on=on)
                given: Any = {"base": there, "twin": never.get(name)}
                yield measure_share(key, flags, of=of, on=on, groups=groups, **given)
        elif self.unit is not None:
            key = f"{self.figure or self.name}{part}"
            if base is not None:
                yield measure_mean(key, base, of=BASE, on=on, unit=self.unit)
            yield measure_mean(key, edited, of=of, on=on, unit=self.unit, base=base)

    @property
    def needs(self) -> tuple[str, ...]:
        """The arrays of a pass that it reads."""
        return tuple(inspect.signature(self.values).parameters)

    def can(self, made: Pass) -> bool:
        """Whether a pass has what it needs."""
        return all(made.arrays[need] is not None for need in self.needs)

    def of(self, made: Pass) -> npt.NDArray[Any]:
        """A value for each row of a pass: [N]."""
        return self.values(*(made.arrays[need] for need in self.needs))


def exact_match(greedy: Ints, suffix: Ints) -> Flags:
    """Whether every token is right: discoverable extraction (Carlini et al. 2022). bool [N]

    Teacher forcing and free decoding give the same.
    """
    return np.asarray((greedy == suffix).all(axis=1))


def first_divergence(greedy: Ints, suffix: Ints) -> npt.NDArray[np.int64]:
    """The first suffix position where greedy decoding leaves the passage; S if it never does."""
    wrong = greedy != suffix
    first = np.where(wrong.any(axis=1), wrong.argmax(axis=1), suffix.shape[1])
    return np.asarray(first, dtype=np.int64)


def token_accuracy(greedy: Ints, suffix: Ints) -> Scores:
    """The share of suffix positions whose token is right. Returns [N] in [0, 1]."""
    return average((greedy == suffix) & (suffix != NOTHING), suffix)


def average(values: npt.NDArray[Any], suffix: Ints) -> Scores:
    """The mean over the tokens of each suffix: [N, S] and [N, S] -> [N]. `values`: 0 elsewhere."""
    return np.asarray(values.sum(axis=1, dtype=np.float64) / measure_lengths(suffix))


def suffix_nll(log_likelihood: Floats, suffix: Ints) -> Scores:
    """Mean negative log-likelihood of the suffix given the prefix, in nats per token. [N]"""
    return -average(log_likelihood, suffix)


def completion_entropy(entropy: Floats, suffix: Ints) -> Scores:
    """Mean entropy of the predictions of a suffix, in nats (Menta et al. 2025). Returns [N]."""
    return average(entropy, suffix)


def near_match_similarity(decoded: Ints, suffix: Ints) -> Scores:
    """Token edit similarity: 1 − Levenshtein(decoded, suffix) / S (Lee et al. 2022). [N]"""
    from rapidfuzz.distance import Levenshtein

    rows = zip(_list_tokens(decoded), _list_tokens(suffix), strict=True)
    return np.asarray([Levenshtein.normalized_similarity(a, b) for a, b in rows])


def _list_tokens(rows: Ints) -> list[list[int]]:
    return [row[row != NOTHING].tolist() for row in rows]


def log_extraction_probability(log_drawn: Floats) -> Scores:
    """log p_z: the probability that one sample is exactly the suffix (Hayes et al. 2024).

    `log_drawn`: log-probabilities [N, S] of the true tokens under the sampling scheme, −inf where
    it cannot draw the token. Returns [N], −inf where p_z = 0.
    """
    return np.asarray(log_drawn.sum(axis=1, dtype=np.float64))


def attempts_needed(log_p_z: Floats, p: float) -> Scores:
    """The least n of which one draw is the suffix with probability p; infinite where p_z = 0.

    n = ⌈log(1 − p) / log(1 − p_z)⌉, at least 1 (Hayes et al. 2024). `p` is in (0, 1). [N]
    """
    p_z = np.exp(log_p_z)
    with np.errstate(divide="ignore"):
        needed = np.log1p(-p) / np.log1p(-np.minimum(p_z, 1.0))
    needed = np.ceil(needed * (1 - 1e-12))  # a whole number stays one whatever it was rounded to
    # Below the smallest float, log(1 − p_z) is −p_z; a p_z of 1 needs one attempt.
    needed = np.where(p_z >= 1.0, 1.0, needed)
    needed = np.where(p_z == 0.0, np.inf, needed)
    return np.maximum(needed, 1.0)


MEASURES = (
    Measure(
        "exact_match",
        exact_match,
        column="exact",
        figure="recited",
        flags=lambda exact: {"": exact},
        headline=True,
        label="recited word for word",
    ),
    Measure("first_divergence", first_divergence, headline=True),
    Measure(
        "next_token_accuracy",
        token_accuracy,
        unit="share",
        headline=True,
        label="share of tokens recited, each after the true ones",
    ),
    Measure(
        "suffix_nll",
        suffix_nll,
        column="nll",
        unit="nats",
        headline=True,
        label="loss on the passages, nats per token",
    ),
    Measure(
        "memorization_score",
        lambda decoded, suffix: token_accuracy(decoded, suffix),  # Biderman et al. 2023
        unit="share",
        label="share of tokens recited when decoding freely",
    ),
    Measure(
        "near_match.levenshtein",
        near_match_similarity,
        column="similarity",
        flags=lambda similarity: {"": similarity >= NEAR_MATCH},
        label="nearly recited (edit distance)",
    ),
    Measure(
        "completion_entropy",
        completion_entropy,
        column="entropy",
        unit="nats",
        label="entropy of the completion, nats per token",
    ),
)
HEADLINE = tuple(measure for measure in MEASURES if measure.headline)
