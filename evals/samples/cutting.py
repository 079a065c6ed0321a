"""Makes rows of token ids from columns: tokenizes text and cuts rows to length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.samples.record import RowNote, Tokens
from evals.samples.tables import IdRow, PassageTable
from surgery.errors import SamplesError
from surgery.reading.corpus import tokenize

SHORT = "it has fewer than"
TORN = "prefix and suffix tokenize differently where they meet"


def cut_rows(
    table: PassageTable, tokenizer: Any, prefix: int, suffix: int, *, skip_short: bool = False
) -> tuple[Tokens, list[RowNote]]:
    """`tokens` or `text` -> int32 [N, prefix + suffix]: the first tokens of each row.

    Rows that the notes leave out are zeros. Raises `SamplesError` for rows that are too short,
    unless `skip_short`: the notes then leave them out.
    """
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
    wanted = f"{length} tokens (prefix {prefix} + suffix {suffix})"
    out = [False] * table.number
    notes += _leave_out_short(table, rows, length, wanted, out, skip_short=skip_short)
    filler = np.zeros(length, dtype=np.int64)
    return _stack(
        table, [filler if bad else row[:length] for row, bad in zip(rows, out, strict=True)]
    ), notes


def cut_pairs(
    table: PassageTable, tokenizer: Any, prefix: int, suffix: int, *, skip_short: bool = False
) -> tuple[Tokens, list[RowNote]]:
    """`prefix` and `suffix` -> int32 [N, prefix + suffix]: the tokens on both sides of the seam.

    Otherwise as `cut_rows`.
    """
    prefixes, suffixes = table.columns["prefix"], table.columns["suffix"]
    out = [False] * table.number
    if type(prefixes[0]) is not type(suffixes[0]):
        raise SamplesError(
            "prefix and suffix must both be text or both be token ids", where=table.where
        )
    if isinstance(prefixes[0], str):
        whole = [before + after for before, after in zip(prefixes, suffixes, strict=True)]
        prefixes, whole = (_encode(table, texts, tokenizer) for texts in (prefixes, whole))
        parts = list(zip(prefixes, whole, strict=True))
        out = [not np.array_equal(row[: len(head)], head) for head, row in parts]
        suffixes = [row[len(head) :] for head, row in parts]
    notes = [
        RowNote(name, TORN, kept=False) for name, bad in zip(table.ids, out, strict=True) if bad
    ]
    for rows, length, what in ((prefixes, prefix, "prefix"), (suffixes, suffix, "suffix")):
        wanted = f"{length} {what} tokens"
        notes += _leave_out_short(table, rows, length, wanted, out, skip_short=skip_short)
    filler = np.zeros(prefix + suffix, dtype=np.int64)
    rows = [
        filler if bad else np.concatenate([before[len(before) - prefix :], after[:suffix]])
        for bad, before, after in zip(out, prefixes, suffixes, strict=True)
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


def _leave_out_short(
    table: PassageTable,
    rows: Sequence[Any],
    length: int,
    wanted: str,
    out: list[bool],
    *,
    skip_short: bool,
) -> list[RowNote]:
    """Marks rows of fewer than `length` tokens in `out`, the rows left out before among them.

    Returns a note for each. Raises `SamplesError` unless `skip_short`.
    """
    short = [at for at, row in enumerate(rows) if len(row) < length and not out[at]]
    if short and not skip_short:
        first = table.name_row(short[0])
        raise SamplesError(
            f"{len(short)} of {len(rows)} rows are too short, the first is {first}",
            where=table.where,
            expected=f"at least {wanted}",
            got=len(rows[short[0]]),
            fix="choose smaller lengths, or leave these rows out with `skip_short`",
        )
    for at in short:
        out[at] = True
    return [RowNote(table.ids[at], f"{SHORT} {wanted}", kept=False) for at in short]


def _stack(table: PassageTable, rows: Sequence[IdRow]) -> Tokens:
    stacked = np.stack(rows)
    least, most = int(np.min(stacked)), int(np.max(stacked))
    if least < 0 or most > np.iinfo(np.int32).max:
        got = least if least < 0 else most
        at = int((stacked == got).any(axis=1).argmax())
        raise SamplesError(f"not a token id in {table.name_row(at)}", where=table.where, got=got)
    return stacked.astype(np.int32)
