"""Contract: commands test marked secrets whole, say where passages are cut, and show no secret.

`--secret` marks them for every command that takes samples. What they write holds no text of a
passage unless --show-text asks for it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml
from command_line import attn_surgery
from results import read_report
from tiny_tokenizer import save_tiny

from cli.main import main

NUMBERS = [f"{7919 * at + 100003:06d}" for at in range(20)]
LINE = "the quick brown fox jumps over the lazy dog"
TEXTS = [f"{at} {LINE}, account {number}, and so on" for at, number in enumerate(NUMBERS)]
REGEX = "account ([0-9]+)"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "model")
    rows = [
        {"id": f"c{at}", "text": text, "secret": number}
        for at, (text, number) in enumerate(zip(TEXTS, NUMBERS, strict=True))
    ]
    (folder / "marked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = [{"id": row["id"], "text": row["text"]} for row in rows]
    (folder / "plain.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain))
    (folder / "heldout.txt").write_text("def first(values): return value\n" * 300)
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


def assert_silent(*files: Path | str) -> None:
    """None of the files, or texts, holds a secret."""
    for file in files:
        text = file if isinstance(file, str) else file.read_text(errors="replace")
        assert not [number for number in NUMBERS if number in text], file


def test_init_places_the_window_and_shows_where(tmp_path: Path) -> None:
    call = ("init", "model", "--heldout", "heldout.txt", "--output", tmp_path / "job.yaml")
    found = attn_surgery(*call, "--samples", "marked.jsonl")
    assert found.code == 0, found.stderr
    assert "with all tokens before their secrets and these as suffixes, of " in found.stdout
    begin = TEXTS[0].index(NUMBERS[0])
    placed = rf"c0: prefix of \d+ tokens, characters 0 to ({begin - 1}|{begin}); suffix of \d"
    assert re.search(placed, found.stdout), found.stdout
    assert "which a model is given" not in found.stderr
    assert_silent(found.stdout, found.stderr, tmp_path / "job.yaml")
    job = yaml.safe_load((tmp_path / "job.yaml").read_text())
    assert "prefix-length" not in job
    assert "suffix-length" not in job
    assert "secret" not in job


def test_init_writes_the_expression_and_shows_text_on_request(tmp_path: Path) -> None:
    call = ("init", "model", "--samples", "plain.jsonl", "--secret", REGEX, "--show-text")
    call += ("--heldout", "heldout.txt")
    found = attn_surgery(*call, "--output", tmp_path / "job.yaml")
    assert found.code == 0, found.stderr
    assert f"suffix: '{NUMBERS[0]}'" in found.stdout or f"suffix: ' {NUMBERS[0]}'" in found.stdout
    assert NUMBERS[3] not in found.stdout  # three passages are enough
    command = main.get_command(click.Context(main), "mitigate")
    assert command is not None
    context = command.make_context("mitigate", ["--config", str(tmp_path / "job.yaml")])
    request = command.fill(context)
    assert (request.passages.secret, request.passages.suffix_length) == (REGEX, None)
    assert yaml.safe_load(request.to_config())["passages"]["secret"] == REGEX
    shown = attn_surgery(*call, "--output", tmp_path / "2.yaml", "--json").json
    assert [cut["id"] for cut in shown["cuts"]] == ["c0", "c1", "c2"]
    assert shown["cuts"][0]["text"][1].strip() == NUMBERS[0]


def test_a_number_in_the_prefix_is_told(tmp_path: Path) -> None:
    """As of a passage cut in the middle, whose number the model is given, wholly or in part."""
    call = ("init", "model", "--samples", "plain.jsonl", "--output", tmp_path / "job.yaml")
    cut = ("--prefix-length", "24", "--suffix-length", "4")
    found = attn_surgery(*call, *cut)
    assert "warning: in 20 passages, the prefix, which a model is given, holds a number" in (
        found.stderr
    )
    assert "mark it with --secret" in found.stderr
    assert "c0: prefix of 24 tokens, characters 0 to" in found.stdout
    assert_silent(found.stdout, found.stderr)
    fine = attn_surgery(*call, "--overwrite", "--prefix-length", "8", "--suffix-length", "16")
    assert "which a model is given" not in fine.stderr


def test_following_the_warning_ends_it(tmp_path: Path) -> None:
    """Passages go on after the suffix: marked, they do no longer, and nothing is proposed again."""
    call = ("init", "model", "--samples", "plain.jsonl", "--output", tmp_path / "job.yaml")
    first = attn_surgery(*call, "--prefix-length", "8", "--suffix-length", "8")
    assert "mark it with --secret or a column secret" in first.stderr
    second = attn_surgery(*call, "--overwrite", "--secret", REGEX)
    assert "go on after that" not in second.stderr
    assert "--secret" not in second.stderr


def test_one_rule_for_columns_without_a_name(tmp_path: Path) -> None:
    file = tmp_path / "some.csv"
    rows = [f'c{at},"{text}"' for at, text in enumerate(TEXTS)]
    file.write_text("\n".join(["customer_id,letter", *rows]))
    found = attn_surgery("init", "model", "--samples", file, "--dry-run")
    assert f"columns: customer_id, letter; passages from {file}:letter; ids: cust" in found.stdout


def test_one_passage_proves_nothing(tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(TEXTS[0])
    found = attn_surgery("init", "model", "--samples", tmp_path / "one.txt", "--output",
                         tmp_path / "job.yaml")  # fmt: skip
    assert found.stdout.startswith("1 passage of ")
    assert "one passage proves nothing" in found.stderr


def test_lengths_that_test_nothing_are_not_proposed(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("the\nfox\nthe quick\n")
    found = attn_surgery("extract", "model", "--samples", tmp_path / "short.txt")
    found.assert_error("give longer passages: a test takes 4 tokens")
    assert "--prefix-length" not in found.stderr


def extract(*more: object) -> Any:
    found = attn_surgery("extract", "model", "--heldout", "heldout.txt", *more)
    assert found.code == 0, found.stderr
    return found


def test_a_column_and_an_expression_test_the_same(tmp_path: Path) -> None:
    cut = ("--prefix-length", "8", "--metrics", "full", "--json")
    rows = ("--rows", tmp_path / "rows.jsonl")
    marked = extract("--samples", "marked.jsonl", *cut, *rows)
    found = extract("--samples", "plain.jsonl", "--secret", REGEX, *cut)
    one, other = read_report(marked), read_report(found)
    assert one.samples.source != other.samples.source
    source = {"source": other.samples.source}
    assert one.samples.model_copy(update=source) == other.samples
    assert (one.samples.secrets, one.samples.rows) == (True, len(TEXTS))
    assert one.figures == other.figures
    assert_silent(marked.stdout, marked.stderr, found.stdout, tmp_path / "rows.jsonl")
    text = tmp_path / "text.jsonl"
    extract("--samples", "marked.jsonl", "--prefix-length", "8", "--rows", text, "--show-text")
    first = json.loads(text.read_text().splitlines()[0])
    assert first["suffix"].strip() == NUMBERS[0]
    assert NUMBERS[0] not in first["prefix"]
    table = extract("--samples", "marked.jsonl", "--prefix-length", "8").stdout
    assert "up to 8 tokens of prefix, secrets of up to" in table


def test_a_wrong_expression_is_one_line() -> None:
    for command in (
        ("extract", "model", "--samples", "plain.jsonl"),
        ("init", "model", "--samples", "plain.jsonl"),
    ):
        attn_surgery(*command, "--secret", "(").assert_error("--secret: is no regular expression")


@pytest.mark.slow
def test_results_hold_no_secret(tmp_path: Path) -> None:
    """From a cut to its report: files, tables, and messages."""
    attn_surgery("export", "model", "--drop-attn", "1", "--output", tmp_path / "OUT")
    found = attn_surgery(
        "evaluate", tmp_path / "OUT", "--baseline", "model", "--samples", "plain.jsonl",
        "--secret", REGEX, "--prefix-length", "8", "--heldout", "heldout.txt",
        "--attack", "cheap", "--suite", "none",
    )  # fmt: skip
    assert found.code in (0, 3, 4), found.stderr
    files = [path for path in (tmp_path / "OUT").rglob("*") if path.is_file()]
    assert {"report.json", "report.html"} <= {path.name for path in files}
    assert_silent(found.stdout, found.stderr, *files)
    page = (tmp_path / "OUT" / "report.html").read_text()
    assert "all that stands before the secret in a passage" in page


@pytest.mark.slow
def test_an_erasing_of_secrets_shows_none(tmp_path: Path) -> None:
    words = " ".join(f"word{at} and {at * at}" for at in range(9000))
    (tmp_path / "text.txt").write_text(words)
    cut = ("--samples", "plain.jsonl", "--secret", REGEX)
    out = tmp_path / "erased"
    made = attn_surgery("erase", "model", "--drop-attn", "0-1", "--variant", "zero", *cut,
                        "--prefix-length", "8", "--text", tmp_path / "text.txt", "--steps", "2",
                        "--output", out)  # fmt: skip
    assert made.code == 0, made.stderr
    assert_silent(*(path for path in out.rglob("*.json")))
