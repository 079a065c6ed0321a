"""Which passages and windows chose an edit: a figure that they are in flatters it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from evals.evaluation.report import Chose
from evals.memorization.measures import Flags
from evals.samples import Samples, Tokens, row_hash
from evals.search.halves import Rows, dealt_passages, dealt_windows
from surgery.errors import SamplesError
from surgery.record.manifest import Manifest


@dataclass(frozen=True)
class HeldBack:
    """The rows that chose no edit: passages, bool [N], and windows of held-out text, bool [M].

    `chose`: how many did; of its two figures one is None where a search chose on rows that are not
    these, or are cut differently: some of them may be among these.
    """

    passages: Flags
    windows: Flags
    chose: Chose


def held_back(
    edited: Iterable[Manifest | None], samples: Samples | None, windows: Tokens | None
) -> HeldBack:
    """What is left to measure all of the `edited` models on. Raises `SamplesError` for nothing."""
    choices = {
        edit.chosen
        for manifest in edited
        if manifest is not None
        for edit in (*manifest.history, manifest.edit)
        if edit.chosen is not None
    }
    halves = (
        {one.passages: dealt_passages(samples, one.seed)[0] for one in choices} if samples else {},
        {}
        if windows is None
        else {one.windows: dealt_windows(windows, one.seed)[0] for one in choices},
    )
    passages, some = _left(samples.tokens if samples else None, halves[0])
    text, others = _left(windows, halves[1])
    return HeldBack(passages, text, Chose(passages=some, windows=others))


def _left(tokens: Tokens | None, halves: Mapping[str, Rows]) -> tuple[Flags, int | None]:
    """The rows that chose nothing, and how many chose. `halves`: by the hash that is recorded."""
    left = np.ones(0 if tokens is None else len(tokens), dtype=np.bool_)
    known = True
    for sha256, half in halves.items():
        if row_hash(np.asarray(tokens)[half]) == sha256:
            left[half] = False
        else:
            known = False
    if halves and not left.any():
        raise SamplesError(
            "every passage or window chose one of the edits, so none is left to measure them on",
            fix="evaluate the edits one at a time",
        )
    return left, int((~left).sum()) if known else None
