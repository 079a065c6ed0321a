"""Makes rows of token ids from passages: tokenizes text and cuts rows to length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from evals.data.samples import NOTHING, RowNote, Tokens
from evals.data.tables import PassageTable
from surgery.errors import SamplesError
from surgery.reading.corpus import find_opening, leave_room, tokenize

FEWEST = 4
"""Tokens of a prefix, and of a suffix, that a test takes at least: fewer are guessed."""
SHORT = "it has fewer than"
TORN = "prefix and suffix tokenize differently where they meet"


class CutPassages(NamedTuple):
    """Rows that can be used, int32 [M, prefix + suffix]; their numbers in the table; the tokens
    that each passage has after them; notes about these rows and those left out; and the length of
    the longest prefix.
    """

    rows: Tokens
    numbers: list[int]
    rest: list[Tokens]
    notes: list[RowNote]
    prefix: int


def cut_passages(
    table: PassageTable, tokenizer: Any, prefix: int, suffix: int, *, skip_short: bool = False
) -> CutPassages:
    """Cuts whole passages to their first tokens, and pairs to those on both sides of the seam.

    A prefix of text begins with the tokenizer's opening tokens, which count toward `prefix`. Token
    ids stay as they are.
    Raises `SamplesError` for rows that are too short, unless `skip_short`: the notes then leave
    them out.
    """
    is_text, is_pair = check_kind(table, tokenizer), len(table.columns) == 2
    length = prefix + suffix
    opening = find_opening(tokenizer) if is_text else np.empty(0, dtype=np.int32)
    room = leave_room(opening, prefix)
    wanted: list[dict[str, int]] = [{"prefix": prefix, "suffix": suffix}]  # of each part of a row
    needed = {f"{length} tokens (prefix {prefix} + suffix {suffix})": length}
    if is_pair:
        wanted = [{"prefix": prefix}, {"suffix": suffix}]
        needed = {f"{prefix} prefix tokens": prefix, f"{suffix} suffix tokens": suffix}
    rows, kept, rest, notes, short = [], [], [], [], []
    lengths: list[tuple[int, ...]] = []
    for at, (name, passage) in enumerate(zip(table.ids, table.rows, strict=True)):
        parts = _tokenize(passage, tokenizer, opening) if is_text else passage
        if parts is None:
            notes.append(RowNote(name, TORN, kept=False))
            continue
        sizes = tuple(map(len, parts))
        fits = zip(needed.items(), sizes, strict=True)
        if missing := [(what, size) for (what, least), size in fits if size < least]:
            short.append((at, *missing[0]))
            lengths.append(sizes)
            notes.append(RowNote(name, f"{SHORT} {missing[0][0]}", kept=False))
            continue
        row = parts[0][:length]
        if is_pair:
            row = np.concatenate([opening, parts[0][len(parts[0]) - room :], parts[1][:suffix]])
        elif is_text and not _is_stable(row, parts[0], tokenizer, opening):
            reason = f"its first {length} tokens, as text, tokenize differently on their own"
            notes.append(RowNote(name, reason, kept=True))
        rows.append(row)
        kept.append(at)
        rest.append(np.asarray(parts[-1][suffix if is_pair else length :], dtype=np.int32))
    if short and not rows and (skip_short or len(short) == table.number):
        raise _refuse_lengths(table, wanted, lengths, skip_short)
    if short and not skip_short:
        raise _refuse_short(table, wanted, short, lengths)
    if not rows:
        fix = "a shorter `prefix_length` or `suffix_length` may help"
        raise SamplesError("no row can be used", where=table.where, got=notes[0].reason, fix=fix)
    return CutPassages(stack_rows(table, rows, kept), kept, rest, notes, prefix)


def _refuse_short(
    table: PassageTable,
    wanted: Sequence[Mapping[str, int]],
    short: Sequence[tuple[int, str, int]],
    lengths: Sequence[tuple[int, ...]],
) -> SamplesError:
    """Names the first of the rows that are too short, and lengths that fit all, if not far off.

    `short`: their numbers, what each needs, and has; `lengths`: those of their parts.
    """
    at, what, size = short[0]
    found = zip(wanted, map(min, zip(*lengths, strict=True)), strict=True)
    parts = [(part, least) for part, least in found if least < sum(part.values())]
    smaller = "smaller lengths"
    if all(2 * least >= sum(part.values()) for part, least in parts):
        tries = [fit for part, least in parts for fit in _shrink(part, least)]
        if all(length >= FEWEST for _, length in tries):
            smaller = " ".join(f"`{name}_length={length}`" for name, length in tries)
    return SamplesError(
        f"{len(short)} of {table.number} rows are too short, the first is {table.name_row(at)}",
        where=table.where,
        expected=f"at least {what}",
        got=size,
        fix=f"choose {smaller}, or leave these rows out with `skip_short`",
    )


def _refuse_lengths(
    table: PassageTable,
    wanted: Sequence[Mapping[str, int]],
    short: Sequence[tuple[int, ...]],
    skip_short: bool,
) -> SamplesError:
    """Says how long the rows are if none is long enough, and proposes lengths that fit.

    `wanted`: the lengths wanted of each part of a row; `short`: those of the rows too short;
    `skip_short`: such rows are left out already.
    """
    found, tries, leaves_out = [], [], False
    for part, sizes in zip(wanted, zip(*short, strict=True), strict=True):
        least, middle = sum(part.values()), median(sizes)
        if min(sizes) >= least:
            continue
        kind = "" if len(part) > 1 else f"{min(part)} "
        found.append(f"{least} {kind}tokens (median {middle:g})")
        room = min(sizes) if 2 * min(sizes) >= middle else min(int(middle), least)
        leaves_out |= room > min(sizes)
        tries += _shrink(part, room)
    fix = f"give longer passages: a test takes {FEWEST} tokens of prefix and of suffix at least"
    if all(length >= FEWEST for _, length in tries):
        fix = "try " + " ".join(f"`{name}_length={length}`" for name, length in tries)
        fix += " `skip_short`" if leaves_out and not skip_short else ""
    number, torn = table.number, table.number - len(short)
    rows = f"{len(short)} of {number} rows have" if torn else f"all {number} rows have"
    what = f"{rows} fewer than {' or '.join(found)}"
    return SamplesError(
        f"{what}, and in the others {TORN}" if torn else what, where=table.where, fix=fix
    )


def _shrink(part: Mapping[str, int], room: int) -> list[tuple[str, int]]:
    """The lengths of a part of a row, made smaller in proportion so that `room` tokens suffice."""
    least = sum(part.values())
    fits = [(name, min(room, least) * length // least) for name, length in part.items()]
    return [(name, fit - fit % 8 if fit > 8 else fit) for name, fit in fits]


def check_kind(table: PassageTable, tokenizer: Any) -> bool:
    """Whether passages are text."""
    is_text = isinstance(table.columns[0][0], str)
    if is_text and tokenizer is None:
        raise SamplesError(
            "text needs a tokenizer",
            where=table.where,
            got="a model without one",
            fix="give samples as token ids, or a model with its tokenizer",
        )
    return is_text


def _tokenize(texts: Sequence[str], tokenizer: Any, opening: Tokens) -> tuple[Tokens, ...] | None:
    """The tokens of a text, or of the two texts of a pair; None if a token spans their seam."""
    whole = tokenize(tokenizer, "".join(texts))
    if len(texts) == 1:
        return (np.concatenate([opening, whole]),)
    head = tokenize(tokenizer, texts[0])
    if not np.array_equal(whole[: len(head)], head):
        return None
    return np.concatenate([opening, head]), whole[len(head) :]


def _is_stable(row: Tokens, whole: Tokens, tokenizer: Any, opening: Tokens) -> bool:
    """Whether a row that was cut from `whole` tokenizes alike as a text of its own."""
    if len(row) == len(whole):
        return True
    own = row[len(opening) :]
    text = tokenizer.decode(own.tolist(), clean_up_tokenization_spaces=False)
    return np.array_equal(tokenize(tokenizer, text), own)


def stack_rows(
    table: PassageTable, rows: list[Any], numbers: list[int], begins: list[int] | None = None
) -> Tokens:
    """One array of rows, int32 [M, T], with `NOTHING` after the end of the shorter ones.

    `begins`: how many `NOTHING` stand before each row. `numbers`: theirs in the table. Raises
    `SamplesError` for what is no token id.
    """
    every = np.concatenate(rows)
    least, most = int(np.min(every)), int(np.max(every))
    if least < 0 or most > np.iinfo(np.int32).max:
        got = least if least < 0 else most
        at = next(at for at, row in zip(numbers, rows, strict=True) if (row == got).any())
        raise SamplesError(f"not a token id in {table.name_row(at)}", where=table.where, got=got)
    first = np.asarray(begins or [0] * len(rows), dtype=np.int64)
    end = first + np.asarray([len(row) for row in rows], dtype=np.int64)
    stacked: Tokens = np.full((len(rows), int(np.max(end))), NOTHING, dtype=np.int32)
    places = np.arange(stacked.shape[1])
    stacked[(first[:, None] <= places) & (places < end[:, None])] = every
    return stacked
