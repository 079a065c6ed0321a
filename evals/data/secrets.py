"""Makes rows of what must not come out of passages: each suffix is a secret, as a user marked it.

A secret is a part of its passage, by a column `secret` or by a regular expression. The suffix
begins with the token in which it begins, and ends with the token in which it ends. The prefix is
all tokens before it, as whoever asks for it may have the whole passage up to there.
"""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np

from evals.data.cutting import CutPassages, check_kind, stack_rows
from evals.data.samples import RowNote, Tokens
from evals.data.tables import PassageTable
from surgery.errors import SamplesError
from surgery.reading.corpus import find_opening, leave_room

MISSING = "it has no secret"
BARE = "nothing stands before its secret"
LONG = "its secret has more than"
SEVERAL = "`secret` matches more than once in it, and only the first match is tested"
SECONDS = 1
"""The most that a regular expression may take on a passage."""
SHOWN = "text that occurs in the passage, or [start, end]: its first character and the one after it"
SHOWN_IDS = "[start, end]: its first token and the one after it"


class Marked(NamedTuple):
    """A passage in tokens, [T], whose secret is tokens `first` to `last` - 1.

    `begin`, `end`: its characters, in a text. `several`: a regular expression matches again.
    """

    tokens: Tokens
    first: int
    last: int
    begin: int
    end: int
    several: bool


def compile_secret(secret: str | None) -> re.Pattern[str] | None:
    """Raises `SamplesError` for what is no regular expression."""
    try:
        return None if secret is None else re.compile(secret)
    except re.error as error:
        what = "is no regular expression"
        raise SamplesError(what, where="`secret`", got=str(error)) from None


def find_secrets(
    table: PassageTable, tokenizer: Any, pattern: re.Pattern[str] | None
) -> Iterator[Marked | None]:
    """Finds the secret of each passage; None in one without. `pattern`: goes before the column.

    The parts of a pair are read as one passage. Raises `SamplesError` for a wrong mark, and for a
    tokenizer that does not say where in a text its tokens stand.
    """
    is_text = check_kind(table, tokenizer)
    if is_text and not tokenizer.is_fast:
        raise SamplesError(
            "secrets need a tokenizer that says where in a text its tokens stand",
            where=table.where,
            got=type(tokenizer).__name__,
            fix="give rows with columns prefix and suffix",
        )
    if pattern is not None and not is_text:
        fix = "mark them with a column secret: " + SHOWN_IDS
        what = "`secret` is looked for in text"
        raise SamplesError(what, where=table.where, got="token ids", fix=fix)
    for at, parts in enumerate(table.rows):
        passage: Any = "".join(parts) if is_text else np.concatenate(parts)
        several = False
        if pattern is not None:
            group = min(1, pattern.groups)
            with _limit_time(table, at):
                spans = [found.span(group) for found in pattern.finditer(passage)]
            spans = [span for span in spans if span[0] < span[1]]
            span, several = next(iter(spans), None), len(set(spans)) > 1
        else:
            span = _read_mark(table, at, passage)
        if span is None:
            yield None
        elif is_text:
            yield Marked(*_find_tokens(tokenizer, passage, span), *span, several)
        else:
            yield Marked(passage, *span, *span, several)


@contextmanager
def _limit_time(table: PassageTable, at: int) -> Iterator[None]:
    """Ends a search for a secret that takes too long, as some expressions do on some text. Only the
    main thread can. Raises `SamplesError`."""

    def stop(*_: Any) -> None:
        raise SamplesError(
            f"takes longer than {SECONDS} second on {table.name_row(at)}",
            where="`secret`",
            fix="write the expression without repetitions inside repetitions, such as (a+)+",
        )

    here = threading.current_thread() is threading.main_thread()
    if not (here and hasattr(signal, "setitimer")):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _read_mark(table: PassageTable, at: int, passage: Any) -> tuple[int, int] | None:
    """The characters or tokens that the column `secret` marks. Raises `SamplesError`."""
    mark = None if table.secrets is None else table.secrets[at]
    is_text = isinstance(passage, str)
    if isinstance(mark, str) and (pair := re.fullmatch(r"\[(\d+), ?(\d+)\]", mark)):
        mark = [int(number) for number in pair.groups()]
    if mark is None or (isinstance(mark, str) and not mark):
        return None
    if is_text and isinstance(mark, str):
        begin = passage.find(mark)
        end = begin + len(mark)
    elif isinstance(mark, list | np.ndarray) and len(mark) == 2:
        begin, end = map(int, mark)
    else:
        begin = end = -1
    if not 0 <= begin < end <= len(passage):
        raise SamplesError(
            f"column secret does not mark a part of {table.name_row(at)}",
            where=table.where,
            expected=SHOWN if is_text else SHOWN_IDS,
        )
    return begin, end


def _find_tokens(tokenizer: Any, text: str, span: tuple[int, int]) -> tuple[Tokens, int, int]:
    """The tokens of a text, and which of them hold some of its characters in `span`."""
    begin, end = span
    made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    places = np.asarray(made["offset_mapping"], dtype=np.int64).reshape(-1, 2)
    within = np.flatnonzero((places[:, 1] > begin) & (places[:, 0] < end))
    tokens = np.asarray(made["input_ids"], dtype=np.int32)
    if not len(within):  # a tokenizer may drop characters, such as white space
        return tokens, 0, 0
    return tokens, int(within[0]), int(within[-1]) + 1


def cut_secrets(
    table: PassageTable,
    tokenizer: Any,
    prefix: int | None,
    longest: int | None,
    pattern: re.Pattern[str] | None,
    *,
    skip_short: bool = False,
) -> CutPassages:
    """Cuts passages to their secrets and all that stands before these.

    A prefix of text begins with the tokenizer's opening tokens, which count. `prefix`: tokens
    before a secret, at most; None: as many as the model's context holds. `longest`: tokens of a
    secret, at most. `pattern`: as for `find_secrets`, which also says what is raised.
    Raises `SamplesError` for rows without a secret, with nothing before it, or a longer one,
    unless `skip_short`: the notes then leave them out.
    """
    is_text = check_kind(table, tokenizer)
    opening = find_opening(tokenizer) if is_text else np.empty(0, dtype=np.int32)
    usable, kept, notes = list[Marked](), [], []
    bad: list[tuple[int, str]] = []
    for at, found in enumerate(find_secrets(table, tokenizer, pattern)):
        if found is None or found.first == found.last:
            bad.append((at, MISSING))
        elif not (found.first or len(opening)):
            bad.append((at, BARE))
        elif longest is not None and found.last - found.first > longest:
            bad.append((at, f"{LONG} {longest} tokens"))
        else:
            usable.append(found)
            kept.append(at)
            if found.several:
                notes.append(RowNote(table.ids[at], SEVERAL, kept=True))
    if bad and not (usable and skip_short):
        raise _refuse(table, bad, skip_short)
    notes += [RowNote(table.ids[at], reason, kept=False) for at, reason in bad]
    nothing = [np.empty(0, dtype=np.int32)] * len(kept)
    if prefix is None:
        context = getattr(tokenizer, "model_max_length", None) or sys.maxsize
        prefix = max(1, context - max(one.last - one.first for one in usable))
    room = leave_room(opening, prefix)
    begins = [max(0, one.first - room) for one in usable]
    sizes = [len(opening) + one.first - first for one, first in zip(usable, begins, strict=True)]
    rows = [
        np.concatenate([opening, one.tokens[first : one.last]])
        for one, first in zip(usable, begins, strict=True)
    ]
    stacked = stack_rows(table, rows, kept, [max(sizes) - size for size in sizes])
    return CutPassages(stacked, kept, nothing, notes, max(sizes))


def _refuse(table: PassageTable, bad: list[tuple[int, str]], skip_short: bool) -> SamplesError:
    """Names the first row that cannot be tested, why, and what to do."""
    (at, reason), number = bad[0], len(bad)
    fixes = {
        MISSING: "mark it with a column secret, or with `secret`",
        BARE: "give what stands before it in its passage",
        LONG: "choose a larger `suffix_length`",
    }
    fix = next(fix for begin, fix in fixes.items() if reason.startswith(begin))
    if number < table.number and not skip_short:
        fix += ", or leave these rows out with `skip_short`"
    return SamplesError(
        f"{number:,} of {table.number:,} rows cannot be tested for a secret, the first is "
        f"{table.name_row(at)}: {reason}",
        where=table.where,
        fix=fix,
    )
