"""Finds the passages and windows on which a search chose an edit.

Figures that include them flatter it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.data.samples import Samples, Tokens, hash_row
from surgery.errors import SamplesError
from surgery.record.manifest import Manifest, Record

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class ChoiceCounts(Record):
    """How many passages and windows a search used to choose the edit. Figures leave them out.

    None: the search used rows that may or may not be among these.
    """

    passages: int | None = 0
    windows: int | None = 0

    @property
    def warning(self) -> str | None:
        """A warning if a search may have chosen the edit on some of these rows."""
        named = {"passages": self.passages, "held-out text": self.windows}
        what = " and ".join(name for name, number in named.items() if number is None)
        if not what:
            return None
        return (
            f"a search chose an edit here on other {what}, or on these cut differently; the two "
            "sets may overlap, and then the figures flatter that edit"
        )


@dataclass(frozen=True)
class HeldBack:
    """The rows on which no edit was chosen: passages, bool [N], and held-out windows, bool [M]."""

    passages: Flags
    windows: Flags
    chose: ChoiceCounts


def hold_back(
    edited: Iterable[Manifest | None], samples: Samples | None, windows: Tokens | None
) -> HeldBack:
    """The rows left to measure all `edited` models on."""
    choices = {
        edit.chosen
        for manifest in edited
        if manifest is not None
        for edit in (*manifest.history, manifest.edit)
        if edit.chosen is not None
    }
    mine, its = {}, {}
    if samples is not None:
        mine = {one.passages: deal_passages(samples, one.seed)[0] for one in choices}
    if windows is not None:
        its = {one.windows: deal_windows(windows, one.seed)[0] for one in choices}
    rows, members = (samples.tokens, samples.trained_on) if samples else (None, None)
    passages, some = _find_left(rows, mine, members)
    text, others = _find_left(windows, its)
    return HeldBack(passages, text, ChoiceCounts(passages=some, windows=others))


@dataclass(frozen=True)
class Half:
    """Passages, and int32 [M, T] windows of held-out text."""

    samples: Samples
    windows: Tokens

    def __len__(self) -> int:
        """The number of rows to measure one edit on."""
        return len(self.samples) + len(self.windows)


def split_halves(samples: Samples, windows: Tokens, seed: int) -> tuple[Half, Half]:
    """The half that chooses an edit, and the half that is held back.

    Raises `SamplesError` for fewer than two of either.
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


def deal_passages(samples: Samples, seed: int) -> tuple[Rows, Rows]:
    """Deals the members into the half to choose an edit on and the half that is held back.

    The same seed gives the same halves. Members of equal count are split evenly.
    """
    rows = np.flatnonzero(samples.trained_on)
    counts = np.zeros(len(samples), dtype=np.int64) if samples.counts is None else samples.counts
    return _deal(rows, counts[rows], seed)


def deal_windows(windows: Tokens, seed: int) -> tuple[Rows, Rows]:
    """As `deal_passages`, for windows of held-out text."""
    return _deal(np.arange(len(windows)), np.zeros(len(windows), dtype=np.int64), seed)


def _deal(rows: Rows, stratum: Rows, seed: int) -> tuple[Rows, Rows]:
    """Shuffles rows within each stratum and deals them to the two halves in turn."""
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    order = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    return np.sort(rows[order[0::2]]), np.sort(rows[order[1::2]])


def _find_left(
    tokens: Tokens | None, halves: Mapping[str, Rows], members: Flags | None = None
) -> tuple[Flags, int | None]:
    """The rows that no search used, and how many one did use. `halves`: recorded hash → rows.

    `members`: the rows of which one must be left; by default all.
    """
    left = np.ones(0 if tokens is None else len(tokens), dtype=np.bool_)
    known = True
    for sha256, half in halves.items():
        if hash_row(np.asarray(tokens)[half]) == sha256:
            left[half] = False
        else:
            known = False
    if halves and not (left if members is None else left & members).any():
        raise SamplesError(
            "searches chose these edits on all passages or windows, so none is left to measure on",
            fix="evaluate the edits one at a time",
        )
    return left, int((~left).sum()) if known else None
