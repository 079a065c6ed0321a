"""Tries prefixes other than the forgotten one: shortened, changed, moved, in another case."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from evals.attacks.attack import Attack, AttackOutcome, Target
from evals.memorization.measures import Flags
from evals.samples import Tokens, hash_row
from surgery.reading.corpus import tokenize

DROPPED = (1, 4, 16)
BEFORE = 16
"""Tokens of unrelated text before the prefix."""
_SEED = 0

Prefixes = list[Tokens]
"""One for each passage, with at least 1 token."""


def make_perturbed() -> Attack:
    return Attack(
        "perturbed",
        f"first {', '.join(map(str, DROPPED))} tokens dropped; one token replaced (two variants); "
        f"{BEFORE} tokens of unrelated text in front; upper case and lower case (if there is a "
        "tokenizer)",
        "greedy decoding after one of eight changed prefixes repeats the suffix word for word",
        "dropped tokens: arXiv 2505.13171; the others are ours",
        "eight passes",
        _run,
    )


def _run(target: Target) -> AttackOutcome:
    found = np.zeros(len(target.samples), dtype=np.bool_)
    for make in _KINDS:
        found |= _find_recovered(target, make(target))
    return AttackOutcome.of_all(found)


def _find_recovered(target: Target, prefixes: Prefixes) -> Flags:
    """Whether each suffix follows its prefix exactly. Prefixes of one length share a pass."""
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


def _drop_tokens(count: int) -> Callable[[Target], Prefixes]:
    return lambda target: [prefix[count:] for prefix in target.samples.prefixes]


def _replace_token(seed: int) -> Callable[[Target], Prefixes]:
    def make(target: Target) -> Prefixes:
        number = target.model.config.vocab_size
        changed = []
        for row, prefix in zip(target.samples.tokens, target.samples.prefixes, strict=True):
            rng = _make_generator(row, seed)
            other, place = prefix.copy(), rng.integers(len(prefix))
            other[place] = (prefix[place] + rng.integers(1, number)) % number  # never the same
            changed.append(other)
        return changed

    return make


def _put_text_before(target: Target) -> Prefixes:
    texts = target.unrelated[:, :BEFORE]
    return [
        np.concatenate([_make_generator(row).choice(texts), prefix])
        for row, prefix in zip(target.samples.tokens, target.samples.prefixes, strict=True)
    ]


def _make_generator(passage: Tokens, *seeds: int) -> np.random.Generator:
    """Random numbers that depend on the passage alone, not on its place or on other passages."""
    return np.random.default_rng((_SEED, *seeds, int(hash_row(passage), 16)))


def _change_case(change: Callable[[str], str]) -> Callable[[Target], Prefixes]:
    def make(target: Target) -> Prefixes:
        if target.tokenizer is None:
            return list(target.samples.prefixes)
        texts = target.tokenizer.batch_decode(target.samples.prefixes.tolist())
        return [tokenize(target.tokenizer, change(text)) for text in texts]

    return make


_KINDS = (
    *map(_drop_tokens, DROPPED),
    _replace_token(0),
    _replace_token(1),
    _put_text_before,
    _change_case(str.upper),
    _change_case(str.lower),
)
