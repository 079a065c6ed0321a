"""Block specifications: "20-23,5,last:4,-1" → sorted block indices."""

from __future__ import annotations

import re

from surgery.errors import BlockSpecError

_ITEM = re.compile(
    r"(?P<first>\d{1,9})-(?P<last>\d{1,9}) | (?P<index>-?\d{1,9}) | last:(?P<count>\d{1,9})",
    re.VERBOSE | re.ASCII,
)
_GRAMMAR = "write for example 20-23, 20,22, last:4 or -1"


def parse_blocks(spec: str, num_blocks: int) -> tuple[int, ...]:
    """Reads a block specification against a model of `num_blocks` blocks.

    Items are separated by commas: an index (`5`, counted from the end when negative: `-1`),
    an inclusive range (`20-23`), or `last:4` for the deepest four.

    **Returns:** the indices, ascending, each in [0, num_blocks).

    **Raises:** `BlockSpecError` when the specification is empty, malformed, out of range, or names
    a block twice.
    """
    model = f"the model has {num_blocks} blocks, 0 to {num_blocks - 1}"
    where = f"block specification {spec!r}"
    blocks: list[int] = []
    for item in spec.split(","):
        text = item.strip()
        match = _ITEM.fullmatch(text)
        if match is None:
            what = "names no block" if not text else f"cannot read {text!r}"
            raise BlockSpecError(what, where=where, fix=f"{_GRAMMAR}; {model}")
        if match["count"] is not None:
            first, last = num_blocks - int(match["count"]), num_blocks - 1
        elif match["first"] is not None:
            first, last = int(match["first"]), int(match["last"])
        else:
            first = last = (
                int(match["index"]) % num_blocks if _in(match["index"], num_blocks) else -1
            )
        if not 0 <= first < num_blocks or last >= num_blocks:
            raise BlockSpecError(f"{text!r} is out of range", where=where, fix=model)
        if first > last:
            raise BlockSpecError(
                f"{text!r} names no block", where=where, fix=f"{_GRAMMAR}; {model}"
            )
        blocks += range(first, last + 1)
    repeated = sorted({block for block in blocks if blocks.count(block) > 1})
    if repeated:
        names = ", ".join(map(str, repeated))
        raise BlockSpecError(f"names block {names} more than once", where=where, fix=model)
    return tuple(sorted(blocks))


def format_blocks(blocks: tuple[int, ...]) -> str:
    """The shortest specification of the given ascending indices: (5, 20, 21, 22) → "5,20-22"."""
    runs: list[list[int]] = []
    for block in blocks:
        if runs and block == runs[-1][-1] + 1:
            runs[-1].append(block)
        else:
            runs.append([block])
    return ",".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def _in(index: str, num_blocks: int) -> bool:
    return -num_blocks <= int(index) < num_blocks
