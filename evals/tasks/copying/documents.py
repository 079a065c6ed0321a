"""Makes the documents of `induction`: the same on every machine, from no text at all."""

from __future__ import annotations

import random
from typing import Any

SEED = 5
DOCUMENTS = 300
WORDS = 24
"""Different words of a document."""
FIRST = 4
"""The word that is asked for has at least so many before it in the second round."""
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SYLLABLES = (2, 3)


def load(**_: Any) -> dict[str, Any]:
    import datasets

    return {"test": datasets.Dataset.from_list(repeat_words(DOCUMENTS))}


def repeat_words(number: int) -> list[dict[str, str]]:
    """`context` (`WORDS` made-up words, then the first of them again), and `word`, the next one."""
    rng = random.Random(SEED)
    documents = []
    for _ in range(number):
        words: list[str] = []
        while len(words) < WORDS:
            word = _make_word(rng)
            if word not in words:
                words.append(word)
        asked = rng.randrange(FIRST, WORDS)
        documents.append({"context": " ".join([*words, *words[:asked]]), "word": words[asked]})
    return documents


def _make_word(rng: random.Random) -> str:
    syllables = range(rng.choice(SYLLABLES))
    return "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in syllables)
