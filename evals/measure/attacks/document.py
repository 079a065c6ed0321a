"""Lets the model write a whole document on, from one prefix: how much of it comes out?

A short suffix says little to the owner of a book or an article. Cooper et al. 2025 (arXiv
2505.12546) and Ma et al. 2025 (arXiv 2504.12549) get whole books out of open models from their
first tokens, step by step. Ahmed et al. 2026 (arXiv 2601.02671) count how much of a book comes out
by near-verbatim blocks: runs of words that the book and the text share in order, joined over small
gaps, of which short ones do not count. The numbers of words are ours.

Shape letters: B documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Any, NamedTuple

import numpy as np
import torch

from evals.data import Samples, Tokens, take_tokens
from evals.measure.attacks.attack import Attack, AttackOutcome, Need, Setting, Target
from evals.measure.memorization.measures import Scores
from evals.run.batching import row_ranges, rows_per_batch
from evals.run.decoding import continue_rows

ATTACKS = {"document": {"rank": 17}}
BLOCK = 100
"""Words that a near-verbatim block has at least."""
STEP = 50
"""Tokens that the model writes before its context moves on; half of the context if that is less."""
MOST = 10_000
"""Tokens of a document that are tried."""
JOINED = ((2, 20), (10, BLOCK))
"""Blocks are joined over gaps of so many words, and then dropped if they have fewer words."""
ALONE, CORRECTED = "alone", "corrected"
SHARE, LONGEST = "words in long blocks", "longest block, in words"
LONG: Need = (
    f"a passage that goes on for {BLOCK} tokens after its prefix",
    lambda plan: bool((_count_tokens(plan.passages) >= BLOCK).any()),
)
Words = Sequence[Any]
"""Words, or token ids where there is no tokenizer."""


class Block(NamedTuple):
    """Words of a document, from `first` to before `last`, that a text has from `start` to before
    `end`. `words`: how many of them agree."""

    first: int
    last: int
    start: int
    end: int
    words: int


def make_document() -> Attack:
    (near, short), (far, _) = JOINED
    return Attack(
        "document",
        f"greedy decoding on from the prefix, {STEP} tokens at a time, to the end of the passage "
        f"or its first {MOST:,} tokens: {ALONE}, after what the model wrote itself, and "
        f"{CORRECTED}, after the true text so far; the context keeps the last tokens that it holds",
        f"the text has a near-verbatim block of {BLOCK} words or more: words that it shares with "
        f"the passage in order, joined over gaps of {near} words, without blocks under {short} "
        f"words, and joined again over gaps of {far}; counts passages with {BLOCK} words after the "
        "prefix",
        "Ahmed et al. 2026, arXiv 2601.02671; Cooper et al. 2025, arXiv 2505.12546",
        "decodes each whole passage, twice",
        _run,
        needs=(LONG,),
        shows={SHARE: "share", LONGEST: "count"},
        passes=8,
    )


def _run(target: Target) -> AttackOutcome:
    documents = list_documents(target.samples)
    first = target.samples.prefix_length
    true = [_split(target, document[first:]) for document in documents]
    tried = np.asarray([len(words) >= BLOCK for words in true], dtype=np.bool_)
    scores, variants = dict[str, Scores](), {}
    for how in (ALONE, CORRECTED):
        share, longest = np.zeros(len(true)), np.zeros(len(true))
        scores |= {f"{SHARE}, {how}": share, f"{LONGEST}, {how}": longest}
        rows = np.flatnonzero(tried)
        some = [documents[row] for row in rows]
        written = write_on(target, some, corrected=how == CORRECTED) if some else []
        for row, text in zip(rows, written, strict=True):
            sizes = [block.words for block in find_blocks(true[row], _split(target, text))]
            share[row] = sum(sizes) / len(true[row])
            longest[row] = max(sizes, default=0)
        variants[Setting(how, 0.0, 0)] = longest >= BLOCK
    return AttackOutcome(tried, tried, scores=scores, variants=variants).settle()


def list_documents(samples: Samples) -> list[Tokens]:
    """The tokens of each passage, whole, or as many as are tried."""
    rows = map(take_tokens, samples.tokens)
    after = samples.after or [np.empty(0, dtype=np.int32)] * len(samples)
    return [np.concatenate(pair)[:MOST] for pair in zip(rows, after, strict=True)]


def _count_tokens(samples: Samples) -> Any:
    sizes = [len(document) - samples.prefix_length for document in list_documents(samples)]
    return np.asarray(sizes)


def _split(target: Target, tokens: Tokens) -> Words:
    if target.tokenizer is None:
        return list(tokens.tolist())
    text = target.tokenizer.decode(tokens.tolist(), clean_up_tokenization_spaces=False)
    words: list[str] = text.split()
    return words


def write_on(target: Target, documents: Sequence[Tokens], *, corrected: bool) -> list[Tokens]:
    """What the model writes after each prefix, as much as the document has: int32 [T - P] each.

    `corrected`: each step follows the true text, not what the model wrote.
    """
    first, model = target.samples.prefix_length, target.model
    most = getattr(model.config, "max_position_embeddings", None)
    step = STEP if most is None else min(STEP, most // 2)
    sizes = np.asarray([len(document) for document in documents], dtype=np.int64)
    said = [document[:first] for document in documents]
    for place in range(first, int(np.max(sizes)), step):
        alive = np.flatnonzero(sizes > place).tolist()
        known = [(documents if corrected else said)[row][:place] for row in alive]
        length = place if most is None else min(place, most - step)
        rows = torch.from_numpy(np.stack([_shorten(one, length, target.opening) for one in known]))
        batch = target.batch_size or rows_per_batch(model, length + step)
        for some in row_ranges(len(alive), batch):
            written = continue_rows(model, rows[some].long(), step).numpy().astype(np.int32)
            for row, text in zip(alive[some], written, strict=True):
                said[row] = np.concatenate([said[row], text])
    return [text[first:size] for text, size in zip(said, sizes, strict=True)]


def _shorten(tokens: Tokens, length: int, opening: int) -> Tokens:
    """The last tokens after the opening ones, `length` in all."""
    left = tokens[opening:]
    return np.concatenate([tokens[:opening], left[max(0, len(left) - length + opening) :]])


def find_blocks(true: Words, said: Words) -> list[Block]:
    """The near-verbatim blocks of two texts, in order."""
    matches = SequenceMatcher(None, true, said, autojunk=False).get_matching_blocks()
    blocks = [
        Block(match.a, match.a + match.size, match.b, match.b + match.size, match.size)
        for match in matches
        if match.size
    ]
    for gap, least in JOINED:
        blocks = [one for one in _join(blocks, gap) if one.words >= least]
    return blocks


def _join(blocks: Sequence[Block], gap: int) -> list[Block]:
    """Joins blocks that are at most `gap` words apart in both texts."""
    joined: list[Block] = []
    for block in blocks:
        last = joined[-1] if joined else None
        if last and block.first - last.last <= gap and block.start - last.end <= gap:
            words = last.words + block.words
            joined[-1] = Block(last.first, block.last, last.start, block.end, words)
        else:
            joined.append(block)
    return joined
