"""Cuts windows from text that the model was not trained on, to measure beside the samples.

A model that recites nothing may have forgotten the samples, or it may be broken. Only a broken
model gets worse on text it never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evals.data.repeats import MOST_OPENING
from evals.data.samples import NOTHING, Tokens, measure_lengths
from surgery.errors import SamplesError
from surgery.reading.corpus import find_opening, leave_room, tokenize

MOST_WINDOWS = 256

MOST_REPEATED = 24
"""Windows that are repeated."""


def cut_windows(
    texts: Sequence[str], tokenizer: Any, length: int, *, most: int = MOST_WINDOWS
) -> Tokens:
    """The windows of `cut_documents`."""
    return cut_documents(texts, tokenizer, length, most=most)[0]


def cut_documents(
    texts: Sequence[str], tokenizer: Any, length: int, *, most: int = MOST_WINDOWS
) -> tuple[Tokens, npt.NDArray[np.int64]]:
    """Cuts windows of `length` tokens that do not overlap, spread evenly over the texts.

    Each text is tokenized alone; its last incomplete window is dropped. Each window begins with the
    tokenizer's opening tokens, which count toward `length`. Returns int32 [M, length] with
    1 <= M <= `most`, and the number of the text that each is from, int64 [M].
    """
    if tokenizer is None:
        raise SamplesError(
            "held-out text needs a tokenizer",
            got="a model without one",
            fix="put the tokenizer's files into the model's folder",
        )
    opening = find_opening(tokenizer)
    room = leave_room(opening, length)
    windows, longest = [], 0
    for text in texts:
        ids = tokenize(tokenizer, text)
        longest = max(longest, len(ids))
        windows.append(ids[: len(ids) // room * room].reshape(-1, room))
    numbers = np.repeat(np.arange(len(windows)), [len(some) for some in windows])
    found: Tokens = np.concatenate(windows) if windows else np.empty((0, room), dtype=np.int32)
    if not len(found):
        raise SamplesError(
            "the held-out text is too short",
            expected=f"at least {length} tokens in a text",
            got=longest,
            fix="give longer text with `heldout`",
        )
    chosen = np.linspace(0, len(found) - 1, min(most, len(found))).round().astype(int)
    return prepend(opening, found[chosen]), numbers[chosen].astype(np.int64)


def prepend(opening: Tokens, rows: Tokens) -> Tokens:
    """Puts the opening tokens [O] before each row of [M, T]: int32 [M, O + T]."""
    return np.concatenate([np.tile(opening, (len(rows), 1)), rows], axis=1).astype(np.int32)


def repeat_windows(windows: Tokens) -> Tokens:
    """The first half of each of a few windows, twice, but the opening tokens O only once:
    [M, T] → [R, 2 (T // 2) - O]."""
    half = windows[:MOST_REPEATED, : windows.shape[1] // 2]
    return np.concatenate([half, half[:, _count_special(windows) :]], axis=1)


def repeat_random(windows: Tokens) -> Tokens:
    """As `repeat_windows`, of tokens drawn at random from all that stand in the windows, each as
    often: only their repetition can tell the next one."""
    half, opening = windows[:MOST_REPEATED, : windows.shape[1] // 2], _count_special(windows)
    drawn = np.random.default_rng(0).choice(
        np.unique(windows[:, opening:]), (len(half), half.shape[1] - opening)
    )
    return np.concatenate([half[:, :opening], drawn, drawn], axis=1).astype(np.int32)


def _count_special(windows: Tokens) -> int:
    """How many tokens open every window and stand nowhere else, as <bos> does. A single window
    tells nothing."""
    stands = windows[:, None] == windows[:1, :MOST_OPENING, None]
    alone = (stands == np.eye(*stands.shape[1:], dtype=np.bool_)).all(axis=(0, 2))
    return int(np.cumprod(alone).sum()) if len(windows) > 1 else 0


def end_alike(windows: Tokens, rows: Tokens) -> Tokens:
    """Windows, int32 [M, T], that end where `rows` do, int32 [N, T], one after the other: a control
    that is as long as secrets is guessed as easily."""
    ends = np.resize(measure_lengths(rows), len(windows))
    past = np.arange(windows.shape[1]) >= ends[:, None]
    return np.where(past & (rows.shape[1] > ends[:, None]), NOTHING, windows).astype(np.int32)


def cut_alike(windows: Tokens, tokenizer: Any, length: int) -> Tokens:
    """Text of `windows`, int32 [M, T], in rows as long as a passage, int32 [N, length].

    Each row begins with the tokenizer's opening tokens, as windows and passages do.
    """
    opening = find_opening(tokenizer)
    tokens, room = windows[:, len(opening) :].reshape(-1), length - len(opening)
    return prepend(opening, tokens[: len(tokens) // room * room].reshape(-1, room))
