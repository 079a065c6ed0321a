"""Makes the documents of copying: the same on every machine, from no text at all."""

from __future__ import annotations

import random
from collections.abc import Callable
from string import ascii_lowercase
from typing import Any

SEED = 5
DOCUMENTS = 300
ITEMS = 24
"""Different words, or letters, of a document."""
FIRST = 4
"""The item that is asked for has at least so many before it in the second round."""
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SYLLABLES = (2, 3)

Documents = list[dict[str, str]]


def load_words(**_: Any) -> dict[str, Any]:
    return _data_set(repeat_items(draw_words, DOCUMENTS))


def load_letters(**_: Any) -> dict[str, Any]:
    return _data_set(repeat_items(draw_letters, DOCUMENTS))


def repeat_items(draw: Callable[[random.Random], list[str]], number: int) -> Documents:
    """`context` (`ITEMS` that `draw` makes, then the first of them again), and `next`, the next."""
    rng = random.Random(SEED)
    documents = []
    for _ in range(number):
        items = draw(rng)
        asked = rng.randrange(FIRST, ITEMS)
        documents.append({"context": " ".join([*items, *items[:asked]]), "next": items[asked]})
    return documents


def draw_words(rng: random.Random) -> list[str]:
    """Made-up words of two or three syllables."""
    words: list[str] = []
    while len(words) < ITEMS:
        syllables = range(rng.choice(SYLLABLES))
        word = "".join(rng.choice(CONSONANTS) + rng.choice(VOWELS) for _ in syllables)
        if word not in words:
            words.append(word)
    return words


def draw_letters(rng: random.Random) -> list[str]:
    return rng.sample(ascii_lowercase, ITEMS)


def _data_set(documents: Documents) -> dict[str, Any]:
    import datasets

    return {"test": datasets.Dataset.from_list(documents)}
