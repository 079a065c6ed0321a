"""Records of the passages' form that no model was trained on: training keeps half, tests take half.

Content decides which, so that every command takes the same.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from evals.data.held_back import deal_unlisted
from evals.data.loading import PassageSource
from evals.data.samples import NOTHING, Samples, Tokens
from surgery.errors import SamplesError

_FEWEST = 4


def split_never(never: PassageSource, passages: Samples, tokenizer: Any) -> tuple[Samples, Samples]:
    """The records whose predictions training keeps, and those that test. Raises `SamplesError` for
    too few, for some that are among the `passages`, and for prefixes of another length."""
    found = never.tokenize(tokenizer)
    if found.prefix_length != passages.prefix_length and not passages.secrets:
        raise SamplesError(
            "the records of `never` have prefixes of another length than the passages",
            where=found.source,
            expected=f"{passages.prefix_length} tokens",
            got=found.prefix_length,
        )
    known = {*passages.select(passages.trained_on).hashes}
    if among := sum(one in known for one in found.hashes):
        raise SamplesError(
            f"{among:,} of {len(found):,} records of `never` are among the passages to erase",
            where=found.source,
            fix="leave them out: the model must keep writing what `never` holds",
        )
    if len(found) < _FEWEST:
        raise SamplesError(
            "too few records: half of them test",
            where=found.source,
            expected=f"at least {_FEWEST}, and better 100 or more",
            got=len(found),
        )
    tested = deal_unlisted(found, 0.5)
    return found.select(~tested), found.select(tested)


def add_never(passages: Samples, tested: Samples) -> Samples:
    """The passages, and the records that test as some that no model was trained on."""
    both = passages, tested
    prefix, suffix = (
        max(getattr(one, f"{part}_length") for one in both) for part in ("prefix", "suffix")
    )

    def widen(some: Samples) -> Tokens:
        more = (0, 0), (prefix - some.prefix_length, suffix - some.suffix_length)
        return np.pad(some.tokens, more, constant_values=NOTHING)

    none, after = np.empty(0, dtype=np.int32), passages.after
    if after is not None:
        after += tested.after or (none,) * len(tested)
    counts = passages.counts
    if counts is not None:
        counts = np.concatenate([counts, np.zeros(len(tested), dtype=np.int64)])
    groups = passages.groups
    if groups is not None:
        groups = np.concatenate([groups, 1 + np.max(groups) + np.arange(len(tested))])
    return replace(
        passages,
        tokens=np.concatenate([widen(passages), widen(tested)]),
        prefix_length=prefix,
        ids=(*passages.ids, *(f"never:{name}" for name in tested.ids)),
        counts=counts,
        members=np.concatenate([passages.trained_on, np.zeros(len(tested), dtype=np.bool_)]),
        after=after,
        groups=groups,
    )
