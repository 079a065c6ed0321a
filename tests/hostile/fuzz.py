"""Ways to make a valid file hostile by chance: bytes at random, or a value inside it for one that
parsers and schemas stumble over.
"""

from __future__ import annotations

import json
import random
from typing import Any

LITERALS = (
    *("null", "true", "false", "0", "-1", "1", "2", "0.5", "-0.0", "1e308", "NaN", "-Infinity"),
    *(
        str(2**31),
        str(2**63),
        "9" * 5_000,
        "[]",
        "{}",
        "[[]]",
        '""',
        '"0"',
        '"x"',
        '" "',
        '"a\\nb"',
    ),
    *('"\\u0000"', '"../../etc/passwd"', '"/dev/zero"', '"\\u202e\\u001b[2J"', f'"{"y" * 70_000}"'),
    *('{"a": {"b": [1]}}', "[1, 2]", "[" * 200_000, '"é"', "[null]", '{"": 0, "": 1}', "[1, []]"),
    *('"F64"', '"BOOL"', '"gpt_neo"', '"compact"', '"linear"', '"all"'),
)
"""JSON in place of a value."""
YAML = (
    *("~", "~: ~", "[a, b", "{a: 1, a: 2}", "? [a]\n: b", "|\n  a\n b", "*none", "!!binary x"),
    *("!!python/object/apply:os.system [ls]", "!!int x", "9999-99-99", ".nan", "\ta", "%YAML 9"),
    *("---", "...", "\x07", "'", "[a, [b, {c: d}]]", "[{name: a, results: 3}]", "[{name: {}}]"),
    *("!" * 300, "# " + "a" * 70_000),
)
"""YAML in place of a value, besides `LITERALS`."""


def change_bytes(draw: random.Random, content: bytes) -> bytes:
    """Bytes changed, cut off, put in, taken out, repeated, or overwritten with a number."""
    data = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 4, 16))):
        here, there = sorted(draw.randrange(len(data) + 1) for _ in range(2))
        there = min(there, here + draw.choice((1, 4, 64, len(data))))
        match draw.randrange(7):
            case 0:
                data[here:there] = b""
            case 1:
                data[here:here] = draw.randbytes(draw.choice((1, 3, 200)))
            case 2:
                data[here : here + 1] = bytes([draw.randrange(256)])
            case 3:
                data[here:here] = data[here:there]
            case 4:
                size = draw.choice((1, 2, 4, 8))
                number = draw.choice((0, 1, 2**7, 2**8 - 1, 2**15, 2**31 - 1, 2**32 - 1, 2**63))
                data[here : here + size] = (number % 256**size).to_bytes(size, "little")
            case 5:
                data = data[:here] if draw.random() < 0.3 else data
            case _:
                if data:
                    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


def change_json(draw: random.Random, content: bytes) -> bytes:
    """A value replaced, left out, put under another or the same key; or bytes."""
    if draw.random() < 0.2:
        return change_bytes(draw, content)
    value, raw = json.loads(content), {}
    for number in range(draw.choice((1, 1, 2, 3))):
        places = list(_places(value))
        owner, key = draw.choice(places) if places else (None, None)
        mark = f"@{number}@"
        raw[f'"{mark}"'] = draw.choice(LITERALS)
        match owner, draw.randrange(6):
            case (None, _):
                value = mark
            case (_, 0):
                del owner[key]
            case (dict(), 1):
                owner[draw.choice(("", "x" * 5_000, "9" * 5_000, "-1", "\x1b[2J", mark))] = mark
            case (dict(), 2):
                raw[f'"{mark}"'] = f"0, {json.dumps(key)}: {draw.choice(LITERALS)}"  # twice
                owner[key] = mark
            case (list(), 1):
                owner.extend([owner[key]] * draw.choice((1, 300)))
            case _:
                owner[key] = mark
    text = json.dumps(value)
    for mark, literal in raw.items():
        text = text.replace(mark, literal)
    return text.encode("utf-8", "surrogatepass")


def change_card(draw: random.Random, content: bytes) -> bytes:
    """A value or key of the metadata replaced, a line of the card moved; or bytes."""
    if draw.random() < 0.3:
        return change_bytes(draw, content)
    rows = content.split(b"\n")
    metadata = range(1, rows.index(b"---", 1))
    for _ in range(draw.choice((1, 1, 2))):
        row = draw.choice(metadata)
        key, _, value = rows[row].partition(b": ")
        literal = draw.choice(YAML + LITERALS).encode("utf-8", "surrogatepass")
        match draw.randrange(5):
            case 0:
                rows[row] = literal + b": " + value
            case 1:
                rows.insert(draw.randrange(len(rows)), draw.choice(rows))
            case 2:
                del rows[draw.randrange(metadata.stop, len(rows))]
            case _:
                rows[row] = key.rstrip(b":") + b": " + literal
    return b"\n".join(rows)


def change_lines(draw: random.Random, content: bytes) -> bytes:
    rows = content.splitlines()
    chosen = draw.randrange(len(rows))
    rows[chosen] = change_json(draw, rows[chosen])
    if draw.random() < 0.2:
        rows.insert(draw.randrange(len(rows)), draw.choice((b"", b"{}", b"[]", rows[chosen])))
    return b"\n".join(rows) + draw.choice((b"", b"\n"))


def change_safetensors(draw: random.Random, content: bytes) -> bytes:
    """The JSON of the header, with a length that fits; or bytes at the front."""
    size = 8 + int.from_bytes(content[:8], "little")
    if draw.random() < 0.3:
        return change_bytes(draw, content[:size]) + content[size:]
    header = change_json(draw, content[8:size])
    return len(header).to_bytes(8, "little") + header + content[size:]


FORMS = {
    "bytes": change_bytes,
    "card": change_card,
    "json": change_json,
    "lines": change_lines,
    "safetensors": change_safetensors,
}


def _places(value: Any) -> Any:
    """Every (owner, key) inside a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield value, key
            yield from _places(inner)
