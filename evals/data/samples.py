"""The passages of every measurement: N rows, each a prefix and a suffix.

Prefixes are as long as each other, and so are suffixes, unless these are secrets that a user
marked: then both differ in length, and `NOTHING` stands before a prefix and after a suffix.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.run.keep import ASIDE
from surgery.errors import SamplesError
from surgery.reading.corpus import NOTHING as NOTHING
from surgery.record.manifest import is_word
from surgery.record.report import SamplesRecord

Tokens = npt.NDArray[np.int32]


@dataclass(frozen=True)
class RowNote:
    """A note about one row of the source: its id, the reason, and whether the row was kept."""

    id: str
    reason: str
    kept: bool


@dataclass(frozen=True, eq=False)
class Samples:
    """Passages to test.

    - `tokens`: int32 [N, prefix_length + suffix_length], N >= 1. `NOTHING` stands before a shorter
      prefix, and after a shorter suffix; each has at least one token of both.
    - `prefix_length`: how many tokens of a row the model is given at most, at least 1.
    - `ids`: one name per row, all different.
    - `counts`: int64 [N], how often the passage occurs in the training text, if known.
    - `members`: bool [N], whether it occurs there at all, if known.
    - `after`: int32 [R] for each row, the tokens that the passage has after those of the row, if
      known. Only an attack on whole documents tests them.
    - `source`: where the rows came from, as the user named it.
    - `notes`: rows that were left out, or kept with a reservation.
    - `secrets`: whether every suffix is a secret that was marked, and so counts for itself.
    - `groups`: int64 [N], a number for the passages that tell of each other
      (`evals.data.repeats.group_repeats`); None: each is one of its own.
    """

    tokens: Tokens
    prefix_length: int
    ids: tuple[str, ...]
    source: str = field(metadata=ASIDE)
    counts: npt.NDArray[np.int64] | None = None
    members: npt.NDArray[np.bool_] | None = None
    after: tuple[Tokens, ...] | None = None
    notes: tuple[RowNote, ...] = field(default=(), metadata=ASIDE)
    secrets: bool = False
    groups: npt.NDArray[np.int64] | None = field(default=None, metadata=ASIDE)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def suffix_length(self) -> int:
        """That of the longest."""
        return int(self.tokens.shape[1]) - self.prefix_length

    @property
    def prefixes(self) -> Tokens:
        """int32 [N, prefix_length]"""
        return self.tokens[:, : self.prefix_length]

    @property
    def suffixes(self) -> Tokens:
        """int32 [N, suffix_length]"""
        return self.tokens[:, self.prefix_length :]

    @property
    def prefix_rows(self) -> list[Tokens]:
        """The tokens of each prefix, as many as it has."""
        return [take_tokens(row) for row in self.prefixes]

    @property
    def suffix_rows(self) -> list[list[int]]:
        """The tokens of each suffix, as many as it has."""
        return [take_tokens(row).tolist() for row in self.suffixes]

    @cached_property
    def trained_on(self) -> npt.NDArray[np.bool_]:
        """bool [N]: the members if membership is known, else every row."""
        return np.ones(len(self), dtype=np.bool_) if self.members is None else self.members

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of all rows' tokens in order, as little-endian int32."""
        return hash_row(self.tokens)

    @cached_property
    def hashes(self) -> tuple[str, ...]:
        """`hash_row` of every row, as results hold it; where suffixes are secrets, of the prefix: a
        short secret would be found by trying all."""
        rows = self.prefixes if self.secrets else self.tokens
        return tuple(hash_row(row) for row in rows)

    def select(self, mask: npt.NDArray[np.bool_ | np.int64] | slice) -> Samples:
        """The rows in a mask (bool [N]), with these numbers (int64 [M]), or in a slice."""
        rows = np.arange(len(self))[mask]
        return replace(
            self,
            tokens=self.tokens[mask],
            ids=tuple(np.asarray(self.ids, dtype=object)[mask]),
            counts=None if self.counts is None else self.counts[mask],
            members=None if self.members is None else self.members[mask],
            after=None if self.after is None else tuple(self.after[row] for row in rows),
            groups=None if self.groups is None else self.groups[mask],
        )

    @property
    def independent(self) -> int:
        """How many groups of passages tell nothing of each other."""
        return len(self) if self.groups is None else len(np.unique(self.groups))

    @property
    def untested(self) -> npt.NDArray[np.int64] | None:
        """int64 [N]: how many tokens each passage has after those of its row, if known."""
        if self.after is None:
            return None
        return np.asarray([len(one) for one in self.after], dtype=np.int64)

    def spread(self, mask: npt.NDArray[np.bool_], most: int) -> Samples:
        """The rows in `mask` (bool [N]), or `most` of them at even distances."""
        rows = np.flatnonzero(mask)
        some = np.linspace(0, len(rows) - 1, min(most, len(rows))).round().astype(int)
        return self.select(rows[some])

    def check_fits(self, vocabulary: int, longest: int | None) -> None:
        """Raises `SamplesError` if a model of so many tokens cannot read every row.

        `longest`: its context, in tokens; None if that has no end.
        """
        bad = np.argwhere(self.tokens >= vocabulary)
        if len(bad):
            row, column = bad[0]
            raise SamplesError(
                f"token ids beyond the model's vocabulary in {len(set(bad[:, 0]))} rows, "
                f"the first in row {self.ids[row]!r}",
                where=self.source,
                expected=f"ids below {vocabulary}",
                got=int(self.tokens[row, column]),
                fix="use samples made with this model's tokenizer",
            )
        if longest is not None and self.tokens.shape[1] > longest:
            fix = "choose a smaller prefix or suffix length"
            if self.secrets:
                fix = "choose a smaller `prefix_length`, or mark shorter secrets"
            raise SamplesError(
                "rows longer than the model's context",
                where=self.source,
                expected=f"prefix + suffix of at most {longest} tokens",
                got=self.tokens.shape[1],
                fix=fix,
            )


def describe_samples(samples: Samples) -> dict[str, Any]:
    """How reports describe passages: plain JSON values."""
    left_out, reservations = (
        [{"id": note.id, "reason": note.reason} for note in samples.notes if note.kept == kept]
        for kept in (False, True)
    )
    return {
        "source": samples.source,
        "sha256": samples.sha256,
        "rows": len(samples),
        "secrets": len(samples) if samples.secrets else 0,
        "longer": count_longer(samples),
        "left_out": left_out,
        "reservations": reservations,
    }


def say_lengths(prefix: int, suffix: int, secrets: bool) -> str:
    """How people read the lengths of `Samples`, in tokens."""
    if secrets:
        return f"up to {prefix} tokens of prefix, secrets of up to {suffix} tokens as suffixes"
    return f"{prefix} tokens of prefix, {suffix} of suffix"


def count_longer(samples: Samples) -> dict[str, int]:
    """How many passages go on after their row, and the most tokens that one has there."""
    rest = samples.untested
    if rest is None:
        return {"passages": 0, "most_tokens": 0}
    return {"passages": int((rest > 0).sum()), "most_tokens": max(rest.tolist(), default=0)}


def record_samples(samples: Samples) -> SamplesRecord:
    """What results say of the passages, without ids and texts."""
    longer = count_longer(samples.select(samples.trained_on))
    return SamplesRecord(
        source=samples.source,
        sha256=samples.sha256,
        rows=len(samples),
        left_out=sum(not note.kept for note in samples.notes),
        prefix_length=samples.prefix_length,
        suffix_length=samples.suffix_length,
        secrets=samples.secrets,
        longer=longer["passages"],
        untested_tokens=longer["most_tokens"],
    )


def list_row_warnings(described: Mapping[str, Any]) -> list[str]:
    """One warning for each reason in `describe_samples`. It names no row that text names."""
    found = []
    if number := described["longer"]["passages"]:
        found.append(
            f"{number:,} passages are longer than prefix and suffix, by up to "
            f"{described['longer']['most_tokens']:,} tokens, which are not tested; mark what must "
            "not come out with `secret`"
        )
    for key, text in (("left_out", "left out"), ("reservations", "kept with a reservation")):
        by_reason: dict[str, list[str]] = {}
        for row in described[key]:
            by_reason.setdefault(row["reason"], []).append(row["id"])
        for reason, ids in by_reason.items():
            first = f", the first {ids[0]!r}" if is_word(ids[0]) else ""
            found.append(f"{len(ids)} rows {text}{first}: {reason}")
    return found


def hash_row(row: Tokens) -> str:
    """SHA-256 of tokens, of one row or of rows in order, as little-endian int32."""
    return hashlib.sha256(take_tokens(row).astype("<i4").tobytes()).hexdigest()


def take_tokens(row: Tokens) -> Tokens:
    """The tokens of one row or of rows in order, without `NOTHING`: int32 [T]."""
    tokens: Tokens = row[row != NOTHING]
    return tokens


def measure_lengths(rows: npt.NDArray[np.integer[Any]]) -> npt.NDArray[np.int64]:
    """How many tokens each row of [N, T] has: [N]."""
    return np.asarray((rows != NOTHING).sum(axis=1), dtype=np.int64)
