"""Makes the documents of the lab's tasks from held-out sources, the same on every run.

All text comes from the files of `evals.lab.HELDOUT_FILES`, which differ a little between
Python versions. So compare scores of one version only.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from typing import Any

from evals.lab import heldout_texts

Documents = list[dict[str, Any]]

SEED = 5
CONTEXT_LINES = 4
CHOICES = 4
LINE = range(12, 72)
"""The length of a line that a task asks for, in characters without indentation."""
PIECE = 600
"""The least length of a held-out document in characters: about 200 tokens of the labs."""
_WORD = re.compile(r" \w{3,}")


def next_line(**_: Any) -> dict[str, Any]:
    return _data_set(next_lines(heldout_texts(), 200))


def held_out(**_: Any) -> dict[str, Any]:
    return _data_set(pieces(heldout_texts(), 80))


def copy(**_: Any) -> dict[str, Any]:
    return _data_set(copied_lines(heldout_texts(), 250))


def next_lines(texts: Sequence[str], most: int) -> Documents:
    """`context` (lines before), `choices` (four lines), `answer` (the right one's index)."""
    rng = random.Random(SEED)
    pool = sorted({line for text in texts for line in text.splitlines() if _is_asked(line)})
    found = []
    for text in texts:
        lines = text.splitlines()
        for index in range(CONTEXT_LINES, len(lines)):
            line, before = lines[index], lines[index - CONTEXT_LINES : index]
            if _is_asked(line) and line not in before:
                found.append((before, line))
    documents = []
    for before, line in _spread(found, most):
        wrong = rng.sample([other for other in pool if other not in (line, *before)], CHOICES - 1)
        found_choices = _shuffled(f"\n{line}", [f"\n{other}" for other in wrong], rng)
        documents.append({"context": "\n".join(before), **found_choices})
    return documents


def pieces(texts: Sequence[str], most: int) -> Documents:
    """`text`: whole lines of at least `PIECE` characters together."""
    found = []
    for text in texts:
        piece = ""
        for line in text.splitlines(keepends=True):
            piece += line
            if len(piece) >= PIECE:
                found.append({"text": piece})
                piece = ""
    return _spread(found, most)


def copied_lines(texts: Sequence[str], most: int) -> Documents:
    """`context` (a line, and the same again up to a word), `choices` (four words), `answer`."""
    rng = random.Random(SEED)
    lines = {line.strip() for text in texts for line in text.splitlines() if _is_asked(line)}
    pool = sorted({word for text in texts for word in re.findall(r" \w{3,8}\b", text)})
    found = [line for line in sorted(lines) if _WORD.search(line)]
    documents = []
    for line in _spread(found, most):
        word = rng.choice([*_WORD.finditer(line)])
        wrong = [other for other in rng.sample(pool, CHOICES) if other != word.group()]
        documents.append(
            {
                "context": f"{line}\n{line[: word.start()]}",
                **_shuffled(word.group(), wrong[: CHOICES - 1], rng),
            }
        )
    return documents


def _shuffled(right: str, wrong: list[str], rng: random.Random) -> dict[str, Any]:
    choices = [right, *wrong]
    rng.shuffle(choices)
    return {"choices": choices, "answer": choices.index(right)}


def _is_asked(line: str) -> bool:
    return len(line.strip()) in LINE


def _spread(items: list[Any], most: int) -> list[Any]:
    """At most `most` of the items, at even distances."""
    count = min(most, len(items))
    return [items[index * len(items) // count] for index in range(count)]


def _data_set(documents: Documents) -> dict[str, Any]:
    import datasets

    return {"test": datasets.Dataset.from_list(documents)}
