"""Contract: the window of a passage is placed so that its secret is the whole suffix.

The suffix begins with the token in which the secret begins, and ends with the token in which it
ends. The prefix is exactly the tokens before it, after the tokenizer's opening ones. A row without
a secret, or with too few tokens before it, is named and refused, or left out on request.
"""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny_tokenizer import TEXT, tiny_tokenizer

from evals.data import NOTHING, Samples, describe_samples, hash_row, load_samples, measure_lengths
from evals.data.repeats import OVERLAPS, find_overlaps, find_repeats, group_overlaps, group_repeats
from surgery.errors import SamplesError

WORDS = st.text("the quick brown fox 0123456789 ñ漢🦊.\n", min_size=1, max_size=60)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def load(path: Path, rows: list[dict[str, Any]], **more: Any) -> Samples:
    told = {"tokenizer": tiny_tokenizer(), "prefix_length": 4} | more
    return load_samples(write_jsonl(path / "rows.jsonl", rows), **told)


@given(WORDS, WORDS, WORDS, st.integers(1, 9), st.sampled_from(["text", "span", "csv", "regex"]))
def test_the_secret_is_the_suffix_and_the_prefix_is_what_stands_before(
    tmp_path_factory, before, secret, after, prefix, how
) -> None:
    text, tokenizer = before + secret + after, tiny_tokenizer()
    begin = text.find(secret) if how in ("text", "csv", "regex") else len(before)
    folder = tmp_path_factory.mktemp("rows")
    assume(secret.strip() and not secret.startswith("["))
    whole = tokenizer(text, return_offsets_mapping=True)
    first = next(at for at, (_, end) in enumerate(whole["offset_mapping"]) if end > begin)
    assume(first >= prefix)
    told: dict[str, Any] = {"tokenizer": tokenizer, "prefix_length": prefix}
    if how == "csv":
        file = folder / "rows.csv"
        with file.open("w", newline="", encoding="utf-8") as out:
            csv.writer(out).writerows([["text", "secret"], [text, secret]])
        found = load_samples(str(file), **told)
    elif how == "regex":
        file = folder / "rows.jsonl"
        found = load_samples(write_jsonl(file, [{"text": text}]), secret=re.escape(secret), **told)
    else:
        mark = secret if how == "text" else [begin, begin + len(secret)]
        found = load(folder, [{"text": text, "secret": mark}], **told)
    ids = whole["input_ids"]
    suffix = found.suffix_rows[0]
    assert found.prefixes[0].tolist() == ids[first - prefix : first]
    assert suffix == ids[first : first + len(suffix)]
    assert secret in tokenizer.decode(suffix)
    if len(suffix) > 1:  # not one token more
        assert secret not in tokenizer.decode(suffix[1:]) or secret not in tokenizer.decode(
            suffix[:-1]
        )
        last = whole["offset_mapping"][first + len(suffix) - 1]
        assert last[0] < begin + len(secret)
    assert found.secrets


def test_suffixes_differ_in_length_and_end_with_their_secret(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "text": "the quick brown fox has 17, and more", "secret": "17"},
        {"id": "b", "text": "the quick brown fox has 123456, and more", "secret": "123456"},
    ]
    found = load(tmp_path, rows)
    lengths = measure_lengths(found.suffixes).tolist()
    assert lengths[0] < lengths[1] == found.suffix_length
    assert found.tokens[0, 4 + lengths[0] :].tolist() == [NOTHING] * (lengths[1] - lengths[0])
    assert [tiny_tokenizer().decode(row).strip() for row in found.suffix_rows] == ["17", "123456"]
    assert describe_samples(found)["secrets"] == 2
    assert found.untested is not None
    assert not found.untested.any()
    alone = load(tmp_path, rows[:1])
    assert hash_row(alone.tokens[0]) == hash_row(found.tokens[0])  # whatever other rows there are
    assert found.sha256 != alone.sha256


def test_no_hash_gives_a_secret_away(tmp_path: Path) -> None:
    """Results hold a hash of each row, and whoever knows its prefix could try all numbers."""
    rows = [
        {"id": str(at), "text": f"the quick brown fox has {number}, and", "secret": number}
        for at, number in enumerate(("17", "42"))
    ]
    found = load(tmp_path, rows)
    assert found.hashes == (hash_row(found.prefixes[0]),) * 2
    assert not {hash_row(row) for row in found.tokens} & set(found.hashes)


def test_opening_tokens_stand_before_the_prefix_and_count(tmp_path: Path) -> None:
    import copy

    from tokenizers.processors import TemplateProcessing

    tokenizer = copy.deepcopy(tiny_tokenizer())
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    row = {"text": "the quick brown fox has 17, and more", "secret": "17"}
    found = load(tmp_path, [row], tokenizer=tokenizer)
    plain = load(tmp_path, [row])
    assert found.prefixes[0].tolist() == [0, *plain.prefixes[0].tolist()[1:]]


def test_token_ids_are_marked_by_their_places(tmp_path: Path) -> None:
    rows = [
        {"tokens": list(range(10, 30)), "secret": [6, 9]},
        {"prefix": list(range(50, 60)), "suffix": list(range(60, 70)), "secret": [10, 11]},
    ]
    first = load(tmp_path, rows[:1], tokenizer=None)
    assert first.tokens.tolist() == [[12, 13, 14, 15, 16, 17, 18]]
    second = load(tmp_path, rows[1:], tokenizer=None)
    assert second.tokens.tolist() == [[56, 57, 58, 59, 60]]


def test_a_pair_is_read_as_one_passage_and_a_group_marks_a_part_of_a_match(tmp_path: Path) -> None:
    pair = {"prefix": "the quick brown fox, account 4", "suffix": "5678, jumps"}
    found = load(tmp_path, [pair], secret="account ([0-9]+)")
    assert tiny_tokenizer().decode(found.suffix_rows[0]).strip() == "45678"


def test_the_first_match_is_tested_and_others_are_told(tmp_path: Path) -> None:
    rows = [{"id": "x", "text": "the quick brown fox 111, jumps over 222", "secret": None}]
    found = load(tmp_path, rows, secret="[0-9]{3}")
    assert tiny_tokenizer().decode(found.suffix_rows[0]).strip() == "111"
    assert [(note.id, note.kept) for note in found.notes] == [("x", True)]
    assert "only the first match is tested" in found.notes[0].reason


GOOD = {"id": "good", "text": "the quick brown fox has 17, and more", "secret": "17"}


@pytest.mark.parametrize(
    ("bad", "more", "reason"),
    [
        ({"secret": None}, {}, "it has no secret"),
        ({"secret": ""}, {}, "it has no secret"),
        ({"text": "17, and", "secret": "17"}, {}, "nothing stands before its secret"),
        ({"secret": "has 17, and"}, {"suffix_length": 3}, "more than 3 tokens"),
    ],
)
def test_rows_that_cannot_be_tested(tmp_path: Path, bad, more, reason) -> None:
    rows = [GOOD, GOOD | {"id": "bad"} | bad]
    with pytest.raises(SamplesError, match=r"1 of 2 rows.*row 2 \('bad'\)") as raised:
        load(tmp_path, rows, **more)
    assert reason in str(raised.value)
    assert "skip_short" in str(raised.value)
    assert "\n" not in str(raised.value)
    found = load(tmp_path, rows, skip_short=True, **more)
    assert found.ids == ("good",)
    assert reason in found.notes[0].reason
    with pytest.raises(SamplesError, match="1 of 1 rows"):
        load(tmp_path, rows[1:], skip_short=True, **more)


@pytest.mark.parametrize(
    "mark", ["never there", [3, 3], [5, 2], [0, 999], [-1, 4], [1, 2, 3], True, 7]
)
def test_a_mark_that_marks_nothing_is_a_mistake(tmp_path: Path, mark) -> None:
    """Also where rows may be left out: else a slip would leave most of them out unseen."""
    with pytest.raises(
        SamplesError, match=r"column secret does not mark a part of row 2"
    ) as raised:
        load(tmp_path, [GOOD, GOOD | {"id": "b", "secret": mark}], skip_short=True)
    assert "never there" not in str(raised.value)


def test_mistakes_with_the_expression(tmp_path: Path) -> None:
    with pytest.raises(SamplesError, match=r"`secret`: is no regular expression"):
        load(tmp_path, [GOOD], secret="(")
    with pytest.raises(SamplesError, match="looked for in text"):
        load(tmp_path, [{"tokens": list(range(9))}], secret="1", tokenizer=None)
    with pytest.raises(SamplesError, match="it has no secret"):
        load(tmp_path, [GOOD], secret="z*")  # matches nothing, everywhere


def test_an_expression_that_takes_too_long_names_the_passage(tmp_path: Path) -> None:
    rows = [{"id": "slow", "text": "many words, and one more " * 20, "secret": None}]
    with pytest.raises(SamplesError, match=r"takes longer than 1 second on row 1 \('slow'\)"):
        load(tmp_path, rows, secret="(([a-zA-Z ,.0-9]+)+)+#", skip_short=True)


def test_a_row_that_begins_as_another_but_is_shorter_is_another(tmp_path: Path) -> None:
    """Its end is not text that the other has in its place."""
    rows = [{"text": TEXT[:60], "secret": [40, 41]}, {"text": TEXT[:60], "secret": [40, 44]}]
    found = load(tmp_path, rows)
    assert len(found) == 2
    assert len({hash_row(row) for row in found.tokens}) == 2


def rows_of(*rows: list[int]) -> Any:
    made = np.full((len(rows), max(map(len, rows))), NOTHING, dtype=np.int32)
    for row, tokens in zip(made, rows, strict=True):
        row[: len(tokens)] = tokens
    return made


def test_what_stands_after_the_end_is_no_overlap() -> None:
    rng = np.random.default_rng(0)
    apart = [rng.integers(1, 10**6, size).tolist() for size in (20, 21, 60, 20)]
    assert len(set(group_overlaps(rows_of(*apart)).tolist())) == 4
    one = rng.integers(1, 10**6, 40).tolist()
    chained = rows_of(one[:20], one[2:40], apart[2])  # the short one ends as the long one begins
    assert group_overlaps(chained).tolist() == [0, 0, 1]
    assert find_overlaps(chained[:1], chained[1:]).tolist() == [True]
    short = rows_of(one[:9], apart[2], one[:9])  # shorter than any overlap, but equal
    assert group_overlaps(short).tolist() == [0, 1, 0]
    assert find_overlaps(short[:1], short[1:2]).tolist() == [False]


@given(st.lists(st.lists(st.integers(1, 3), min_size=2, max_size=24), min_size=2, max_size=5))
def test_overlaps_are_those_of_the_rows_by_themselves(rows) -> None:
    """Against a slow definition, on rows that differ in length."""
    tokens = rows_of(*rows)
    width = tokens.shape[1]

    def overlap(a: list[int], b: list[int]) -> bool:
        for size in range(1, width + 1):
            both = len(a) >= size and len(b) >= size
            if not both or (size < 16 and (len(a) != size or len(b) != size)):
                continue
            alike = a[:size] == b[:size] or a[-size:] == b[-size:]
            if (
                a[-size:] == b[:size]
                or a[:size] == b[-size:]
                or (alike and 2 * (width - size) <= width)
            ):
                return True
        return False

    from evals.data.repeats import count_opening

    if count_opening(tokens):
        return
    expected = [overlap(row, rows[0]) for row in rows[1:]]
    assert find_overlaps(tokens[1:], tokens[:1]).tolist() == expected


def form_letters(*secrets: str, tail: str = "") -> list[dict[str, str]]:
    head = "Thank you for your message. We have looked into it and can say that all is well. "
    return [
        {"text": f"{head}Your account number is {one}. {tail}", "secret": one} for one in secrets
    ]


def test_letters_of_one_form_tell_nothing_of_each_others_secrets(tmp_path: Path) -> None:
    """All but the secret is alike, which is far more than half."""
    found = load(tmp_path, form_letters(*(f"DE{at:04d}" for at in range(60))), prefix_length=None)
    assert len(set(group_overlaps(found.tokens).tolist())) == 1
    assert len(set(group_repeats(found).tolist())) == 60
    assert not [note for note in found.notes if note.reason == OVERLAPS]
    held = found.select(slice(0, 6))
    assert np.flatnonzero(find_repeats(found, held)).tolist() == [*range(6)]


def test_equal_secrets_are_one_wherever_they_stand(tmp_path: Path) -> None:
    other = {"text": "Please write DE0001 on the bill.", "secret": "DE0001"}
    found = load(tmp_path, [*form_letters("DE0001", "DE0002"), other])
    assert group_repeats(found).tolist() == [0, 1, 0]
    assert find_repeats(found, found.select([2])).tolist() == [True, False, True]


def test_a_letter_that_quotes_the_secret_of_another_tells_of_it(tmp_path: Path) -> None:
    """Who trains on the second letter trains on the secret of the first, which stands in it before
    its own."""
    first, second = form_letters("DE0001", "DE0002")
    second["text"] = f"{first['text']} {second['text']}"
    (apart,) = form_letters("DE0003")
    found = load(tmp_path, [first, second, apart], prefix_length=None)
    assert group_repeats(found).tolist() == [0, 0, 1]
    assert find_repeats(found, found.select([1])).tolist() == [True, True, False]
    text = tiny_tokenizer()(first["text"], return_tensors="np")["input_ids"].astype(np.int32)
    assert find_repeats(found, text).tolist() == [True, False, False]
