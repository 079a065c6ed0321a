"""Rows of token ids from columns: text is tokenized, whole rows and pairs are cut to length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from evals.samples.record import RowNote, Tokens
from evals.samples.tables import IdRow, Table
from surgery.errors import SamplesError
from surgery.fitting.corpus import token_ids


def whole_rows(
    table: Table, ids: list[str], tokenizer: Any, prefix: int, suffix: int
) -> tuple[Tokens, list[RowNote]]:
    """`tokens` or `text` -> int32 [N, prefix + suffix]: the first tokens of each row."""
    length = prefix + suffix
    rows: Sequence[Any] = table.columns.get("tokens", table.columns.get("text", ()))
    notes = []
    if isinstance(rows[0], str):
        encode, decode = _codec(table, tokenizer)
        rows = [encode(text) for text in rows]
        for name, row in zip(ids, rows, strict=True):
            cut = row[:length]
            if len(row) > length and not np.array_equal(encode(decode(cut)), cut):
                reason = f"cut after {length} tokens, its text tokenizes otherwise on its own"
                notes.append(RowNote(name, reason, kept=True))
    _check_lengths(table, ids, rows, length, "tokens", f"prefix {prefix} + suffix {suffix}")
    return _stack(table, [row[:length] for row in rows]), notes


def pairs(
    table: Table, ids: list[str], tokenizer: Any, prefix: int, suffix: int
) -> tuple[Tokens, list[RowNote]]:
    """`prefix` and `suffix` -> int32 [N, prefix + suffix]: the tokens on either side of the seam.

    Rows noted as not kept are zeros.
    """
    prefixes, suffixes = table.columns["prefix"], table.columns["suffix"]
    notes = []
    if type(prefixes[0]) is not type(suffixes[0]):
        raise SamplesError("prefix and suffix must both be text, or token ids", where=table.where)
    if isinstance(prefixes[0], str):
        encode, _ = _codec(table, tokenizer)
        texts = list(zip(prefixes, suffixes, strict=True))
        prefixes = [encode(before) for before in prefixes]
        suffixes = []
        for name, (before, after), head in zip(ids, texts, prefixes, strict=True):
            whole = encode(before + after)
            suffixes.append(whole[len(head) :])
            if not np.array_equal(whole[: len(head)], head):
                reason = "prefix and suffix together tokenize otherwise at their seam"
                notes.append(RowNote(name, reason, kept=False))
    dropped = {note.id for note in notes}
    checked = [index for index, name in enumerate(ids) if name not in dropped]
    for rows, length, what in ((prefixes, prefix, "prefix"), (suffixes, suffix, "suffix")):
        names, kept = [ids[i] for i in checked], [rows[i] for i in checked]
        _check_lengths(table, names, kept, length, f"{what} tokens", f"{what} {length}")
    filler = np.zeros(prefix + suffix, dtype=np.int64)
    rows = [
        filler
        if name in dropped
        else np.concatenate([before[len(before) - prefix :], after[:suffix]])
        for name, before, after in zip(ids, prefixes, suffixes, strict=True)
    ]
    return _stack(table, rows), notes


def _codec(table: Table, tokenizer: Any) -> tuple[Any, Any]:
    if tokenizer is None:
        raise SamplesError(
            "text needs a tokenizer",
            where=table.where,
            got="a model without one",
            fix="give samples as token ids, or a model with its tokenizer",
        )

    def encode(text: str) -> Tokens:
        return token_ids(tokenizer, text)

    def decode(ids: IdRow) -> str:
        return str(tokenizer.decode(ids.tolist(), clean_up_tokenization_spaces=False))

    return encode, decode


def _check_lengths(
    table: Table, ids: list[str], rows: Sequence[Any], length: int, what: str, wanted: str
) -> None:
    for name, row in zip(ids, rows, strict=True):
        if len(row) < length:
            short = sum(len(other) < length for other in rows)
            raise SamplesError(
                f"{short} of {len(rows)} rows are too short, the first is {name!r}",
                where=table.where,
                expected=f"at least {length} {what} ({wanted})",
                got=len(row),
                fix="choose smaller lengths, or remove these rows",
            )


def _stack(table: Table, rows: Sequence[IdRow]) -> Tokens:
    stacked = np.stack(rows)
    least, most = int(np.min(stacked)), int(np.max(stacked))
    if least < 0 or most > np.iinfo(np.int32).max:
        raise SamplesError("not a token id", where=table.where, got=least if least < 0 else most)
    return stacked.astype(np.int32)
