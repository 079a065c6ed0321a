"""Contract: a specification of blocks and heads is a sorted selection, or one clear error.

What `parse_selection` reads, `format_selection` writes back; plan files hold the same. Anything
else is a `BlockSpecError` that names the model's blocks and heads, whatever the text.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.errors import BlockSpecError, SourceError
from surgery.record.plan_file import PlanFile, list_edits, read_plan_file
from surgery.selection import (
    EditedHeads,
    blocks_of,
    checked,
    format_selection,
    heads_of,
    name_blocks,
    parse_selection,
    variant_name,
)

ALL = tuple(range(8))


@pytest.mark.parametrize(
    ("spec", "heads"),
    [
        ("7.1-3", {7: (1, 2, 3)}),
        ("20-21,6.0,7.1-3", {6: (0,), 7: (1, 2, 3), 20: ALL, 21: ALL}),
        ("6.0,6.2", {6: (0, 2)}),
        (" 6.7 , last:1", {6: (7,), 23: ALL}),
        ("5.0-7", {5: ALL}),
    ],
)
def test_reads(spec: str, heads: dict[int, tuple[int, ...]]) -> None:
    selection = parse_selection(spec, "zero", 24, 8)
    assert heads_of(selection) == heads
    assert {part.variant for part in selection} == {"zero"}
    assert blocks_of(selection) == tuple(heads)


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ("", "names no block"),
        ("6.8", "'6.8' is out of range"),
        ("6.3-9", "'6.3-9' is out of range"),
        ("6.3-2", "'6.3-2' names no head"),
        ("6.0,6.0", "names head 0 of block 6 more than once"),
        ("6,6.1", "names head 1 of block 6 more than once"),
        ("6.x", "cannot read '6.x'"),
        ("-1.0", "cannot read '-1.0'"),
    ],
)
def test_refuses(spec: str, reason: str) -> None:
    with pytest.raises(BlockSpecError) as caught:
        parse_selection(spec, "zero", 24, 8)
    assert reason in str(caught.value)
    assert "24 blocks, 0 to 23" in str(caught.value)
    if "." in spec and "read" not in reason:
        assert "8 heads, 0 to 7" in str(caught.value)
    if "read" in reason:
        assert "or single heads of a block: 6.0, 7.1-3" in str(caught.value)


@given(st.text("0123456789.,-: last", max_size=12))
def test_any_text_is_read_or_refused(spec: str) -> None:
    try:
        selection = parse_selection(spec, "mean", 12, 4)
    except BlockSpecError:
        return
    assert selection == checked(selection, 12, 4)


@given(
    st.dictionaries(
        st.integers(0, 11),
        st.dictionaries(st.integers(0, 3), st.sampled_from(["zero", "mean"]), min_size=1),
        min_size=1,
    )
)
def test_round_trip(chosen: dict[int, dict[int, str]]) -> None:
    """Through text for one variant, and through a plan file for several."""
    parts = tuple(
        sorted(
            EditedHeads(block, tuple(sorted(h for h in heads if heads[h] == variant)), variant)
            for block, heads in chosen.items()
            for variant in set(heads.values())
        )
    )
    assert checked(parts, 12, 4) == parts
    spec = format_selection(parts, 4)
    assert heads_of(parse_selection(spec, "zero", 12, 4)) == heads_of(parts)
    plan = PlanFile.model_validate_json(PlanFile(edits=list_edits(parts, 4)).to_text())
    assert plan.make_selection(12, 4) == parts


@pytest.mark.parametrize(
    ("spec", "name"), [("2", "block 2"), ("7.1-3", "block 7.1-3"), ("5,20-22", "blocks 5,20-22")]
)
def test_one_block_is_named_in_the_singular(spec: str, name: str) -> None:
    selection = parse_selection(spec, "identity", 24, 8)
    assert name_blocks(selection, 8) == name


def test_a_mixed_selection_says_so() -> None:
    assert variant_name([EditedHeads(0, (0,), "zero"), EditedHeads(1, (0,), "zero")]) == "zero"
    assert variant_name([EditedHeads(0, (0,), "zero"), EditedHeads(0, (1,), "mean")]) == "mixed"


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((), "names no block"),
        ((EditedHeads(0, (), "zero"),), "names no block"),
        ((EditedHeads(12, (0,), "zero"),), "head 0 of block 12 is out of range"),
        ((EditedHeads(1, (4,), "zero"),), "head 4 of block 1 is out of range"),
        (
            (EditedHeads(1, (2,), "zero"), EditedHeads(1, (2,), "mean")),
            "names head 2 of block 1 more than once",
        ),
    ],
)
def test_a_selection_that_does_not_fit(parts: tuple[EditedHeads, ...], text: str) -> None:
    with pytest.raises(BlockSpecError, match=f"{text}; the model has 12 blocks, 0 to 11, of 4 hea"):
        checked(parts, 12, 4)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "cannot be read (got no such file"),
        ("{", "not a plan (got Expecting property name"),
        ("[]", "not a plan (got input should be"),
        ({"edits": []}, "it edits nothing"),
        ({"edits": [{"drop_attn": "1"}]}, "edits.0.variant: field required"),
        ({"schema_version": 2, "edits": [{"drop_attn": "1", "variant": "zero"}]}, "schema_version"),
        ({"edits": [{"drop_attn": "1", "variant": "zero"}], "more": 1}, "more"),
    ],
)
def test_a_file_that_is_no_plan(tmp_path: Path, content: object, text: str) -> None:
    path = tmp_path / "plan.json"
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SourceError) as caught:
        read_plan_file(path)
    assert text in str(caught.value)
    assert str(path) in str(caught.value)
