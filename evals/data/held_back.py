"""Finds the passages and windows on which a search chose an edit.

Figures that include them flatter it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.data.repeats import group_overlaps
from evals.data.samples import Samples, Tokens, hash_row
from evals.data.windows import repeat_windows
from surgery.errors import SamplesError
from surgery.record.manifest import Choice, Edit, Manifest, PassagesRecord, Record

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class ChoiceCounts(Record):
    """How many passages and windows a search used to choose the edit. Figures leave them out.

    None: the search used rows that may or may not be among these.
    """

    passages: int | None = 0
    windows: int | None = 0

    @property
    def doubt(self) -> str | None:
        """What a verdict on passages must say first, if a search may have seen some of them."""
        if self.passages is not None:
            return None
        return (
            "a search chose the edit on other passages, or on these cut differently, so some of "
            "these may have chosen it"
        )

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
    """The rows on which no edit was chosen: passages, bool [N], and held-out windows, bool [M].

    `unlisted`: bool [N], the members that were left out; they are not among `passages`.
    """

    passages: Flags
    windows: Flags
    chose: ChoiceCounts
    unlisted: Flags


def hold_back(
    edited: Iterable[Manifest | None],
    samples: Samples | None,
    windows: Tokens | None,
    leave_out: float | None = None,
) -> HeldBack:
    """The rows left to measure all `edited` models on. `leave_out`: the share not listed.

    Raises `SamplesError` if an edit was taught any of the passages that are left out.
    """
    manifests = [manifest for manifest in edited if manifest is not None]
    choices = {edit.chosen for edit in _list_edits(manifests) if edit.chosen is not None}
    unlisted = np.zeros(0 if samples is None else len(samples), dtype=np.bool_)
    passages, its = unlisted.copy(), {}
    some: int | None = 0
    if samples is not None:
        if leave_out is not None:
            unlisted = deal_unlisted(samples, leave_out)
        listed = samples.select(~unlisted)
        if leave_out is not None:
            check_unlisted(manifests, listed)
            _check_not_chosen_on(choices, samples, listed)
        mine = {one.passages: deal_passages(listed, one.seed, one.share)[0] for one in choices}
        passages[~unlisted], some = _find_left(listed.tokens, mine, listed.trained_on)
    if windows is not None:
        its = {one.windows: deal_windows(windows, one.seed)[0] for one in choices}
    text, others = _find_left(windows, its)
    return HeldBack(passages, text, ChoiceCounts(passages=some, windows=others), unlisted)


def check_unlisted(edited: Iterable[Manifest], listed: Samples) -> None:
    """Raises `SamplesError` for a model that was taught other passages than those `listed`."""
    members = listed.select(listed.trained_on).sha256
    for edit in _list_edits(edited):
        for record in (edit.erasing, edit.healing):
            taught = record and record.passages
            if isinstance(taught, PassagesRecord) and taught.sha256 != members:
                raise SamplesError(
                    "was not taught the passages that are listed here, so those left out may not "
                    "be unlisted",
                    where=f"an edit of {edit.source.model}",
                    expected=f"the {int(listed.trained_on.sum()):,} of {listed.source} that are "
                    "listed",
                    got=f"{taught.number:,} of {taught.name}",
                    fix="give the `samples` and the `leave_out` that it was taught with",
                )


def _check_not_chosen_on(choices: Iterable[Choice], samples: Samples, listed: Samples) -> None:
    """Raises `SamplesError` for an edit that was chosen on all `samples`, not on those `listed`."""
    for one in choices:
        mine, every = (
            hash_row(some.tokens[deal_passages(some, one.seed, one.share)[0]])
            for some in (listed, samples)
        )
        if one.passages == every != mine:
            raise SamplesError(
                "a search chose an edit on passages that are left out here, so they are not "
                "unlisted",
                where=samples.source,
                fix="leave out `leave_out`, or choose the edit with it",
            )


def _list_edits(edited: Iterable[Manifest]) -> list[Edit]:
    """All edits of the models, the earlier ones among them."""
    return [edit for manifest in edited for edit in (*manifest.history, manifest.edit)]


def warn_of_earlier_choice(manifest: Manifest | None, chosen_on: Samples) -> list[str]:
    """A warning if an earlier edit of the model was chosen on others than `chosen_on`."""
    edits = [] if manifest is None else _list_edits([manifest])
    if all(one.chosen is None or one.chosen.passages == chosen_on.sha256 for one in edits):
        return []
    return [
        "a search chose an earlier edit of this model on other passages, which may be among those "
        "held back here; then the figures flatter that edit (give the seed and the share of that "
        "search, and the same passages)"
    ]


@dataclass(frozen=True)
class Half:
    """Passages, and int32 [M, T] windows of held-out text."""

    samples: Samples
    windows: Tokens

    def __len__(self) -> int:
        """The number of rows to measure one edit on."""
        return len(self.samples) + len(self.windows) + len(self.repeated)

    @property
    def repeated(self) -> Tokens:
        """As `evals.data.windows.repeat_windows`."""
        return repeat_windows(self.windows)


def split_halves(
    samples: Samples, windows: Tokens, seed: int, share: float = 0.5
) -> tuple[Half, Half]:
    """What chooses an edit, and what is held back. `share`: as for `deal_passages`.

    Raises `SamplesError` for fewer than two of either, and where one part gets no passage.
    """
    members = int(samples.trained_on.sum())
    for what, number in (
        ("samples" if samples.members is None else "members", members),
        ("windows of held-out text", len(windows)),
    ):
        if number < 2:
            raise SamplesError(
                f"too few {what} to choose on some and test on the others",
                where=samples.source,
                expected="at least 2",
                got=number,
            )
    some, text = deal_passages(samples, seed, share), deal_windows(windows, seed)
    for what, mine in zip(("choose on", "hold back"), some, strict=True):
        if not len(mine):
            raise SamplesError(
                f"a share of {share:g} leaves no passage to {what}",
                where=samples.source,
                got=_count(samples.tokens[samples.trained_on]),
                fix="give another `choose`, or more passages that do not overlap",
            )
    first, second = (
        Half(samples.select(mine), windows[its]) for mine, its in zip(some, text, strict=True)
    )
    return first, second


def deal_passages(samples: Samples, seed: int, share: float = 0.5) -> tuple[Rows, Rows]:
    """Deals the members into those to choose an edit on, and those that are held back.

    The same seed gives the same ones. `share`: of the members of each count, to choose on. Members
    that overlap stay together: one that was used tells of the next.
    """
    rows = np.flatnonzero(samples.trained_on)
    counts = np.zeros(len(samples), dtype=np.int64) if samples.counts is None else samples.counts
    return _deal(rows, counts[rows], group_overlaps(samples.tokens[rows]), seed, share)


def deal_unlisted(samples: Samples, share: float) -> Flags:
    """The members to leave out, bool [N], as if nobody had listed them: `share` of each count.

    Their content decides, so the same passages are left out whatever their order is. Members that
    overlap stay together. Raises `SamplesError` if none is left out, or if all are.
    """
    rows = np.flatnonzero(samples.trained_on)
    order = {row: hash_row(samples.tokens[row]) for row in rows}
    counts = np.zeros(len(samples), dtype=np.int64) if samples.counts is None else samples.counts
    rows = np.array(sorted(rows, key=lambda row: (counts[row], order[row])), dtype=np.int64)
    groups = group_overlaps(samples.tokens[rows])
    unlisted = np.zeros(len(samples), dtype=np.bool_)
    unlisted[rows[_pick(groups, np.floor(share * np.arange(len(rows) + 1)))]] = True
    if not 0 < unlisted.sum() < len(rows):
        raise SamplesError(
            f"too few passages to leave out {share:.0%} of them",
            where=samples.source,
            expected="at least one to list, and one to leave out",
            got=f"{int(unlisted.sum()):,} of {_count(samples.tokens[rows])} to leave out",
            fix="give another `leave_out`, or more passages that do not overlap",
        )
    return unlisted


def deal_windows(windows: Tokens, seed: int) -> tuple[Rows, Rows]:
    """As `deal_passages`, for windows of held-out text."""
    rows = np.arange(len(windows))
    return _deal(rows, np.zeros_like(rows), rows, seed)


def _deal(
    rows: Rows, stratum: Rows, groups: Rows, seed: int, share: float = 0.5
) -> tuple[Rows, Rows]:
    """Shuffles rows within each stratum and deals `share` of them to the first part, evenly."""
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    order = shuffled[np.argsort(stratum[shuffled], kind="stable")]
    first = _pick(groups[order], np.ceil(np.round(share * np.arange(len(rows) + 1), 9)))
    return np.sort(rows[order[first]]), np.sort(rows[order[~first]])


def _pick(groups: Rows, due: npt.NDArray[np.float64]) -> Flags:
    """Picks rows in order, so that of the first k rows about `due[k]` are picked: bool [N].

    `groups`: int64 [N]. All rows of a group are picked, or none, where the first of them stands.
    """
    sizes = np.bincount(groups)
    picked = np.zeros(len(sizes), dtype=np.bool_)
    dealt = mine = 0
    for group in dict.fromkeys(groups.tolist()):
        dealt += sizes[group]
        if abs(mine + sizes[group] - due[dealt]) < abs(mine - due[dealt]):
            picked[group] = True
            mine += sizes[group]
    return picked[groups]


def _count(passages: Tokens) -> str:
    """How many passages there are, and groups of them that overlap, which are kept together."""
    number, groups = len(passages), len(np.unique(group_overlaps(passages)))
    more = "" if groups == number else f", which overlap, so that they count as {groups:,}"
    return f"{number:,} passages{more}"


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
            fix="evaluate the edits one at a time, or on passages and text that no search used",
        )
    return left, int((~left).sum()) if known else None
