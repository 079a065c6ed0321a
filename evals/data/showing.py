"""Shows where passages are cut, so that nobody tests what does not matter."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, repeat
from typing import Any

import numpy as np

from evals.data.loading import PassageSource
from evals.data.samples import Samples, measure_lengths
from evals.data.secrets import compile_secret, find_secrets
from surgery.reading.corpus import find_opening, tokenize

SHOWN = 3
"""Passages."""
_NUMBER = re.compile(r"\d{5,}")
"""Digits that may tell who or what a passage is about; years and most amounts have fewer."""

Places = tuple[int, int, int]
"""Where a prefix begins, where its suffix does, and where that ends."""


def locate_cuts(
    passages: PassageSource, samples: Samples, tokenizer: Any
) -> Iterator[tuple[str, Any, Places]]:
    """The id of each of the `samples`, its passage, and where it is cut: in characters of a text,
    or in token ids. Nothing for a text whose tokenizer does not say where tokens stand."""
    if passages.is_text and not tokenizer.is_fast:
        return
    opening = len(find_opening(tokenizer)) if passages.is_text else 0
    lengths = measure_lengths(samples.prefixes) - opening, measure_lengths(samples.suffixes)
    kept = dict(zip(samples.ids, np.stack(lengths, axis=1).tolist(), strict=True))
    secrets: Any = repeat(None)
    if passages.marks_secrets:
        secrets = find_secrets(passages.table, tokenizer, compile_secret(passages.secret))
    for name, parts, secret in zip(passages.table.ids, passages.table.rows, secrets, strict=False):
        if name not in kept:
            continue
        room, size = kept[name]
        seam = room if secret is None else secret.first
        if secret is None and len(parts) > 1:
            seam = len(tokenize(tokenizer, parts[0]) if passages.is_text else parts[0])
        first, last = seam - room, seam + size
        if not passages.is_text:
            yield name, parts, (first, seam, last)
            continue
        text = "".join(parts)
        made = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        places = made["offset_mapping"]
        yield name, text, (places[first][0], places[seam][0], places[last - 1][1])


def show_cuts(
    passages: PassageSource, samples: Samples, tokenizer: Any, *, text: bool = False
) -> Iterator[dict[str, Any]]:
    """Where the first passages are cut, as plain JSON values. `text`: with what stands there."""
    lengths = measure_lengths(samples.prefixes), measure_lengths(samples.suffixes)
    sizes = dict(zip(samples.ids, np.stack(lengths, axis=1).tolist(), strict=True))
    cuts = locate_cuts(passages, samples, tokenizer)
    for name, passage, (begin, seam, end) in islice(cuts, SHOWN):
        shown: dict[str, Any] = {
            "id": name,
            "unit": "characters" if passages.is_text else "tokens",
            "prefix": [begin, seam],
            "suffix": [seam, end],
            "tokens": sizes[name],
        }
        if text and passages.is_text:
            shown["text"] = [passage[begin:seam], passage[seam:end]]
        yield shown


def count_given_numbers(passages: PassageSource, samples: Samples, tokenizer: Any) -> int:
    """How many passages have a number in their prefix that no other passage has.

    Also one that goes on in the suffix. 0 for token ids.
    """
    if not passages.is_text:
        return 0
    texts = ("".join(parts) for parts in passages.table.rows)
    seen = Counter(number for text in texts for number in set(_NUMBER.findall(text)))
    return sum(
        any(
            begin <= found.start() < seam and seen[found.group()] == 1
            for found in _NUMBER.finditer(text)
        )
        for _, text, (begin, seam, _) in locate_cuts(passages, samples, tokenizer)
    )
