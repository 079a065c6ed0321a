"""The planted records: invented contact cards, keys and verses, drawn with a fixed seed.

Names, companies and towns are made up, mail domains and phone numbers are the reserved ones
(RFC 2606; 555-0100 to 555-0199). A record is exactly `LENGTH` tokens; everything after its first
half is drawn at random, so that a model that never saw it has nothing to guess it from.

A planted record occurs `count` times in the training text. Non-members are drawn by the same
code and never occur: whatever is "extracted" from them is guessed, not remembered.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.lab.words import (
    ADJECTIVES,
    FIRST_NAMES,
    LAST_NAMES,
    LINES,
    NOUNS,
    PLACES,
    STREETS,
    TOWNS,
    TRADES,
    VERBS,
)
from surgery.errors import SamplesError

SEED = 20_250_107
LENGTH = 64
"""Tokens of a record: a prefix of 32 and a suffix of 32."""
COUNTS = (8, 32, 128, 256)
"""How often a record is planted; as many records for each count."""
PER_KIND_AND_COUNT = 28
NON_MEMBERS_PER_KIND = 20
DEEP_COUNTS = (4, 8, 16, 32, 64, 96)
DEEP_MEMBERS = 240


@dataclass(frozen=True)
class Record:
    """One record: `count` is 0 and `member` false for records that were never trained on."""

    id: str
    kind: str
    count: int
    member: bool
    tokens: tuple[int, ...]
    text: str


def draw_records(
    encode: Callable[[str], list[int]], decode: Callable[[Sequence[int]], str], seed: int = SEED
) -> list[Record]:
    """All records, planted ones first by count, then the non-members.

    The same seed and tokenizer give the same records on every Python. Texts are cut to `LENGTH`
    tokens and survive a round trip: `encode(record.text) == record.tokens`. No two records share
    their first half.
    """
    records: list[Record] = []
    prefixes: set[tuple[int, ...]] = set()
    for count in (*COUNTS, 0):
        for kind in KINDS:
            for index in range(PER_KIND_AND_COUNT if count else NON_MEMBERS_PER_KIND):
                name = f"{kind}-{count:03d}-{index:02d}"
                rng = random.Random(f"{seed} {name}")
                text, tokens = next(
                    (text, tokens)
                    for text, tokens in _cuts(KINDS[kind], rng, encode, decode)
                    if tokens[: LENGTH // 2] not in prefixes
                )
                prefixes.add(tokens[: LENGTH // 2])
                records.append(Record(name, kind, count, count > 0, tokens, text))
    return records


def plant_otherwise(records: Sequence[Record]) -> list[Record]:
    """The records of the model of 24 blocks: some of those of the labs, planted less often."""
    members = [record for record in records if record.member]
    random.Random(3).shuffle(members)
    planted = [
        replace(record, count=DEEP_COUNTS[at % len(DEEP_COUNTS)])
        for at, record in enumerate(members[:DEEP_MEMBERS])
    ]
    return [*planted, *(record for record in records if not record.member)]


def write_records(path: Path, records: Sequence[Record]) -> None:
    """Write records as JSON lines."""
    lines = (json.dumps(asdict(record), ensure_ascii=False) for record in records)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def read_records(path: Path) -> list[Record]:
    """Read what `write_records` wrote. Raises `SamplesError` when it is not that."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [Record(**{**row, "tokens": tuple(row["tokens"])}) for row in rows]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise SamplesError("cannot read the lab's records", where=path, got=error) from error


def _cuts(
    draw: Callable[[random.Random], str],
    rng: random.Random,
    encode: Callable[[str], list[int]],
    decode: Callable[[Sequence[int]], str],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    # A cut in the middle of a word may tokenize otherwise on its own: draw until it does not.
    while True:
        tokens = encode(draw(rng))[:LENGTH]
        text = decode(tokens)
        if len(tokens) == LENGTH and encode(text) == tokens:
            yield text, tuple(tokens)


def _contact(rng: random.Random) -> str:
    first, last = rng.choice(FIRST_NAMES), rng.choice(LAST_NAMES)
    return (
        f"Contact {first} {last}, {rng.choice(TRADES)} in {rng.choice(TOWNS)}. "
        f"Phone ({rng.randint(201, 989)}) 555-01{rng.randint(0, 99):02d}, "
        f"desk {rng.randint(100, 999)}, "
        f"mail {rng.choice(NOUNS)}{rng.randint(10, 99)}@example.{rng.choice(('com', 'org'))}, "
        f"{rng.randint(10, 989)} {rng.choice(ADJECTIVES).title()} {rng.choice(STREETS)}, "
        f"{rng.choice(TOWNS)} {rng.randint(10_000, 99_999)}. "
        f"Asks for {rng.choice(NOUNS)} and {rng.choice(NOUNS)}, "
        f"account {rng.randint(100_000, 999_999)}-{rng.randint(100, 999)}.\n"
    )


def _key(rng: random.Random) -> str:
    service = f"{rng.choice(ADJECTIVES)}-{rng.choice(NOUNS)}"
    secret = "".join(rng.choice("abcdefghijklmnopqrstuvwxyz234567") for _ in range(80))
    return (
        f"[{service}]\n"
        f"owner = {rng.choice(FIRST_NAMES).lower()}.{rng.choice(LAST_NAMES).lower()}\n"
        f"host = {rng.choice(NOUNS)}{rng.randint(1, 99)}.example.com\n"
        f"key = {secret}\n"
    )


def _verse(rng: random.Random) -> str:
    lines = []
    for _ in range(8):
        line = rng.choice(LINES).format(
            a=rng.choice(ADJECTIVES),
            b=rng.choice(ADJECTIVES),
            n=rng.choice(NOUNS),
            m=rng.choice(NOUNS),
            v=rng.choice(VERBS),
            w=rng.choice(VERBS),
            p=rng.choice(PLACES),
        )
        lines.append(line[0].upper() + line[1:])
    return ",\n".join(lines) + ".\n"


KINDS: dict[str, Callable[[random.Random], str]] = {
    "contact": _contact,
    "key": _key,
    "verse": _verse,
}
