"""Other prefixes than the one that was forgotten: shortened, changed, moved, in another case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evals.attacks.attack import Attack, AttackOutcome, Target
from evals.memorization.measures import Flags
from evals.samples import Tokens, hash_row
from surgery.reading.corpus import token_ids

DROPPED = (1, 4, 16)
BEFORE = 16
"""Tokens of unrelated text in front."""
_SEED = 0

Prefixes = list[Tokens]
"""One for each passage, of any length from 1 on."""


def make_perturbed() -> Attack:
    return Attack(
        "perturbed",
        f"{', '.join(map(str, DROPPED))} tokens dropped at the front; one token replaced, twice; "
        f"{BEFORE} tokens of unrelated text in front; upper case; lower case (the last two where "
        "there is a tokenizer)",
        "greedy decoding after one of eight changed prefixes repeats the suffix word for word",
        "offsets: arXiv 2505.13171; the others are ours",
        "eight passes",
        _run,
    )


def _run(target: Target) -> AttackOutcome:
    found = np.zeros(len(target.samples), dtype=np.bool_)
    for make in _KINDS:
        found |= _recovered(target, make(target))
    return AttackOutcome.of_all(found)


def _recovered(target: Target, prefixes: Prefixes) -> Flags:
    """Which passages follow exactly on these prefixes; rows of one length are read together."""
    suffixes = target.samples.suffixes
    most = getattr(target.model.config, "max_position_embeddings", None)
    lengths = np.asarray([len(prefix) for prefix in prefixes])
    found = np.zeros(len(prefixes), dtype=np.bool_)
    for length in np.unique(lengths):
        if not 0 < length <= (most or length + suffixes.shape[1]) - suffixes.shape[1]:
            continue
        rows = np.flatnonzero(lengths == length)
        tokens = np.stack([np.concatenate([prefixes[row], suffixes[row]]) for row in rows])
        greedy = target.read(tokens.astype(np.int32), int(length)).predictions.greedy
        found[rows] = (greedy == suffixes[rows]).all(axis=1)
    return found


def _without(count: int) -> Callable[[Target], Prefixes]:
    return lambda target: [prefix[count:] for prefix in target.samples.prefixes]


def _replaced(seed: int) -> Callable[[Target], Prefixes]:
    def make(target: Target) -> Prefixes:
        number = target.model.config.vocab_size
        changed = []
        for row, prefix in zip(target.samples.tokens, target.samples.prefixes, strict=True):
            rng = _draws(row, seed)
            other, place = prefix.copy(), rng.integers(len(prefix))
            other[place] = (prefix[place] + rng.integers(1, number)) % number  # never the same
            changed.append(other)
        return changed

    return make


def _after_unrelated(target: Target) -> Prefixes:
    texts = target.unrelated[:, :BEFORE]
    return [
        np.concatenate([_draws(row).choice(texts), prefix])
        for row, prefix in zip(target.samples.tokens, target.samples.prefixes, strict=True)
    ]


def _draws(passage: Tokens, *seeds: int) -> np.random.Generator:
    """Random numbers that follow from the passage alone: not from its place, nor from others."""
    return np.random.default_rng((_SEED, *seeds, int(hash_row(passage), 16)))


def _in_case(change: Callable[[str], str]) -> Callable[[Target], Prefixes]:
    def make(target: Target) -> Prefixes:
        if target.tokenizer is None:
            return list(target.samples.prefixes)
        texts = target.tokenizer.batch_decode(target.samples.prefixes.tolist())
        return [token_ids(target.tokenizer, change(text)) for text in texts]

    return make


_KINDS = (
    *map(_without, DROPPED),
    _replaced(0),
    _replaced(1),
    _after_unrelated,
    _in_case(str.upper),
    _in_case(str.lower),
)
