"""Makes rows of token ids from columns: tokenizes text and cuts rows to length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.samples.record import RowNote, Tokens
from evals.samples.tables import IdRow, PassageTable
from surgery.errors import SamplesError
from surgery.reading.corpus import tokenize


def cut_rows(
    table: PassageTable, tokenizer: Any, prefix: int, suffix: int
) -> tuple[Tokens, list[RowNote]]:
    """`tokens` or `text` -> int32 [N, prefix + suffix]: the first tokens of each row."""
    length = prefix + suffix
    rows: Sequence[Any] = table.columns.get("tokens", table.columns.get("text", ()))
    notes = []
    if isinstance(rows[0], str):
        rows = _encode(table, rows, tokenizer)
        for name, row in zip(table.ids, rows, strict=True):
            short = row[:length]
            text = tokenizer.decode(short.tolist(), clean_up_tokenization_spaces=False)
            if len(row) > length and not np.array_equal(tokenize(tokenizer, text), short):
                reason = f"its first {length} tokens, as text, tokenize differently on their own"
                notes.append(RowNote(name, reason, kept=True))
    wanted = f"tokens (prefix {prefix} + suffix {suffix})"
    _check_lengths(table.where, dict(zip(table.ids, rows, strict=True)), length, wanted)
    return _stack(table, [row[:length] for row in rows]), notes


def cut_pairs(
    table: PassageTable, tokenizer: Any, prefix: int, suffix: int
) -> tuple[Tokens, list[RowNote]]:
    """`prefix` and `suffix` -> int32 [N, prefix + suffix]: the tokens on both sides of the seam.

    Rows that the notes leave out are zeros.
    """
    prefixes, suffixes = table.columns["prefix"], table.columns["suffix"]
    torn = [False] * table.number
    if type(prefixes[0]) is not type(suffixes[0]):
        raise SamplesError(
            "prefix and suffix must both be text or both be token ids", where=table.where
        )
    if isinstance(prefixes[0], str):
        whole = [before + after for before, after in zip(prefixes, suffixes, strict=True)]
        prefixes, whole = (_encode(table, texts, tokenizer) for texts in (prefixes, whole))
        parts = list(zip(prefixes, whole, strict=True))
        torn = [not np.array_equal(row[: len(head)], head) for head, row in parts]
        suffixes = [row[len(head) :] for head, row in parts]
    reason = "prefix and suffix tokenize differently where they meet"
    notes = [
        RowNote(name, reason, kept=False) for name, bad in zip(table.ids, torn, strict=True) if bad
    ]
    for rows, length, what in ((prefixes, prefix, "prefix"), (suffixes, suffix, "suffix")):
        kept = {n: row for n, row, bad in zip(table.ids, rows, torn, strict=True) if not bad}
        _check_lengths(table.where, kept, length, f"{what} tokens ({what} {length})")
    filler = np.zeros(prefix + suffix, dtype=np.int64)
    rows = [
        filler if bad else np.concatenate([before[len(before) - prefix :], after[:suffix]])
        for bad, before, after in zip(torn, prefixes, suffixes, strict=True)
    ]
    return _stack(table, rows), notes


def _encode(table: PassageTable, texts: Sequence[str], tokenizer: Any) -> list[Tokens]:
    if tokenizer is None:
        raise SamplesError(
            "text needs a tokenizer",
            where=table.where,
            got="a model without one",
            fix="give samples as token ids, or a model with its tokenizer",
        )
    return [tokenize(tokenizer, text) for text in texts]


def _check_lengths(where: str, rows: dict[str, Any], length: int, wanted: str) -> None:
    short = {name: len(row) for name, row in rows.items() if len(row) < length}
    for name, got in short.items():
        raise SamplesError(
            f"{len(short)} of {len(rows)} rows are too short, the first is {name!r}",
            where=where,
            expected=f"at least {length} {wanted}",
            got=got,
            fix="choose smaller lengths, or remove these rows",
        )


def _stack(table: PassageTable, rows: Sequence[IdRow]) -> Tokens:
    stacked = np.stack(rows)
    least, most = int(np.min(stacked)), int(np.max(stacked))
    if least < 0 or most > np.iinfo(np.int32).max:
        raise SamplesError("not a token id", where=table.where, got=least if least < 0 else most)
    return stacked.astype(np.int32)
