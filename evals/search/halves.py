"""Two halves: one to choose an edit on, the other to find out what the choice is worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.samples import Samples, Tokens
from surgery.errors import SamplesError

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Half:
    """What is measured on: passages, and int32 [M, T] windows of held-out text."""

    samples: Samples
    windows: Tokens


def halves(samples: Samples, windows: Tokens, seed: int) -> tuple[Half, Half]:
    """Deals out passages and windows at random; the same seed gives the same halves.

    Of `samples` only members are used, where membership is known; rows of equal count, where counts
    are known, are dealt out evenly. Raises `SamplesError` for fewer than two rows or windows.
    """
    members = int(samples.trained_on.sum())
    for what, number in (
        ("samples" if samples.members is None else "members", members),
        ("windows of held-out text", len(windows)),
    ):
        if number < 2:
            raise SamplesError(
                f"too few {what} to choose on one half and test on the other",
                where=samples.source,
                expected="at least 2",
                got=number,
            )
    some, text = dealt_passages(samples, seed), dealt_windows(windows, seed)
    first, second = (
        Half(samples.select(mine), windows[its]) for mine, its in zip(some, text, strict=True)
    )
    return first, second


def dealt_passages(samples: Samples, seed: int) -> tuple[Rows, Rows]:
    """The rows of the half that chooses, and those of the half that is held back."""
    rows = np.flatnonzero(samples.trained_on)
    counts = np.zeros(len(samples), dtype=np.int64) if samples.counts is None else samples.counts
    return _dealt(rows, counts[rows], seed)


def dealt_windows(windows: Tokens, seed: int) -> tuple[Rows, Rows]:
    """As `dealt_passages`, of windows of held-out text."""
    return _dealt(np.arange(len(windows)), np.zeros(len(windows), dtype=np.int64), seed)


def _dealt(rows: Rows, stratum: Rows, seed: int) -> tuple[Rows, Rows]:
    """Rows in random order within each stratum, then in turn to one half and to the other."""
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    order = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    return np.sort(rows[order[0::2]]), np.sort(rows[order[1::2]])
