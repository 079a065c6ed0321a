"""Samples: every form loads to the same rows, and whatever is wrong is one clear line."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_tokenizer import TEXT, tiny_tokenizer

from evals.data import describe_samples, hash_row, list_row_warnings, load_samples, open_samples
from evals.data.repeats import find_overlaps, group_overlaps
from surgery.errors import SamplesError
from surgery.hub.datasets import HubDataset
from surgery.reading.corpus import open_corpus

TOKENS = np.arange(5 * 70).reshape(5, 70) % 300


def save(path: Path, array: np.ndarray) -> str:
    np.save(path, array)
    return str(path)


PAIR = ("prefix", "suffix")


def lines(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def message(source: str, **options) -> str:
    with pytest.raises(SamplesError) as error:
        load_samples(source, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


# ------------------------------------------------------------------------------------ the forms


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.int64, np.uint64])
def test_npy_of_any_integer_type(tmp_path, dtype):
    samples = load_samples(save(tmp_path / "s.npy", TOKENS.astype(dtype)))
    assert samples.tokens.dtype == np.int32
    assert samples.tokens.tolist() == TOKENS[:, :64].tolist()
    assert (samples.prefix_length, samples.suffix_length) == (32, 32)
    assert samples.ids == ("0", "1", "2", "3", "4")
    assert samples.counts is None
    assert samples.members is None


def test_prefix_and_suffix_lengths_are_free(tmp_path):
    source = save(tmp_path / "s.npy", TOKENS)
    samples = load_samples(source, prefix_length=1, suffix_length=69)
    assert samples.prefixes.tolist() == TOKENS[:, :1].tolist()
    assert samples.suffixes.tolist() == TOKENS[:, 1:].tolist()


def test_a_pair_of_arrays_has_its_own_lengths(tmp_path):
    pair = ",".join(
        (save(tmp_path / "p.npy", TOKENS[:, :50]), save(tmp_path / "s.npy", TOKENS[:, 50:]))
    )
    samples = load_samples(pair)
    assert samples.tokens.tolist() == TOKENS.tolist()
    assert samples.prefix_length == 50
    # Shorter lengths keep what is next to the seam.
    samples = load_samples(pair, prefix_length=3, suffix_length=2)
    assert samples.tokens.tolist() == TOKENS[:, 47:52].tolist()


def rows_of_every_column() -> list[dict]:
    return [
        {"id": f"row-{i}", "tokens": row.tolist(), "count": i, "member": i > 0, "other": None}
        for i, row in enumerate(TOKENS)
    ]


def check_every_column(samples):
    assert samples.tokens.tolist() == TOKENS[:, :64].tolist()
    assert samples.ids == tuple(f"row-{i}" for i in range(5))
    assert samples.counts.tolist() == [0, 1, 2, 3, 4]
    assert samples.members.tolist() == [False, True, True, True, True]


def test_json_lines_with_id_count_and_member(tmp_path):
    check_every_column(load_samples(lines(tmp_path / "s.jsonl", rows_of_every_column())))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.large_list(pa.uint16()), pa.list_(pa.int32(), 70)]
)
def test_parquet_with_any_kind_of_list(tmp_path, kind):
    table = pa.Table.from_pylist(rows_of_every_column())
    tokens = pa.array(TOKENS.tolist(), type=kind)
    table = table.set_column(table.column_names.index("tokens"), "tokens", tokens)
    pq.write_table(table, tmp_path / "s.parquet", row_group_size=2)
    check_every_column(load_samples(str(tmp_path / "s.parquet")))


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_parquet_with_any_kind_of_text(tmp_path, kind):
    texts = pa.array(["the quick brown fox jumps"] * 3)
    column = texts.dictionary_encode() if pa.types.is_dictionary(kind) else texts.cast(kind)
    pq.write_table(pa.table({"text": column}), tmp_path / "s.parquet")
    options = {"tokenizer": tiny_tokenizer(), "prefix_length": 2, "suffix_length": 2}
    found = load_samples(str(tmp_path / "s.parquet"), **options)
    lines(tmp_path / "s.jsonl", [{"text": text} for text in texts.to_pylist()])
    assert found.sha256 == load_samples(str(tmp_path / "s.jsonl"), **options).sha256


def test_a_data_set_with_split_and_column(tmp_path):
    folder = tmp_path / "evals"
    folder.mkdir()
    table = pa.Table.from_pylist(rows_of_every_column()).rename_columns(
        ["id", "ids_here", "count", "member", "other"]
    )
    pq.write_table(table, folder / "train.parquet")
    samples = load_samples(f"hf:{folder}:train:ids_here")
    check_every_column(samples)
    assert samples.source == "hf:evals:train:ids_here"  # of a folder, not where it is


def test_text_is_tokenized_whole_and_cut(tmp_path):
    tokenizer = tiny_tokenizer()
    source = lines(tmp_path / "s.jsonl", [{"text": TEXT}, {"text": TEXT[40:]}])
    samples = load_samples(source, tokenizer=tokenizer)
    assert samples.tokens[0].tolist() == tokenizer(TEXT)["input_ids"][:64]
    assert samples.tokens[1].tolist() == tokenizer(TEXT[40:])["input_ids"][:64]


def test_a_text_whose_cut_tokenizes_otherwise_is_kept_and_reported(tmp_path):
    tokenizer = tiny_tokenizer()
    text = "é" * 20  # two bytes, two tokens a letter: a cut in the middle is no text at all
    length = len(tokenizer("é")["input_ids"])
    assert length == 2
    source = lines(tmp_path / "s.jsonl", [{"text": text}, {"text": TEXT}])
    samples = load_samples(source, tokenizer=tokenizer, prefix_length=2, suffix_length=3)
    assert samples.tokens[0].tolist() == tokenizer(text)["input_ids"][:5]
    assert [(note.id, note.kept) for note in samples.notes] == [("0", True)]
    assert (
        samples.notes[0].reason == "its first 5 tokens, as text, tokenize differently on their own"
    )


def test_pairs_of_text_meet_at_their_seam_or_are_left_out(tmp_path):
    tokenizer = tiny_tokenizer()
    rows = [
        {"id": "good", "prefix": "the quick brown fox", "suffix": " jumps over the lazy dog"},
        {"id": "torn", "prefix": "the quick brown fo", "suffix": "x jumps over the lazy dog"},
    ]
    whole = tokenizer("the quick brown fox jumps over the lazy dog")["input_ids"]
    prefix = tokenizer("the quick brown fox")["input_ids"]
    samples = load_samples(
        lines(tmp_path / "s.jsonl", rows), tokenizer=tokenizer, prefix_length=2, suffix_length=3
    )
    assert samples.ids == ("good",)
    assert samples.tokens[0].tolist() == whole[len(prefix) - 2 : len(prefix) + 3]
    assert [(note.id, note.kept) for note in samples.notes] == [("torn", False)]


def test_pairs_of_token_lists(tmp_path):
    rows = [{"prefix": row[:40].tolist(), "suffix": row[40:].tolist()} for row in TOKENS]
    samples = load_samples(lines(tmp_path / "s.jsonl", rows), suffix_length=30)
    assert samples.tokens.tolist() == TOKENS[:, 8:70].tolist()


def test_hashes_are_of_little_endian_int32(tmp_path):
    samples = load_samples(save(tmp_path / "s.npy", TOKENS))
    raw = TOKENS[:, :64].astype("<i4")
    assert samples.sha256 == hashlib.sha256(raw.tobytes()).hexdigest()
    assert samples.hashes[2] == hashlib.sha256(raw[2].tobytes()).hexdigest()
    assert hash_row(samples.tokens[2]) == samples.hashes[2]


def test_selecting_rows_keeps_their_columns_together(tmp_path):
    samples = load_samples(lines(tmp_path / "s.jsonl", rows_of_every_column()))
    some = samples.select(samples.members)
    assert some.ids == ("row-1", "row-2", "row-3", "row-4")
    assert some.counts.tolist() == [1, 2, 3, 4]
    assert some.tokens.tolist() == TOKENS[1:, :64].tolist()


def told(samples) -> list[tuple[str, bool]]:
    return [(note.id, note.kept) for note in samples.notes]


@pytest.mark.parametrize("counted", [True, False])
def test_equal_rows_are_one_passage_with_their_counts_added(tmp_path, counted):
    """200 copies of a passage say no more than one; what follows the cut makes no difference."""
    rows = [{"tokens": TOKENS[at, : 64 + at].tolist()} for at in (0, 1, 0, 2, 0)]
    for count, row in enumerate(rows, 1):
        row |= {"id": f"row-{count}", "member": count > 1} | ({"count": count} if counted else {})
        row["tokens"].append(count)
    samples = load_samples(lines(tmp_path / "s.jsonl", rows))
    assert samples.tokens.tolist() == TOKENS[:3, :64].tolist()
    assert samples.ids == ("row-1", "row-2", "row-4")
    assert told(samples) == [("row-3", False), ("row-5", False)]
    assert samples.members.tolist() == [True] * 3, "whichever copy says so"
    assert (samples.counts.tolist() if counted else samples.counts) == (
        [9, 2, 4] if counted else None
    )
    assert samples.untested.tolist() == [1, 2, 3]
    longer, warning = list_row_warnings(describe_samples(samples))
    assert longer == (
        "3 passages are longer than prefix and suffix, by up to 3 tokens, which are not tested; "
        "mark what must not come out with `secret`"
    )
    assert warning == (
        "2 rows left out, the first 'row-3': its tokens equal an earlier row's, so the two count "
        "as one passage"
    )


@pytest.mark.parametrize(("stride", "overlap"), [(16, True), (48, True), (49, False), (64, False)])
def test_windows_of_one_text_that_overlap_are_told(tmp_path, stride, overlap):
    text = np.random.default_rng(2).integers(0, 1000, 300)
    rows = np.stack([text[at : at + 64] for at in range(0, 237, stride)] + [np.full(64, 5)])
    samples = load_samples(save(tmp_path / "s.npy", rows))
    assert len(samples) == len(rows)
    assert told(samples) == [(str(at), True) for at in range(len(rows) - 1) if overlap]
    warnings = list_row_warnings(describe_samples(samples))
    assert len(warnings) == int(overlap)
    text = f"{len(rows) - 1} rows kept with a reservation, the first '0': it overlaps another row"
    assert all(warning.startswith(text) for warning in warnings)


@pytest.mark.parametrize("opening", [1, 2])
def test_tokens_that_open_every_row_hide_no_overlap(tmp_path, opening):
    text = np.random.default_rng(2).integers(0, 1000, 300)
    rows = np.stack([text[at : at + 64] for at in range(0, 237, 46)])
    rows = np.concatenate([np.full((len(rows), opening), 2), rows], axis=1)
    samples = load_samples(save(tmp_path / "s.npy", rows), prefix_length=32, suffix_length=32)
    assert told(samples) == [(str(at), True) for at in range(len(rows))]


@given(arrays(np.int32, (6, 20), elements=st.integers(0, 1)), st.integers(1, 5))
def test_overlaps_are_those_that_a_search_by_hand_finds(rows, number):
    rows[1], rows[3, :18] = rows[4], rows[5, 2:]
    expected = [
        any(overlap(rows, one, other) for other in range(number, 6)) for one in range(number)
    ]
    assert find_overlaps(rows[:number], rows[number:]).tolist() == expected


def overlap(rows, one, other):
    opening = next((at for at in range(2) if len(set(rows[:, at])) > 1), 2)
    one, other = rows[[one, other]].tolist()
    return (
        one[4:] == other[4:]  # they end alike in 16 tokens
        or any(one[at : at + 16] == other[at : at + 16] for at in (0, opening))  # or begin alike
        or any(
            a[k:] == b[first : 20 - k + first]
            for a, b in ((one, other), (other, one))
            for first in (0, opening)
            for k in range(first, 5)
        )
    )


@given(st.integers(0, 63), st.integers(0, 2))
def test_rows_that_differ_in_one_token_overlap(place, opening):
    rows = np.random.default_rng(0).integers(0, 300, (3, 64)).astype(np.int32)
    rows[:, :opening] = 1
    rows[1] = rows[0]
    rows[1, place] += 300
    assert find_overlaps(rows[:1], rows[1:]).all()
    assert find_overlaps(rows[1:], rows[:1]).tolist() == [True, False]
    assert group_overlaps(rows).tolist() == [0, 0, 1]


@given(arrays(np.int32, (7, 20), elements=st.integers(0, 1)))
def test_rows_that_overlap_are_in_one_group(rows):
    rows[1], rows[3, :18], rows[6, :17] = rows[4], rows[5, 2:], rows[3, 3:]
    pairs = list(itertools.combinations(range(7), 2))
    chains = {one: {one} for one in range(7)}
    for one, other in (pair for pair in pairs if overlap(rows, *pair)):
        joined = chains[one] | chains[other]
        chains |= dict.fromkeys(joined, joined)
    groups = group_overlaps(rows)
    for one, other in pairs:
        assert (groups[one] == groups[other]) == (other in chains[one])


@pytest.mark.parametrize("name", ["pythia", "gpt-neo"])
def test_the_embedded_records_are_all_different(name):
    assert not load_samples(f"lab:{name}").notes


PASSAGES = [f"{word} quick brown fox, jumps\tover the {word} lazy dog" for word in ("a", "an")]
FORMS = {
    "s.txt": "\n\n".join(PASSAGES),
    "s.txt.gz": "\n".join(PASSAGES),
    "s.json": json.dumps([{"text": text} for text in PASSAGES], indent=2),
    "array.jsonl": json.dumps([{"text": text} for text in PASSAGES]),
    "s.jsonl.zst": "".join(json.dumps({"text": text}) + "\n" for text in PASSAGES),
    "bom.txt": "\ufeff" + "\r\n".join(PASSAGES),  # as programs of Windows write it
    "bom.txt.gz": "\ufeff" + "\n".join(PASSAGES),
    "bom.jsonl": "\ufeff" + "".join(json.dumps({"text": text}) + "\r\n" for text in PASSAGES),
    "bom.json": "\ufeff" + json.dumps([{"text": text} for text in PASSAGES]),
    "s.csv": "\ufeffother,text\r\n" + "".join(f'1,"{text}"\r\n' for text in PASSAGES),
    "s.csv.gz": "text\n" + "".join(f'"{text}"\n' for text in PASSAGES),
    "s.tsv": 'text\tother\n"{}"\t1\n"{}"\t2\n'.format(*PASSAGES),
    "s.csv:said": "said\n" + "".join(f'"{text}"\n' for text in PASSAGES),
    "s.jsonl:meta.said": "".join(json.dumps({"meta": {"said": t}}) + "\n" for t in PASSAGES),
}


@pytest.mark.parametrize("form", [*FORMS, "s.parquet:meta.said", "hf", "folder", "folder:said"])
def test_every_form_of_text_is_the_same_passages(tmp_path, form):
    name, _, column = form.partition(":")
    path, rows = tmp_path / name, [{"meta": {"said": text, "n": 1}} for text in PASSAGES]
    source = f"{path}:{column}" if column else str(path)
    if name in ("s.parquet", "hf"):
        source = source if column else f"hf:{tmp_path}:train:meta.said"
        path = path if column else tmp_path / "train.parquet"
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif name == "folder":
        (path / "sub").mkdir(parents=True)
        (path / "README.md").write_text("not a passage")
        for at, text in enumerate(PASSAGES):
            lines(path / "sub" / f"{at}.jsonl", [{column or "text": text}])
    else:
        packing = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
        content = FORMS[form].encode()
        path.write_bytes(pa.compress(content, packing, asbytes=True) if packing else content)
    options = {"tokenizer": tiny_tokenizer(), "prefix_length": 4, "suffix_length": 4}
    found = load_samples(source, **options)
    expected = load_samples(
        lines(tmp_path / "expected.jsonl", [{"text": text} for text in PASSAGES]), **options
    )
    assert found.sha256 == expected.sha256
    assert found.ids == (("0:0", "1:0") if name == "folder" else ("0", "1"))
    assert str(path) not in found.source


def test_ids_of_a_folder_hold_no_name_of_its_files(tmp_path):
    """Files and folders may be named after people. They count in the order of their paths."""
    for at, name in enumerate(("bob/x.jsonl", "alice/y.jsonl", "alice/b.txt.gz", "carol.jsonl")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        rows = [{"text": f"{at} {word} {PASSAGES[0]}"} for word in ("one", "two")]
        text = "\n".join(row["text"] for row in rows)
        if ".txt" in name:
            (tmp_path / name).write_bytes(pa.compress(text.encode(), "gzip", asbytes=True))
        else:
            lines(tmp_path / name, rows)
    options = {"tokenizer": tiny_tokenizer(), "prefix_length": 4, "suffix_length": 4}
    found = load_samples(str(tmp_path), **options)
    assert found.ids == tuple(f"{file}:{row}" for file in range(4) for row in range(2))
    alone = load_samples(str(tmp_path / "bob" / "x.jsonl"), **options)
    assert found.hashes[4:6] == alone.hashes


def test_a_table_of_text_has_every_column(tmp_path):
    rows = [
        f'row-{i},"{row.tolist()}",{i},{"TRUE" if i else "False"}' for i, row in enumerate(TOKENS)
    ]
    (tmp_path / "s.csv").write_text("\n".join(["id,tokens,count,member", *rows]))
    check_every_column(load_samples(str(tmp_path / "s.csv")))


def test_mistakes_in_a_table_of_text(tmp_path):
    path = tmp_path / "s.csv"
    for content, text in (
        ("text,count\n1\n", "line 2: not CSV (got 1 columns, and the first line has 2)"),
        ("text,text\n1,2\n", "line 1: not CSV (got two columns have the same name)"),
        ('text\n"a" b\n', "line 2: not CSV (got ',' expected after '\"')"),
        ('text\n"a\n', "line 2: not CSV (got unexpected end of data)"),
        ("text,count\na,many\n", "line 2: cannot be used as samples (got Expecting value"),
    ):
        path.write_text(content)
        assert message(str(path), tokenizer=tiny_tokenizer()).startswith(f"{path} {text}")


# ---------------------------------------------------------------------------------- the mistakes


def test_no_such_file():
    assert message("absent.npy") == "absent.npy: no such file or folder"
    assert message("absent.npy,other.npy") == "absent.npy: no such file or folder"


def test_unknown_form(tmp_path):
    (tmp_path / "s.doc").write_text("1,2")
    assert message(str(tmp_path / "s.doc")) == (
        f"{tmp_path / 's.doc'}: unknown form of samples (expected a folder, a file (.npy, .jsonl, "
        ".json, .csv, .tsv, .parquet, .txt), PREFIX.npy,SUFFIX.npy, hf:DATASET:SPLIT:COLUMN, or "
        "lab:NAME)"
    )


def test_malformed_names(tmp_path):
    assert message("hf:only:two") == "hf:only:two: malformed (expected hf:DATASET:SPLIT:COLUMN)"
    assert message("a.npy,b.npy,c.npy") == (
        "a.npy,b.npy,c.npy: malformed (expected PREFIX.npy,SUFFIX.npy)"
    )


def test_rows_too_short(tmp_path):
    source = lines(tmp_path / "s.jsonl", [{"tokens": [1] * 64}, {"id": 1, "tokens": [1] * 60}])
    assert message(source) == (
        f"{source}: 1 of 2 rows are too short, the first is row 2 ('1') (expected at least 64 "
        "tokens (prefix 32 + suffix 32), got 60); choose `prefix_length=24` `suffix_length=24`, or "
        "leave these rows out with `skip_short`"
    )


def test_only_the_part_that_is_too_short_is_to_be_shorter(tmp_path):
    pairs = [{"prefix": [1] * size, "suffix": [2] * 28} for size in (32, 20)]
    said = message(lines(tmp_path / "s.jsonl", pairs), suffix_length=28)
    assert "choose `prefix_length=16`, or leave these rows out" in said


def test_rows_too_short_are_left_out_on_request(tmp_path):
    rows = [{"tokens": [1] * 60}, {"tokens": [2] * 64}, {"tokens": [3] * 63}]
    samples = load_samples(lines(tmp_path / "s.jsonl", rows), skip_short=True)
    assert (samples.ids, samples.tokens.tolist()) == (("1",), [[2] * 64])
    assert list_row_warnings(describe_samples(samples)) == [
        "2 rows left out, the first '0': it has fewer than 64 tokens (prefix 32 + suffix 32)"
    ]
    text = "the quick brown fox jumps over the lazy dog"
    pairs = [{"prefix": text, "suffix": " " + text}, {"prefix": "the", "suffix": " " + text}]
    source = lines(tmp_path / "p.jsonl", pairs)
    options = {"tokenizer": tiny_tokenizer(), "prefix_length": 4, "suffix_length": 4}
    assert load_samples(source, **options, skip_short=True).ids == ("0",)
    assert message(source, **options).startswith(
        f"{source}: 1 of 2 rows are too short, the first is row 2 ('1') (expected at least 4 prefix"
    )


@pytest.mark.parametrize(
    ("sizes", "says", "tries"),
    [
        ([58, 50, 60], "all 3 rows have fewer than 64 tokens (median 58)", (24, 24)),
        ([58, 3, 60], "all 3 rows have fewer than 64 tokens (median 58)", (24, 24, True)),
        ([9, 9, 10, 3], "all 4 rows have fewer than 64 tokens (median 9)", (4, 4, True)),
        ([1, 0], "all 2 rows have fewer than 64 tokens (median 0.5)", None),
        ([(40, 9), (50, 20)], "all 2 rows have fewer than 32 suffix tokens (median 14.5)", (32, 8)),
        (
            [(40, 9), (20, 40)],
            "all 2 rows have fewer than 32 prefix tokens (median 30) or 32 suffix tokens "
            "(median 24.5)",
            (16, 24, True),
        ),
    ],
)
def test_lengths_that_fit_are_proposed_where_no_row_is_long_enough(tmp_path, sizes, says, tries):
    """And they do fit: every row, unless rows that are much shorter than most are left out."""
    rows = [
        {"tokens": [1] * size}
        if isinstance(size, int)
        else {"prefix": [1] * size[0], "suffix": [2] * size[1]}
        for size in sizes
    ]
    source = lines(tmp_path / "s.jsonl", [{"id": at, **row} for at, row in enumerate(rows)])
    options = dict(zip(("prefix_length", "suffix_length", "skip_short"), tries or (), strict=False))
    named = {
        name: value for name, value in options.items() if (name, value) != ("prefix_length", 32)
    }
    for skip_short in (False, True):  # what is done already is not proposed
        shown = [f"`{n}={value}`" for n, value in named.items() if value is not True]
        shown += ["`skip_short`"] if "skip_short" in named and not skip_short else []
        least = "a test takes 4 tokens of prefix and of suffix at least"
        fix = f"try {' '.join(shown)}" if tries else f"give longer passages: {least}"
        assert message(source, skip_short=skip_short) == f"{source}: {says}; {fix}"
    if tries:
        assert load_samples(source, **options).tokens.shape[1] == sum(tries[:2])


def write_letters(path):
    """A table of a form that its name tells, with passages in a column of another name."""
    columns = {"customer_id": [1.5], "letter": ["the quick brown fox"]}
    row = {name: cells[0] for name, cells in columns.items()}
    if path.suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps([row]))
    elif path.suffix == ".jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        path.write_text("customer_id,letter\n1.5,the quick brown fox\n")
    return path


def test_any_column_may_name_the_rows(tmp_path):
    path = tmp_path / "s.csv"
    text, lines = "word " * 70, tmp_path / "s.txt"
    lines.write_text("a secret, and another\n")
    path.write_text("customer,letter\n" + "".join(f'c{at},"{at} {text}"\n' for at in (7, 9)))
    source = f"{path}:letter"
    found = open_samples(source, id_column="customer")
    assert found.tokenize(tiny_tokenizer()).ids == ("c7", "c9")
    for named, text in (
        (source, "no column 'client' to name rows by; columns found: customer, letter; name the "
         "one to use: `id_column`"),
        (save(tmp_path / "s.npy", TOKENS), "has no columns to name rows by (got client)"),
        (str(lines), "is text, one passage a line, without columns to name passages by; leave out"),
    ):  # fmt: skip
        with pytest.raises(SamplesError) as error:
            open_samples(named, id_column="client")
        assert text in str(error.value)
        assert "secret" not in str(error.value)
    path.write_text('"Customer\nno",letter\nc1,the quick brown fox\n')
    with pytest.raises(SamplesError, match="a line break or another control character"):
        open_samples(source, id_column="Customer\nno")


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "parquet"])
def test_the_columns_of_a_table_without_the_right_one_are_named(tmp_path, form):
    """For passages and for other text. And then the name of the right one serves."""
    path = write_letters(tmp_path / f"s.{form}")
    found = "columns found: customer_id, letter; name the one to use: FILE:COLUMN"
    assert message(str(path)) == (
        f"{path}: no passages (expected columns tokens, prefix and suffix, or text); {found}"
    )
    assert message(f"{path}:leter") == f"{path}:leter: no column 'leter'; {found}"
    with pytest.raises(SamplesError, match=f"no such column.; {found}"):
        open_corpus([path])
    given = {"tokenizer": tiny_tokenizer(), "prefix_length": 1, "suffix_length": 1}
    assert load_samples(f"{path}:letter", **given).tokens.shape == (1, 2)


def test_rows_too_short_or_torn(tmp_path):
    pairs = [{"prefix": "the qu", "suffix": "ick brown"}, {"prefix": "the", "suffix": " quick"}]
    source = lines(tmp_path / "p.jsonl", pairs)
    assert message(
        source, tokenizer=tiny_tokenizer(), prefix_length=1, suffix_length=9, skip_short=True
    ).startswith(
        f"{source}: 1 of 2 rows have fewer than 9 suffix tokens (median 1), and in the others "
        "prefix and suffix tokenize differently where they meet; give longer passages"
    )


@pytest.mark.parametrize("name", ["prefix", "suffix"])
def test_lengths_below_one(tmp_path, name):
    source = save(tmp_path / "s.npy", TOKENS)
    assert message(source, **{f"{name}_length": 0}) == (
        f"wrong {name} length (expected at least 1 token, got 0)"
    )


def test_pairs_of_different_number_or_too_short(tmp_path):
    prefix = save(tmp_path / "p.npy", TOKENS[:, :40])
    suffix = save(tmp_path / "s.npy", TOKENS[:4, 40:])
    assert message(f"{prefix},{suffix}") == (
        f"{prefix},{suffix}: prefixes and suffixes differ in number (expected 5 suffixes, got 4)"
    )
    suffix = save(tmp_path / "s.npy", TOKENS[:, 40:])
    expected = "all 5 rows have fewer than 41 prefix tokens (median 40); try `prefix_length=40`"
    assert expected in message(f"{prefix},{suffix}", prefix_length=41)


@pytest.mark.parametrize(
    ("array", "got"),
    [
        (TOKENS.astype(np.float32), "float32 [5, 70]"),
        (TOKENS.astype(bool), "bool [5, 70]"),
        (TOKENS[0], "int64 [70]"),
    ],
)
def test_arrays_that_are_not_token_ids(tmp_path, array, got):
    source = save(tmp_path / "s.npy", array)
    assert message(source) == (
        f"{source}: not token ids (expected integers [rows, tokens], got {got})"
    )


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_json_lines(tmp_path, content):
    (tmp_path / "s.jsonl").write_text(content)
    assert message(str(tmp_path / "s.jsonl")) == (
        f"{tmp_path / 's.jsonl'}: no rows (expected at least one)"
    )


def test_empty_array_and_empty_file(tmp_path):
    source = save(tmp_path / "s.npy", TOKENS[:0])
    assert message(source) == f"{source}: no rows (expected at least one)"
    pq.write_table(pa.table({"tokens": pa.array([], pa.list_(pa.int32()))}), tmp_path / "s.parquet")
    assert "no rows (expected at least one)" in message(str(tmp_path / "s.parquet"))
    (tmp_path / "t.npy").write_bytes(b"")
    assert "cannot be read as an array of numbers" in message(str(tmp_path / "t.npy"))
    (tmp_path / "t.parquet").write_bytes(b"")
    assert "cannot be read as parquet" in message(str(tmp_path / "t.parquet"))


def test_broken_json_names_its_line(tmp_path):
    (tmp_path / "s.jsonl").write_text('{"tokens": [1]}\n{"tokens"\n')
    assert message(str(tmp_path / "s.jsonl")).startswith(
        f"{tmp_path / 's.jsonl'} line 2: not JSON (got "
    )
    (tmp_path / "s.jsonl").write_bytes(b"\xff\xfe")
    assert "line 1: cannot be read (got 'utf-8' codec" in message(str(tmp_path / "s.jsonl"))


def test_columns_that_are_not_what_they_should_be(tmp_path):
    path = tmp_path / "s.jsonl"
    row = [1] * 64
    assert message(lines(path, [{"words": "a"}])) == (
        f"{path}: no passages (expected columns tokens, prefix and suffix, or text); columns "
        "found: words; name the one to use: FILE:COLUMN"
    )
    at = f"{path} line 2: cannot be used as samples (got"
    assert message(lines(path, [{"tokens": row}, {"id": 2}])) == f"{at} no 'tokens')"
    for label in ({"member": False}, {"count": 3}, {"duplicates": 0}):
        rows = [{"tokens": row}, {"tokens": row, **label}]
        name = next(iter(label)).replace("duplicates", "count")
        assert message(lines(path, rows)) == f"{at} {name!r}, which the first row lacks)"
    for wrong in (1.5, True):
        assert message(lines(path, [{"tokens": row}, {"tokens": [wrong] * 64}])) == (
            f"{at} 'tokens' is a list with entries that are not token ids)"
        )
    for wrong in ({"a": 1}, 5):
        assert "column 'text' (expected" in message(lines(path, [{"text": wrong}, {"text": "a"}]))
    assert message(lines(path, [{"tokens": row}, {"tokens": "text"}])) == (
        f"{path}: column 'tokens' (expected text in every row, or a list of token ids in every "
        "row, got ndarray and str, first in row 2)"
    )
    assert message(lines(path, [{"prefix": "text", "suffix": row}])) == (
        f"{path}: prefix and suffix must both be text or both be token ids"
    )
    for name, value, got in (
        ("count", -1, "input should be greater than or equal to 0"),
        ("count", 2**63, f"input should be less than {2**63}"),
        ("member", 1, "input should be a valid boolean"),
        ("id", 1.5, "input should be a valid string"),
    ):
        good = {"tokens": row, "count": 0, "member": True, "id": "a"}
        assert message(lines(path, [good, {**good, "id": "b", name: value}])) == (
            f"{path}: column {name!r}, row 2 (got {got})"
        )
    assert message(lines(path, [{"tokens": row, "id": 7}, {"tokens": row, "id": "7"}])) == (
        f"{path}: ids are not unique (got '7' 2 times, first in rows 1 and 2); name the rows by "
        "another column with `id_column`"
    )
    for wrong in (-3, 2**31, 2**40):
        rows = [{"tokens": row}, {"tokens": [wrong] * 64}]
        assert message(lines(path, rows)) == f"{path}: not a token id in row 2 ('1') (got {wrong})"


def test_a_pair_goes_before_the_text_around_it(tmp_path):
    """Whoever names where a passage begins does not mean the beginning of the document."""
    at = TEXT.index(" ", 40)
    row = {"text": "far " * 40 + TEXT, "prefix": TEXT[:at], "suffix": TEXT[at:]}
    both, pair = (
        lines(tmp_path / name, [one])
        for name, one in (("both.jsonl", row), ("pair.jsonl", {k: row[k] for k in PAIR}))
    )
    options = {"tokenizer": tiny_tokenizer(), "prefix_length": 4, "suffix_length": 4}
    found = load_samples(both, **options)
    assert found.tokens.tolist() == load_samples(pair, **options).tokens.tolist()


@pytest.mark.parametrize("name", ["count", "duplicates"])
def test_what_a_model_never_saw_is_no_member(tmp_path, name):
    rows = [{"tokens": [at] * 64, name: at % 3} for at in range(1, 7)]
    samples = load_samples(lines(tmp_path / "s.jsonl", rows))
    assert samples.members.tolist() == [True, True, False, True, True, False]
    assert samples.counts.tolist() == [1, 2, 0, 1, 2, 0]
    told = load_samples(lines(tmp_path / "t.jsonl", [{**row, "member": True} for row in rows]))
    assert told.members.all(), "who says so knows better"
    seen = load_samples(lines(tmp_path / "u.jsonl", [row for row in rows if row[name]]))
    assert seen.members is None


@pytest.mark.parametrize("name", ["count", "duplicates"])
@pytest.mark.parametrize("comma", [",", "\t"])
def test_counts_of_a_csv_are_text_that_is_read_as_numbers(tmp_path, name, comma):
    line = " ".join(TEXT.replace(",", "").split())
    file = tmp_path / ("s.csv" if comma == "," else "s.tsv")
    file.write_text(f"text{comma}{name}\n{line[:80]}{comma}3\n{line[90:170]}{comma}0\n")
    options = {"tokenizer": tiny_tokenizer(), "prefix_length": 4, "suffix_length": 4}
    assert load_samples(str(file), **options).counts.tolist() == [3, 0]


def test_text_without_a_tokenizer(tmp_path):
    source = lines(tmp_path / "s.jsonl", [{"text": "a"}])
    assert message(source) == (
        f"{source}: text needs a tokenizer (got a model without one); give samples as token ids, "
        "or a model with its tokenizer"
    )


def test_a_file_whose_every_row_is_left_out(tmp_path):
    source = lines(tmp_path / "s.jsonl", [{"prefix": "the quick brown fo", "suffix": "x jumps"}])
    assert message(source, tokenizer=tiny_tokenizer()) == (
        f"{source}: no row can be used (got prefix and suffix tokenize differently where they meet)"
        "; a shorter `prefix_length` or `suffix_length` may help"
    )


@pytest.fixture
def dead_hub(tmp_path, monkeypatch):
    """No network, and a cache of data sets that holds nobody/something: texts, split train."""
    import datasets

    cache = tmp_path / "cache"
    pq.write_table(
        pa.table({"text": [f"{word} quick brown fox" for word in ("a", "b", "c")]}),
        tmp_path / "t.parquet",
    )
    files = {"train": str(tmp_path / "t.parquet")}
    data = datasets.load_dataset("parquet", data_files=files, cache_dir=str(cache), split="train")
    made = Path(data.cache_files[0]["filename"])
    kept = cache / "nobody___something" / "default" / "0.0.0" / ("0" * 40)
    kept.mkdir(parents=True)
    shutil.copy(made, kept / "something-train.arrow")
    info = json.loads((made.parent / "dataset_info.json").read_text())
    info.update(dataset_name="something", config_name="default", builder_name="parquet")
    (kept / "dataset_info.json").write_text(json.dumps(info))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(cache))
    for module in ("datasets.config", "huggingface_hub.constants"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")


def test_an_unreachable_hub_is_said_at_once(dead_hub):
    started = time.monotonic()
    text = message("hf:nobody/nothing:train:text")
    assert text.startswith("hf:nobody/nothing:train:text: the data set cannot be loaded (got Could")
    with pytest.raises(SamplesError, match="cannot be loaded"):
        next(HubDataset("nobody/nothing", "train", "text").read_tables())
    assert time.monotonic() - started < 15  # its own client would try for half a minute, twice


def test_a_data_set_that_was_downloaded_needs_no_hub(dead_hub):
    options = {"tokenizer": tiny_tokenizer(), "prefix_length": 2, "suffix_length": 2}
    assert len(load_samples("hf:nobody/something:train:text", **options)) == 3


def test_a_data_set_that_is_not_there(tmp_path):
    assert "the data set cannot be loaded" in message(f"hf:{tmp_path / 'none'}:train:tokens")
    folder = tmp_path / "evals"
    folder.mkdir()
    pq.write_table(pa.table({"ids": [[1] * 64]}), folder / "train.parquet")
    assert message(f"hf:{folder}:train:tokens") == (
        f"hf:{folder}:train:tokens: no such column (expected ids, got tokens)"
    )


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (
            (280, 64),
            "token ids beyond the model's vocabulary in 1 rows, the first in row '4' (expected ids "
            "below 280, got 280); use samples made with this model's tokenizer",
        ),
        (
            (300, 48),
            "rows longer than the model's context (expected prefix + suffix of at most 48 tokens, "
            "got 64); choose a smaller prefix or suffix length",
        ),
    ],
)
def test_passages_that_do_not_fit_the_model(tmp_path, size, text):
    samples = load_samples(save(tmp_path / "s.npy", TOKENS))
    with pytest.raises(SamplesError) as error:
        samples.check_fits(*size)
    assert str(error.value) == f"{samples.source}: {text}"
