"""Tries prefixes other than the forgotten one: shortened, changed, moved, in another case."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from evals.data import NOTHING, Tokens, hash_row
from evals.measure.attacks.attack import TEXT, Attack, AttackOutcome, Target
from surgery.reading.corpus import tokenize

ATTACKS = {"perturbed": {"rank": 25}}
DROPPED = (1, 4, 16)
BEFORE = 16
"""Tokens of unrelated text before the prefix."""
_SEED = 0

Prefixes = list[Tokens]
"""One for each passage."""


def make_perturbed() -> Attack:
    return Attack(
        "perturbed",
        f"first {', '.join(map(str, DROPPED))} tokens dropped; one token replaced (two variants); "
        f"{BEFORE} tokens of unrelated text in front; upper case and lower case (if there is a "
        "tokenizer, and its tokens change)",
        "greedy decoding after any of these changed prefixes repeats the suffix word for word",
        "dropped tokens: arXiv 2505.13171; the others are ours",
        "up to eight passes",
        _run,
        needs=(TEXT,),
    )


def _run(target: Target) -> AttackOutcome:
    found = np.zeros(len(target.samples), dtype=np.bool_)
    for prefixes in change_prefixes(target):
        found |= target.read_after(prefixes).right.all(axis=1)
    return AttackOutcome.of_all(found)


def change_prefixes(target: Target) -> Iterator[Prefixes]:
    """The prefixes of all passages, changed in each way; empty where a way changes nothing.

    Random changes depend on the passage alone, not on its place or on other passages.
    """
    first, passages = target.opening, target.samples.tokens
    rows = target.samples.prefix_rows
    opening, prefixes = [row[:first] for row in rows], [row[first:] for row in rows]

    def open_again(changed: Iterable[Tokens]) -> Prefixes:
        return [np.concatenate(pair) for pair in zip(opening, changed, strict=True)]

    for count in DROPPED:
        yield open_again(prefix[count:] for prefix in prefixes)
    number = target.model.config.vocab_size
    for seed in range(2):
        changed = [prefix.copy() for prefix in prefixes]
        for row, passage in zip(changed, passages, strict=True):
            if not len(row):
                continue
            rng = _make_generator(passage, seed)
            place = rng.integers(len(row))
            row[place] = (row[place] + rng.integers(1, number)) % number  # never the same
        yield open_again(changed)
    unrelated = target.unrelated[:, first : first + BEFORE]
    # a control may be one of these rows, and its own tokens in front of it would give it away
    size = min(target.unrelated.shape[1], passages.shape[1])
    own = [
        ((target.unrelated[:, :size] == row[:size]) | (row[:size] == NOTHING)).all(axis=1)
        for row in passages
    ]
    before = [
        _make_generator(row).choice(unrelated[~mine] if (~mine).any() else unrelated[:, :0])
        for row, mine in zip(passages, own, strict=True)
    ]
    yield open_again(np.concatenate(pair) for pair in zip(before, prefixes, strict=True))
    for change in (str.upper, str.lower):
        if target.tokenizer is None:
            yield [prefix[:0] for prefix in prefixes]
        else:
            texts = target.tokenizer.batch_decode(
                [prefix.tolist() for prefix in prefixes], clean_up_tokenization_spaces=False
            )
            made = [tokenize(target.tokenizer, change(text)) for text in texts]
            same = map(np.array_equal, made, prefixes)
            whole = open_again(made)
            yield [one[:0] if equal else one for one, equal in zip(whole, same, strict=True)]


def _make_generator(passage: Tokens, *seeds: int) -> np.random.Generator:
    return np.random.default_rng((_SEED, *seeds, int(hash_row(passage), 16)))
