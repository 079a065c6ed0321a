"""Contract: `init` writes a file that `mitigate` takes as it is. Its lengths and columns fit."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import click
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from command_line import attn_surgery
from tiny_tokenizer import save_tiny

from cli.main import main
from evals.data.columns import _ID
from evals.table.limits import find_smallest

LINE = "the quick brown fox jumps over the lazy dog "
NUMBER = 40


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, and letters in a table whose columns have names of their own."""
    folder = tmp_path_factory.mktemp("place")
    save_tiny(folder / "model")
    rows = [f'client-{at},{at}@x.org,"{at} {LINE * (1 + (at > 0))}"' for at in range(NUMBER)]
    (folder / "letters.csv").write_text("\n".join(["customer_id,email,letter", *rows]))
    (folder / "heldout.txt").write_text(LINE * 200)
    return folder


def test_the_file_is_a_job_that_fits(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    file = tmp_path / "job.yaml"
    (place / "texts").mkdir()
    (place / "texts" / "some.txt").write_text(LINE.upper() * 200)
    arguments = ["model", "--samples", "letters.csv", "--corpus", "heldout.txt", "--output", file]
    arguments += ["--calibration", "texts"]
    found = attn_surgery("init", *arguments, "--json").json
    assert found["samples"] == "letters.csv:letter"
    assert found["columns"] == ["customer_id", "email", "letter"]
    assert found["id_column"] == "customer_id", "and not the address, which reports would show"
    assert found["n"] == NUMBER
    tested, length = found["prefix_length"] + found["suffix_length"], found["length"]
    assert length["min"] < tested <= length["median"]
    assert found["usable"] == found["members"] == NUMBER - 1
    assert found["longer"] == NUMBER - 1
    rest = length["max"] - tested
    assert found["most_untested"] == rest > 0
    assert f"go on after that, by up to {rest} tokens" in file.read_text()
    (split,) = (one for one in found["splits"] if one["choose"] == found["choose"])
    assert split["held_back_limit"] == find_smallest(split["held_back"])
    assert yaml.safe_load(file.read_text())["choose"] == found["choose"]
    command = main.get_command(click.Context(main), "mitigate")
    assert command is not None
    context = command.make_context("mitigate", ["--config", str(file)])
    request = command.fill(context)
    assert context.params["output"] == Path("OUT")
    assert (request.passages.samples, request.passages.id_column) == (
        "letters.csv:letter",
        "customer_id",
    )
    assert request.passages.prefix_length == found["prefix_length"]
    assert [str(one) for one in request.texts.calibration] == ["texts"]
    assert "# text: [texts]" in file.read_text()
    dry = attn_surgery("mitigate", "--config", file, "--no-benchmarks", "--dry-run", "--json")
    assert dry.code == 0, dry
    assert not (place / "OUT").exists()

    attn_surgery("init", *arguments).assert_error(str(file), "--overwrite")
    less = attn_surgery("init", *arguments[:3], "--output", tmp_path / "less.yaml")
    assert f"held-out text: add `heldout: [FILE]` to {tmp_path / 'less.yaml'} first" in less.stderr
    again = attn_surgery("init", *arguments, "--overwrite", "--max-extraction", 0.2)
    assert again.code == 0
    assert f"warning: {NUMBER - 1} of them go on after that, by up to {rest} tokens" in again.stderr
    assert "39 can be used" in again.stdout
    assert re.search(r"0\.5.* 20: ", again.stdout)
    assert "(proposed)" in again.stdout
    assert (
        "to show that at most 20% is recovered: 14 passages, none recovered; you have enough"
        in (again.stdout)
    )
    assert LINE not in again.stdout + file.read_text()
    assert yaml.safe_load(file.read_text())["max-extraction"] == 0.2


@pytest.mark.parametrize(("short", "suffix"), [(NUMBER // 2, 32), (NUMBER, 4)])
def test_short_passages_do_not_make_a_weak_test_of_long_ones(
    place: Path, tmp_path: Path, short: int, suffix: int
) -> None:
    """They are left out, unless most are short: then it warns."""
    rows = [LINE[:40] if at < short else f"{at} {LINE * 8}" for at in range(NUMBER)]
    (tmp_path / "some.txt").write_text("\n".join(rows))
    found = attn_surgery("init", place / "model", "--samples", tmp_path / "some.txt",
                         "--output", tmp_path / "job.yaml")  # fmt: skip
    assert f"and {suffix} of suffix" in found.stdout, found.stdout
    assert ("warning: a model may guess" in found.stderr) == (suffix < 16)


def initialize(place: Path, file: Path, *options: object) -> Any:
    outcome = attn_surgery("init", place / "model", "--samples", file, "--output",
                           file.with_suffix(".yaml"), "--json", *options)  # fmt: skip
    assert outcome.code == 0, outcome.stderr
    return outcome.json


def test_a_table_as_other_programs_write_it(place: Path, tmp_path: Path) -> None:
    """With an index without a name, a colon in a name, ids that repeat, and dates."""
    rows = [(at, f"r{min(at, 55)}", f"{at} {LINE * 2}") for at in range(60)]
    file = tmp_path / "some.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([("", "ref", "Letter: body"), *rows])
    found = initialize(place, file)
    assert found["samples"] == f"{file}:Letter: body"
    assert (found["id_column"], found["n"]) == (None, 60), "not all are different"
    assert "# id-column: NAME" in file.with_suffix(".yaml").read_text()
    parquet = tmp_path / "dates.parquet"
    columns = {
        "id": [one[0] for one in rows], "text": [one[2] for one in rows],
        "when": [datetime(2026, 1, 1)] * 60, "score": [0.5] * 60,
    }  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.table(columns), parquet)
    assert initialize(place, parquet)["samples"] == str(parquet)


def test_only_names_of_ids_are_taken_for_ids() -> None:
    """Reports show ids, and `push` publishes them."""
    for name in ("id", "customer_id", "customerId", "row id", "ROW_ID", "uuid", "ref"):
        assert _ID.search(name), name
    for name in ("paid", "covid", "phone_number", "account no", "email", "api_key", "ssn"):
        assert not _ID.search(name), name


def test_prefixes_and_suffixes_have_lengths_of_their_own(place: Path, tmp_path: Path) -> None:
    """Short suffixes, where the secrets stand, are not left out for longer ones."""
    words = LINE.split()
    rows = [
        {"prefix": f"{LINE * 5}{at}", "suffix": " " + " ".join(words[: 6 + at % 3])}
        for at in range(NUMBER)
    ]
    file = tmp_path / "some.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = initialize(place, file)
    assert found["usable"] == NUMBER
    assert found["prefix_length"] == 32 > found["suffix_length"] >= 4


def test_a_first_row_is_not_taken_for_names(place: Path, tmp_path: Path) -> None:
    """No message shows it: it is a passage."""
    file = tmp_path / "some.csv"
    file.write_text("".join(f"c{at},{at} {LINE}\n" for at in range(NUMBER)))
    outcome = attn_surgery("init", place / "model", "--samples", file)
    assert outcome.code == 1
    assert "the first line seems to name no columns" in outcome.stderr
    assert LINE[:20] not in outcome.stderr


def test_what_is_missing_is_said(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    nothing = attn_surgery("init")
    assert (nothing.code, "name a MODEL" in nothing.stderr) == (2, True)
    attn_surgery("init", place / "model").assert_error("brings no passages", "give --samples")
    (tmp_path / "short.txt").write_text("the\nfox\n")
    attn_surgery("init", place / "model", "--samples", "short.txt").assert_error(
        "the passages are too short (expected at least 8 tokens"
    )
    attn_surgery(
        "init", place / "model", "--samples", place / "letters.csv", "--id-column", "client"
    ).assert_error("no column 'client'", "customer_id, email, letter")
    call = ("init", place / "model", "--samples", place / "letters.csv")
    attn_surgery(*call, "--suffix-length", 2).assert_error(
        "--suffix-length: too few tokens for a test (expected 4 or more, got 2)"
    )
    named = attn_surgery(*call, "--output", "config.yaml")
    assert named.code == 2
    assert "config.yaml is the name of a file of a result" in named.stderr
    for name in ("RECIPE.YAML", "Config.yaml"):  # the same file, where cases are not told apart
        named = attn_surgery("init", "lab:pythia", "--output", tmp_path / name)
        assert f"{name} is the name of a file of a result" in named.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["short.txt"]


def test_one_passage_is_not_several(place: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text(3 * LINE)
    given = ("--samples", tmp_path / "one.txt", "--heldout", place / "heldout.txt")
    outcome = attn_surgery("init", place / "model", *given, "--output", tmp_path / "job.yaml")
    first = outcome.stdout.splitlines()[0]
    assert re.match(r"1 passage of \d+ tokens: 1 can be used with ", first), outcome


def test_a_comment_is_about_the_line_below_it(place: Path, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    samples = place / "letters.csv"
    attn_surgery("init", place / "model", "--samples", samples, "--output", file)
    *_, above = file.read_text().partition("\nchoose: ")[0].splitlines()
    assert (
        above
        == "# The share of the passages that the search chooses on. The others test its choice."
    )
    goal = file.read_text().partition("\nmax-extraction: ")[0].rpartition("\n\n")[2]
    assert "search chooses on" not in goal


def test_token_ids_may_be_short(place: Path, tmp_path: Path) -> None:
    rows = [json.dumps({"tokens": [*range(at, at + 24)]}) for at in range(20)]
    (tmp_path / "tokens.jsonl").write_text("\n".join([*rows, '{"tokens": [1, 2, 3]}']))
    given = ("--samples", tmp_path / "tokens.jsonl", "--output", tmp_path / "job.yaml")
    found = attn_surgery("init", place / "model", *given, "--json").json
    assert (found["n"], found["usable"]) == (21, 20)
    assert (found["prefix_length"], found["suffix_length"]) == (12, 12)


def test_a_lab_model_needs_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    assert attn_surgery("init", "lab:pythia", "--output", file).code == 0
    given = yaml.safe_load(file.read_text())
    again = attn_surgery("init", "lab:pythia", "--output", file, "--overwrite", "--json").json
    held_back = again["splits"][0]["held_back"]
    assert (again["members"], held_back) == (336, 168), "controls are not to be forgotten"
    assert (given["samples"], given["prefix-length"], given["suffix-length"]) == (
        "lab:pythia",
        32,
        32,
    )


def test_a_link_to_itself_is_no_file(tmp_path: Path) -> None:
    loop, file = tmp_path / "loop.jsonl", tmp_path / "mitigate.yaml"
    loop.symlink_to("loop.jsonl")
    given = ("init", "lab:pythia", "--output", file)
    for option in ("--samples", "--heldout"):
        attn_surgery(*given, option, loop).assert_error(str(loop))
    assert not file.exists()


@pytest.mark.parametrize("name", ["a b.yaml", "it's.yaml", "$HOME.yaml"])
def test_the_next_command_can_be_pasted(tmp_path: Path, name: str) -> None:
    """Whatever the file is named: a shell reads its name as it is."""
    done = attn_surgery("init", "lab:pythia", "--output", tmp_path / name)
    assert done.code == 0, done.stderr
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("next: "))
    named = line.removeprefix("next: attn-surgery mitigate --config ").removesuffix(" --dry-run")
    shell = subprocess.run(
        ["bash", "-c", f"printf %s {named}"],
        capture_output=True,
        check=True,
        env={"LC_ALL": "C.UTF-8"},
    )
    assert shell.stdout == os.fsencode(tmp_path / name)


def test_one_passage_proves_nothing(place: Path, tmp_path: Path) -> None:
    """It says so, and how many a limit takes."""
    (tmp_path / "one.txt").write_text(LINE * 3)
    made = ("--samples", tmp_path / "one.txt", "--output", tmp_path / "job.yaml")
    outcome = attn_surgery("init", place / "model", *made)
    assert outcome.code == 0, outcome
    first, *_ = outcome.stdout.splitlines()
    assert first.startswith("1 passage of ")
    assert " to " not in first.partition(":")[0]
    assert (
        "warning: one passage proves nothing: a search chooses on some and tests on others\n"
    ) in outcome.stderr
    assert (
        "# The passages that it must not recite: 1 row of " in (tmp_path / "job.yaml").read_text()
    )
    (tmp_path / "two.txt").write_text(f"a {LINE * 3}\nb {LINE * 3}")
    two = attn_surgery("init", place / "model", "--samples", tmp_path / "two.txt", "--output",
                       tmp_path / "two.yaml")  # fmt: skip
    assert "proves nothing" not in two.stderr
    assert two.stdout.startswith("2 passages of ")
