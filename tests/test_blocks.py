"""Contract: a block specification is valid sorted unique indices, or one clear error.

`20-23`, `20,22`, `20-23,5`, `last:4` and `-1` are read as the command line promises. Anything else
is a `BlockSpecError` that names the model's block count, whatever the text.
"""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from surgery.errors import BlockSpecError
from surgery.selection import blocks_of, format_blocks, parse_selection

NUMBERS_OF_BLOCKS = st.integers(1, 64)


def parse_blocks(spec: str, num_blocks: int) -> tuple[int, ...]:
    return blocks_of(parse_selection(spec, "zero", num_blocks, 1))


@pytest.mark.parametrize(
    ("spec", "blocks"),
    [
        ("20-23", (20, 21, 22, 23)),
        ("20-23,5", (5, 20, 21, 22, 23)),
        ("last:4", (20, 21, 22, 23)),
        ("-1", (23,)),
        ("-24", (0,)),
        ("7-7", (7,)),
        ("007", (7,)),
        ("3,1,2", (1, 2, 3)),
        (" 3 , 1 ", (1, 3)),
        ("last:1,0,-2", (0, 22, 23)),
    ],
)
def test_reads(spec: str, blocks: tuple[int, ...]) -> None:
    assert parse_blocks(spec, 24) == blocks


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "names no block"),
        ("1,,2", "names no block"),
        ("3-1", "'3-1' names no block"),
        ("24", "'24' is out of range"),
        ("last:25", "'last:25' is out of range"),
        ("last:0", "'last:0' is out of range"),
        ("last:", "cannot read 'last:'"),
        ("last:-1", "cannot read 'last:-1'"),
        ("1--2", "cannot read '1--2'"),
        ("1.5.1", "cannot read '1.5.1'"),
        ("+1", "cannot read '+1'"),
        ("٣", "cannot read '٣'"),  # a digit, though not one that a user means
        ("1,1", "names block 1 more than once"),
        ("0-3,2-5", "names block 2, 3 more than once"),
        ("last:2,22", "names block 22 more than once"),
        ("9" * 5000, "cannot read"),  # longer than Python itself turns into a number
    ],
)
def test_refuses(spec: str, reason: str) -> None:
    with pytest.raises(BlockSpecError) as caught:
        parse_blocks(spec, 24)
    assert reason in str(caught.value)
    assert "the model has 24 blocks, 0 to 23" in str(caught.value)


@given(st.data(), NUMBERS_OF_BLOCKS)
def test_format_is_shortest(data: st.DataObject, num_blocks: int) -> None:
    chosen = data.draw(st.sets(st.integers(0, num_blocks - 1), min_size=1))
    spec = format_blocks(tuple(sorted(chosen)))
    gaps = sum(block + 1 not in chosen for block in chosen)  # one item per run of neighbors
    assert len(spec.split(",")) == gaps


SPEC_LIKE = st.lists(
    st.sampled_from([*"0123456789", "-", ",", " ", "last:", "last", ":", "last:3", "1-3", "-1"]),
    max_size=12,
).map("".join)


@given(SPEC_LIKE | st.text(max_size=30), NUMBERS_OF_BLOCKS)
@example("0-63", 64)
@example("last:1", 1)
@example("-0", 1)
def test_any_text(spec: str, num_blocks: int) -> None:
    try:
        blocks = parse_blocks(spec, num_blocks)
    except BlockSpecError as error:
        message = str(error)
    else:
        assert list(blocks) == sorted(set(blocks))
        assert blocks
        assert all(0 <= block < num_blocks for block in blocks)
        return
    assert f"the model has {num_blocks} blocks" in message
    assert "\n" not in message
