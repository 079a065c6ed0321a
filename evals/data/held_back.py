"""Finds the passages and windows on which a search chose an edit, and those that it was taught.

Figures that include them flatter it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from evals.data.repeats import group_repeats
from evals.data.samples import Samples, Tokens, hash_row
from evals.data.windows import MOST_REPEATED
from surgery.errors import SamplesError
from surgery.record.manifest import ChosenOn, Manifest, PassagesRecord, Record, Step

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


class ChoiceCounts(Record):
    """How many passages and windows a search used to choose the edit. Figures leave them out.

    `taught`: how many of the passages the edit was trained on. Figures leave them out, too, if any
    others are left. None: the search, or the training, used rows that may or may not be among
    these.
    """

    passages: int | None = 0
    windows: int | None = 0
    taught: int | None = 0

    def includes(self, n: int) -> bool:
        """Whether these `n` passages, which some edit was taught, were taught to this one."""
        return (self.taught or 0) >= n

    @property
    def doubt(self) -> str | None:
        """What a verdict on passages must say first, if a search may have seen some of them, or
        training."""
        cut = "on other passages, or on these cut differently, so"
        said = []
        if self.passages is None:
            said.append(f"a search chose the edit {cut} some of these may have chosen it")
        if self.taught is None:
            said.append(f"the edit was trained {cut} it may have been taught some of these")
        return "; ".join(said) or None

    @property
    def warning(self) -> str | None:
        """A warning if a search may have chosen the edit on some of these rows."""
        named = {"passages": self.passages, "held-out text": self.windows}
        what = " and ".join(name for name, number in named.items() if number is None)
        said = [f"a search chose an edit here on other {what}"] if what else []
        said += ["an edit here was trained on other passages"] if self.taught is None else []
        if not said:
            return None
        return (
            f"{', and '.join(said)}, or on these cut differently; the two sets may overlap, and "
            "then the figures flatter that edit"
        )


@dataclass(frozen=True)
class HeldBack:
    """The rows that figures are of: passages, bool [N], and held-out windows, bool [M].

    No edit was chosen on them. None was taught any of the passages, if there are such.

    - `unlisted`: bool [N], the members that were left out; they are not among `passages`.
    - `taught`: bool [N] for each model, the passages that it was trained on.
    - `unsure`: for each model, whether it was also trained on passages that are not known here.
    - `documents`: task → hashes of the documents of benchmarks on which edits were chosen.
    """

    passages: Flags
    windows: Flags
    chose: ChoiceCounts
    unlisted: Flags
    taught: tuple[Flags, ...] = ()
    unsure: tuple[bool, ...] = ()
    documents: Mapping[str, frozenset[str]] = field(default_factory=dict)

    @property
    def learned(self) -> Flags:
        """The passages that any of the models was trained on, bool [N]."""
        found = np.zeros_like(self.passages)
        for flags in self.taught:
            found |= flags
        return found

    @property
    def others(self) -> Flags | None:
        """Those of them that the figures leave out, bool [N]. None if there are none."""
        rows = self.learned & ~self.passages
        return rows if rows.any() else None

    def is_whole(self, place: int) -> bool:
        """Whether the figures are of passages that this model was taught, and of nothing else: they
        are then all there is, and estimate nothing."""
        some = self.passages & self.learned
        return bool(some.any() and not (some & ~self.taught[place]).any())

    def count(self, place: int) -> ChoiceCounts:
        """`chose`, with the number of passages that this model was taught."""
        mine = self.taught[place] & self.passages
        mixed = mine.any() and not self.is_whole(place)
        known = not (self.unsure[place] or mixed)
        return self.chose.model_copy(
            update={"taught": int(self.taught[place].sum()) if known else None}
        )


def hold_back(
    edited: Iterable[Manifest | None],
    samples: Samples | None,
    windows: Tokens | None,
    leave_out: float | None = None,
) -> HeldBack:
    """The rows left to measure all `edited` models on. `leave_out`: the share not listed.

    Raises `SamplesError` if an edit was taught any of the passages that are left out.
    """
    every = list(edited)
    manifests = [manifest for manifest in every if manifest is not None]
    every_choice = (edit.chosen for edit in _list_edits(manifests) if edit.chosen is not None)
    choices = list({choice.to_text(): choice for choice in every_choice}.values())
    unlisted = np.zeros(0 if samples is None else len(samples), dtype=np.bool_)
    passages, its, taught = unlisted.copy(), {}, [(unlisted, False) for _ in every]
    some: int | None = 0
    if samples is not None:
        if leave_out is not None:
            unlisted = deal_unlisted(samples, leave_out)
        listed = samples.select(~unlisted)
        if leave_out is not None:
            check_unlisted(manifests, listed)
            _check_not_chosen_on(choices, samples, listed)
        mine = {
            choice.passages: deal_passages(listed, choice.seed, choice.share)[0]
            for choice in choices
        }
        passages[~unlisted], some = _find_left(listed.tokens, mine, listed.trained_on)
        taught = [_find_taught(manifest, samples, ~unlisted) for manifest in every]
        never = passages.copy()
        for rows, _ in taught:
            never &= ~rows
        passages = never if (never & samples.trained_on).any() else passages
    if windows is not None:
        its = {choice.windows: deal_windows(windows, choice.seed)[0] for choice in choices}
    text, others = _find_left(windows, its)
    chose = ChoiceCounts(passages=some, windows=others)
    flags, unsure = (tuple(one) for one in zip(*taught, strict=True)) if taught else ((), ())
    documents: dict[str, frozenset[str]] = {}
    for choice in choices:
        for task, sha256 in choice.documents.items():
            documents[task] = documents.get(task, frozenset()) | {sha256}
    return HeldBack(passages, text, chose, unlisted, flags, unsure, documents)


def halve_tested(left: HeldBack, samples: Samples, seed: int) -> tuple[HeldBack, HeldBack]:
    """Halves the members that test, to choose one of several results on one half, and to judge that
    one on the other. Members that overlap stay together; all others are in both.

    Raises `SamplesError` for a half without any.
    """
    rows = np.flatnonzero(left.passages & samples.trained_on)
    parts = deal_passages(samples.select(rows), seed)
    if not all(map(len, parts)):
        raise SamplesError(
            "too few passages to choose among results on some and to judge the best on the others",
            where=samples.source,
            expected="at least 2 that do not overlap, beside those that the search chose on",
            got=_count(samples.select(rows)),
            fix="give more passages, or neither `erase` nor `heal`",
        )
    chosen, judged = left.passages.copy(), left.passages.copy()
    chosen[rows[parts[1]]] = judged[rows[parts[0]]] = False
    count = left.chose.passages
    used = left.chose.model_copy(
        update={"passages": None if count is None else count + len(parts[0])}
    )
    return replace(left, passages=chosen), replace(left, passages=judged, chose=used)


def take_half(samples: Samples, chosen: ChosenOn) -> Samples:
    """The passages of `samples` on which this search chose, or all if it chose on others."""
    half = samples.select(deal_passages(samples, chosen.seed, chosen.share)[0])
    return half if half.sha256 == chosen.passages else samples


def _find_taught(manifest: Manifest | None, samples: Samples, listed: Flags) -> tuple[Flags, bool]:
    """The passages that a model was trained on, bool [N], and whether there may be more of them.

    A record has one hash of all its passages, so it tells which these are only among the samples
    that they were taken from. A hash for each would tell more, and let anyone who holds the model
    guess at passages.
    """
    found, unsure = np.zeros(len(samples), dtype=np.bool_), False
    for step in manifest.history if manifest else ():
        if step.passages is not None:
            rows = _find_recorded(step.passages, step.chosen, samples, listed)
            unsure |= rows is None
            found[[] if rows is None else rows] = True
    return found, unsure


def _find_recorded(
    record: PassagesRecord, chosen: ChosenOn | None, samples: Samples, listed: Flags
) -> Rows | None:
    """The numbers of the rows of `samples` that are recorded. None if they are not found there.

    `listed`: bool [N], the rows that are not left out here.
    """
    members = samples.trained_on
    parts = [np.flatnonzero(members), np.flatnonzero(members & listed)]
    if record.leave_out is not None and members.sum() > record.number:
        parts.append(np.flatnonzero(members & ~deal_unlisted(samples, record.leave_out)))
    if chosen is not None:
        parts += [
            rows[deal_passages(samples.select(rows), chosen.seed, chosen.share)[0]]
            for rows in parts
        ]
    return next((rows for rows in parts if hash_row(samples.tokens[rows]) == record.sha256), None)


def check_unlisted(edited: Iterable[Manifest], listed: Samples) -> None:
    """Raises `SamplesError` for a model that was taught other passages than those `listed`."""
    for edit in _list_edits(edited):
        for taught in filter(None, [edit.passages]):
            if _find_recorded(taught, edit.chosen, listed, listed.trained_on) is None:
                raise SamplesError(
                    "was not taught the passages that are listed here, so those left out may not "
                    "be unlisted",
                    where=f"an edit of {edit.source.model}",
                    expected=f"the {int(listed.trained_on.sum()):,} of {listed.source} that are "
                    "listed",
                    got=f"{taught.number:,} of {taught.name}",
                    fix="give the `samples` and the `leave_out` that it was taught with",
                )


def _check_not_chosen_on(choices: Iterable[ChosenOn], samples: Samples, listed: Samples) -> None:
    """Raises `SamplesError` for an edit that was chosen on all `samples`, not on those `listed`."""
    for choice in choices:
        mine, every = (
            hash_row(some.tokens[deal_passages(some, choice.seed, choice.share)[0]])
            for some in (listed, samples)
        )
        if choice.passages == every != mine:
            raise SamplesError(
                "a search chose an edit on passages that are left out here, so they are not "
                "unlisted",
                where=samples.source,
                fix="leave out `leave_out`, or choose the edit with it",
            )


def _list_edits(edited: Iterable[Manifest]) -> list[Step]:
    """All steps of the models."""
    return [step for manifest in edited for step in manifest.history]


def warn_of_earlier_choice(manifest: Manifest | None, chosen_on: Samples) -> list[str]:
    """A warning if an earlier edit of the model was chosen on others than `chosen_on`."""
    edits = [] if manifest is None else _list_edits([manifest])
    if all(edit.chosen is None or edit.chosen.passages == chosen_on.sha256 for edit in edits):
        return []
    return [
        "a search chose an earlier edit of this model on other passages, which may be among those "
        "held back here; then the figures flatter that edit (give the seed and the share of that "
        "search, and the same passages)"
    ]


@dataclass(frozen=True)
class Half:
    """Passages, and int32 [M, T] windows of held-out text, each of one of the `documents`, [M]."""

    samples: Samples
    windows: Tokens
    documents: Rows | None = None

    def __len__(self) -> int:
        """The number of rows to measure one edit on."""
        return len(self.samples) + len(self.windows) + 2 * min(len(self.windows), MOST_REPEATED)


def split_halves(
    samples: Samples,
    windows: Tokens,
    seed: int,
    share: float = 0.5,
    documents: Rows | None = None,
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
                got=_count(samples.select(samples.trained_on)),
                fix="give another `choose`, or more passages that do not overlap",
            )
    first, second = (
        Half(samples.select(mine), windows[its], None if documents is None else documents[its])
        for mine, its in zip(some, text, strict=True)
    )
    return first, second


def deal_passages(samples: Samples, seed: int, share: float = 0.5) -> tuple[Rows, Rows]:
    """Deals the members into those to choose an edit on, and those that are held back.

    The same seed gives the same ones. `share`: of the members of each count, to choose on. Members
    that overlap stay together: one that was used tells of the next.
    """
    rows = np.flatnonzero(samples.trained_on)
    counts = np.zeros(len(samples), dtype=np.int64) if samples.counts is None else samples.counts
    return _deal(rows, counts[rows], group_repeats(samples.select(rows)), seed, share)


def deal_unlisted(samples: Samples, share: float) -> Flags:
    """The members to leave out, bool [N], as if nobody had listed them: `share` of each count.

    Their content decides, so the same passages are left out whatever their order is. Members that
    overlap stay together. Raises `SamplesError` if none is left out, or if all are.
    """
    rows = np.flatnonzero(samples.trained_on)
    order = {row: hash_row(samples.tokens[row]) for row in rows}
    counts = np.zeros(len(samples), dtype=np.int64) if samples.counts is None else samples.counts
    rows = np.array(sorted(rows, key=lambda row: (counts[row], order[row])), dtype=np.int64)
    groups = group_repeats(samples.select(rows))
    unlisted = np.zeros(len(samples), dtype=np.bool_)
    unlisted[rows[_pick(groups, np.floor(share * np.arange(len(rows) + 1)))]] = True
    if not 0 < unlisted.sum() < len(rows):
        raise SamplesError(
            f"too few passages to leave out {share:.0%} of them",
            where=samples.source,
            expected="at least one to list, and one to leave out",
            got=f"{int(unlisted.sum()):,} of {_count(samples.select(rows))} to leave out",
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


def _count(passages: Samples) -> str:
    """How many passages there are, and groups of them that overlap, which are kept together."""
    number, groups = len(passages), len(np.unique(group_repeats(passages)))
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
