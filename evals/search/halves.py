"""Two halves of the text: one to choose an edit on, the other to measure the choice on."""

from __future__ import annotations

from dataclasses import dataclass

from evals.samples import Samples, Tokens
from evals.samples.held_back import deal_passages, deal_windows
from surgery.errors import SamplesError


@dataclass(frozen=True)
class Half:
    """Passages, and int32 [M, T] windows of held-out text."""

    samples: Samples
    windows: Tokens


def split_halves(samples: Samples, windows: Tokens, seed: int) -> tuple[Half, Half]:
    """Splits passages and windows at random; the same seed gives the same halves.

    Uses only members of `samples` if membership is known, and splits rows of equal count evenly if
    counts are known. Raises `SamplesError` for fewer than two rows or windows.
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
    some, text = deal_passages(samples, seed), deal_windows(windows, seed)
    first, second = (
        Half(samples.select(mine), windows[its]) for mine, its in zip(some, text, strict=True)
    )
    return first, second
