"""Contract: what every command promises, whichever it is.

- What is wrong with its inputs is known before a model is looked for, and what is in the way of its
  output before any work. The line names only options that the command has.
- `--overwrite` replaces only what attn-surgery wrote, and never an input.
- What was interrupted goes on with the same command, and ends the same. Two processes find what one
  finds.
- No passage, and no path of an input, is in a result that may be published.
- Too few passages decide no limit.
"""

from __future__ import annotations

import html
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import (
    PROGRAM,
    TWO_PROCESSES,
    Outcome,
    attn_surgery,
    finish,
    hashed_by,
    hashing_watched,
    interrupted,
    snapshot,
    start,
)
from reciting import members_and_others, write_rows
from results import read_report, without_times
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from cli.main import COMMANDS
from evals.data import load_samples
from evals.run.keep import Store
from surgery.errors import SamplesError
from surgery.exporting import export

# --- mistakes in inputs

NOWHERE = "nobody/there-is-no-such-model"
Files = dict[str, Path]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("inputs")
    found = {name: folder / name for name in (
        "good.jsonl", "ids.npy", "short.npy", "broken.jsonl", "counts.jsonl", "weights.bin",
        "text.txt", "latin.txt", "rows.jsonl", "absent", "empty", "plan.json", "list.json",
        "folder.jsonl", "latin.jsonl",
    )}  # fmt: skip
    found["good.jsonl"].write_text(json.dumps({"text": "one two three"}) + "\n")
    np.save(found["ids.npy"], np.ones((4, 64), dtype=np.int64))
    np.save(found["short.npy"], np.ones((4, 9), dtype=np.int64))
    found["broken.jsonl"].write_text("{\n")
    found["counts.jsonl"].write_text(json.dumps({"text": "one", "count": -1}) + "\n")
    found["weights.bin"].write_bytes(b"\x80\x04")
    found["text.txt"].write_text("some words\n" * 9)
    found["latin.txt"].write_bytes(b"caf\xe9")
    found["rows.jsonl"].write_text(json.dumps({"content": "one"}) + "\n")
    found["empty"].mkdir()
    found["folder.jsonl"].mkdir()
    found["latin.jsonl"].write_bytes(b'{"text": "caf\xe9"}')
    found["list.json"].write_text('[{"text": "one two three"}, {"text"')
    edits = [{"drop_attn": "1", "variant": "zero"}]
    found["plan.json"].write_text(json.dumps({"schema_version": 1, "edits": edits}))
    return found


SAMPLES = [
    ("absent", [], "absent: no such file"),
    ("weights.bin", [], "weights.bin: unknown form of samples"),
    ("broken.jsonl", [], "broken.jsonl line 1: "),
    ("counts.jsonl", [], "column 'count', row 1 (got input should be greater than or equal to 0"),
    ("list.json", [], "list.json: not JSON"),
    ("folder.jsonl", [], "folder.jsonl: holds no text files"),
    (
        "latin.jsonl",
        [],
        "; convert it to UTF-8, from Latin-1 for example: iconv -f latin1 -t utf-8",
    ),
    ("short.npy", [], "all 4 rows have fewer than 64 tokens (median 9); try --prefix-length 4"),
    (
        "ids.npy",
        ["--prefix-length", "60"],
        "have fewer than 92 tokens (median 64); try --prefix-length 40 --suffix-length 16",
    ),
]
TEXTS = [
    ("absent", "absent: no such file or folder"),
    ("latin.txt", "latin.txt: not UTF-8 text"),
    ("latin.txt", "; convert it to UTF-8, from Latin-1 for example: iconv -f latin1"),
    ("rows.jsonl", "rows.jsonl line 1: "),
    ("list.json", "list.json: not JSON"),
    ("empty", "empty: holds no text files"),
]
WITH_SAMPLES = {
    "extract": [],
    "sweep": ["--corpus", "text.txt"],
    "search": ["--max-extraction", "0.1", "--corpus", "text.txt", "--variant", "zero"],
    "evaluate": ["--baseline", NOWHERE, "--suite", "lab"],
}
WITH_CORPUS = {
    "extract": ["--samples", "ids.npy", "--control"],
    "sweep": ["--samples", "ids.npy", "--corpus"],
    "search": ["--samples", "ids.npy", "--max-extraction", "0.1", "--corpus"],
    "evaluate": ["--baseline", NOWHERE, "--suite", "lab", "--control"],
    "collect": ["--output", "out.jsonl", "--corpus"],
}
WITH_CALIBRATION = {
    "export": ["--drop-attn", "1"],
    "sweep": ["--samples", "ids.npy", "--corpus", "text.txt"],
    "search": ["--samples", "ids.npy", "--corpus", "text.txt", "--max-extraction", "0.1"],
}


@pytest.fixture
def among_the_files(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(files["empty"].parent)


def refused(text: str, *arguments: object) -> None:
    before = snapshot(Path())
    outcome = attn_surgery(*arguments)
    if outcome.code == 2:  # what click itself checks
        assert "does not exist" in outcome.stderr or "is a directory" in outcome.stderr
    else:
        outcome.assert_error(text)
    assert "Hub model" not in outcome.stderr
    assert snapshot(Path()) == before


@pytest.mark.usefixtures("among_the_files")
def test_lengths_in_python() -> None:
    """The command line refuses them as usage."""
    with pytest.raises(SamplesError, match=r"wrong prefix length .*at least 1 token"):
        load_samples("ids.npy", prefix_length=0)
    with pytest.raises(SamplesError, match="wrong suffix length"):
        load_samples("ids.npy", suffix_length=-1)


@pytest.mark.parametrize(("name", "more", "text"), SAMPLES)
@pytest.mark.parametrize("command", WITH_SAMPLES)
@pytest.mark.usefixtures("among_the_files")
def test_samples(command: str, name: str, more: list[str], text: str) -> None:
    options = [*WITH_SAMPLES[command], "--samples", name, *more]
    if command == "evaluate":  # which takes lengths from a file
        text = re.sub("--([a-z]+-length) ([0-9]+)", r"--config '{\1: \2}'", text)
    refused(text, command, NOWHERE, *options)


@pytest.mark.parametrize(("name", "text"), TEXTS)
@pytest.mark.parametrize("command", WITH_CORPUS)
@pytest.mark.usefixtures("among_the_files")
def test_corpora(command: str, name: str, text: str) -> None:
    refused(text, command, NOWHERE, *WITH_CORPUS[command], name)


@pytest.mark.parametrize(("name", "text"), [*TEXTS, ("hf:a:b", "hf:a:b: malformed")])
@pytest.mark.parametrize("command", WITH_CALIBRATION)
@pytest.mark.usefixtures("among_the_files")
def test_calibration(command: str, name: str, text: str) -> None:
    options = ["--variant", "linear", "--calibration", name]
    refused(text, command, NOWHERE, *WITH_CALIBRATION[command], *options)


@pytest.mark.parametrize("command", WITH_CALIBRATION)
@pytest.mark.usefixtures("among_the_files")
def test_calibration_goes_with_a_fitted_variant(command: str) -> None:
    """Text that nothing is fitted on is not ignored, and missing text not missed late."""
    options = WITH_CALIBRATION[command]
    refused(
        "calibration text is given, but no variant is fitted (expected variant mean or linear, "
        "got zero)",
        *(command, NOWHERE, *options, "--variant", "zero", "--calibration", "text.txt"),
    )
    refused(
        "variant mean needs calibration text; name text files",
        *(command, NOWHERE, *options, "--variant", "mean"),
    )


@pytest.mark.usefixtures("among_the_files")
def test_a_plan_says_what_is_fitted() -> None:
    options = ("--plan", "plan.json", "--calibration", "text.txt")
    refused("no variant is fitted", "export", NOWHERE, *options)
    refused("absent: cannot be read", "export", NOWHERE, "--plan", "absent")


@pytest.mark.parametrize("command", ["sweep", "search"])
@pytest.mark.usefixtures("among_the_files")
def test_held_out_text_is_asked_for(command: str) -> None:
    options = ("--samples", "ids.npy", *(("--max-extraction", "1") if command == "search" else ()))
    refused("no held-out text to measure on", command, NOWHERE, *options)


@pytest.mark.parametrize("command", ["extract", "sweep", "collect"])
@pytest.mark.usefixtures("among_the_files")
def test_a_device(command: str) -> None:
    options = {
        "extract": ("--samples", "ids.npy"),
        "sweep": ("--samples", "ids.npy", "--corpus", "text.txt"),
        "collect": ("--corpus", "text.txt", "--output", "out.jsonl"),
    }[command]
    refused("no such device", command, NOWHERE, *options, "--device", "cuda:99")


@pytest.mark.slow
def test_an_unreachable_hub_is_one_line() -> None:
    """The client says each of its retries, and a line break; we say what came of them."""
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    samples = ("--samples", "hf:nobody/nothing:train:text")
    done = finish(start("extract", "lab:pythia", *samples, env=env))
    done.assert_error("hf:nobody/nothing:train:text: the data set cannot be loaded", "network")


@pytest.mark.usefixtures("among_the_files")
def test_with_good_input_the_model_is_missed() -> None:
    """Otherwise the tests above would show nothing. Tasks, which may take long, come after it."""
    samples, corpus = ("--samples", "ids.npy"), ("--corpus", "text.txt")
    tasks = ("--tasks", "no_such_task")
    for command in (
        ("extract", NOWHERE, *samples, "--control", "text.txt"),
        ("sweep", NOWHERE, *samples, *corpus, "--calibration", "text.txt"),
        ("search", NOWHERE, *samples, *corpus, "--max-extraction", "0.1"),
        ("evaluate", NOWHERE, *samples, "--baseline", NOWHERE, *tasks),
        ("evaluate", "lab:pythia", *samples, "--baseline", NOWHERE, "--suite", "standard"),
        ("extract", "lab:pythia", *samples, "--baseline", NOWHERE),
        ("erase", NOWHERE, "--drop-attn", "1", *samples, "--text", "text.txt"),
        ("heal", NOWHERE, *samples, "--text", "text.txt"),
        ("mitigate", NOWHERE, *samples, *corpus, *tasks, "--output", "out"),
        ("sweep", NOWHERE, *samples, *corpus, *tasks),
        ("collect", NOWHERE, *corpus, "--output", "out.jsonl"),
        ("export", NOWHERE, "--plan", "plan.json"),
    ):
        attn_surgery(*command).assert_error(NOWHERE)


NONE = "no/such/model"  # so that an error about it would come first, were any work begun
LAB = "lab:pythia"  # for steps, which find the model first: their default output is named like it
FOLDERS: dict[str, tuple[str, ...]] = {
    "export": (LAB, "--drop-attn", "1"),
    "erase": (LAB, "--drop-attn", "1", "--samples", "none.jsonl", "--text", "none.txt"),
    "heal": (LAB, "--samples", "none.jsonl", "--text", "none.txt"),
    "sweep": (NONE, "--samples", "none.jsonl"),
    "search": (NONE, "--samples", "none.jsonl", "--max-extraction", "0.1"),
    "evaluate": (NONE, "--baseline", NONE),
    "audit": (NONE, "--baseline", NONE, "--samples", "none.jsonl"),
    "mitigate": (LAB, "--samples", "none.jsonl", "--corpus", "none.txt"),
    "demo": (),
}
FILES: dict[tuple[str, str], tuple[str, ...]] = {
    ("collect", "--output"): (NONE, "--corpus", "none.txt"),
    ("init", "--output"): (NONE, "--samples", "none.jsonl"),
    ("extract", "--output"): (NONE, "--samples", "none.jsonl"),
    ("extract", "--rows"): (NONE, "--samples", "none.jsonl"),
}


# --- what is there is refused, whatever the command


def test_all_commands_that_write_are_here() -> None:
    asked = {
        "compare",
        "inspect",
        "push",
        "verify",
    }  # write no file of the user's choice
    assert {*FOLDERS, *(name for name, _ in FILES)} == COMMANDS.keys() - asked


@pytest.mark.parametrize("command", FOLDERS)
def test_a_folder_that_is_there(command: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "config.json").write_text("{}")  # of a model of the user's own
    (tmp_path / "link").symlink_to("out")
    (tmp_path / "file").write_text("mine")
    before = snapshot(tmp_path)
    call = (command, *FOLDERS[command], "--output")
    attn_surgery(*call, out).assert_error(
        f"{out}: already exists; choose another --output or give --overwrite\n"
    )
    attn_surgery(*call, out, "--overwrite").assert_error(
        f"{out}: holds config.json, which attn-surgery did not write, so it is not overwritten; "
        "choose another --output\n"
    )
    for name in ("link", "file"):
        if command != "evaluate" or name == "link":  # there a file is an error of usage
            attn_surgery(*call, tmp_path / name, "--overwrite").assert_error(
                f"{name}: is not a folder, so it is not overwritten; choose another --output\n"
            )
    attn_surgery(*call, "/dev/null/out").assert_error(
        "/dev/null/out: cannot write: not a directory"
    )
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize(("command", "option"), FILES)
def test_a_file_that_is_there(command: str, option: str, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    (tmp_path / "link.jsonl").symlink_to("out.jsonl")
    os.mkfifo(tmp_path / "pipe.jsonl")
    before = snapshot(tmp_path)
    call = (command, *FILES[command, option], option)
    attn_surgery(*call, out).assert_error(
        f"{out}: already exists; choose another {option} or give --overwrite\n"
    )
    for name in ("link.jsonl", "pipe.jsonl"):
        attn_surgery(*call, tmp_path / name, "--overwrite").assert_error(
            f"{name}: is not a file, so it is not overwritten; choose another {option}\n"
        )
    attn_surgery(*call, "/dev/null/x.jsonl").assert_error("cannot write: not a directory")
    assert snapshot(tmp_path) == before


def test_no_other_file_is_replaced(tmp_path: Path) -> None:
    """Whatever it is named. An empty file is no loss."""
    rows = ("audit", NONE, "--baseline", NONE, "--samples", "none.jsonl", "--rows")
    kinds = {"collect": "a file of samples", "init": "a proposal"}
    calls: dict[str, tuple[tuple[object, ...], str, str]] = {
        f"{command} {option}": ((command, *given, option), "thesis.jsonl", kinds.get(command, ""))
        for (command, option), given in FILES.items()
    }
    calls["rows"] = (rows, "thesis.jsonl", "a file of rows")
    contents = ("my thesis", '{"text": "mine"}', '["mine"]', "{", b"\x93NUMPY")
    for name, (call, file, kind) in calls.items():
        place = tmp_path / file
        for content in contents:
            place.write_bytes(content if isinstance(content, bytes) else content.encode())
            before = snapshot(tmp_path)
            attn_surgery(*call, place, "--overwrite").assert_error(
                f"{file}: is not {kind}", " that attn-surgery wrote, so it is not overwritten"
            )
            assert snapshot(tmp_path) == before, name
        place.write_bytes(b"")
        refused = attn_surgery(*call, place, "--overwrite").stderr
        assert "overwritten" not in refused
        place.unlink()


def test_a_file_that_was_written_is_replaced(tmp_path: Path) -> None:
    """By one of another model; not by a file of another kind."""
    file = tmp_path / "file.jsonl"
    for model in ("lab:pythia", "lab:gpt-neo"):
        extract = ("extract", model, "--metrics", "exact", "--output", file, "--overwrite")
        done = attn_surgery(*extract)
        assert (done.code, model in file.read_text()) == (0, True), done.stderr
    other = ("collect", NONE, "--corpus", "none.txt", "--output", file, "--overwrite")
    attn_surgery(*other).assert_error("is not a file of samples that attn-surgery wrote")


# --- what every command that measures or trains promises


LENGTHS = ("--prefix-length", 6, "--suffix-length", 5)
SECRET = "clients-of-acme"
"""In the path of every input."""


@dataclass(frozen=True)
class Inputs:
    """A model that recites most of its passages, and its cut, in `folder`."""

    folder: Path

    def call(self, command: str, *more: object, rows: str = "samples") -> tuple[object, ...]:
        """A small command of this name, complete but for its output."""
        base, text, other = (self.folder / name for name in ("base", "text.txt", "other.txt"))
        passages = ("--samples", self.folder / f"{rows}.jsonl", *LENGTHS)
        pair = (self.folder / "cut", "--baseline", base, *passages, "--heldout", text)
        grid = (base, *passages, "--heldout", text, "--variant", "zero")
        attacks = ("--attack", "greedy", "--attack", "any", "--attack", "quantized:4", "--draws", 1)
        trained = ("--steps", 2, "--text", other)
        given = {
            "audit": (*pair, *attacks),
            "collect": (base, "--corpus", self.folder / "corpus.txt", *LENGTHS),
            "compare": (base, self.folder / "cut", *passages, "--rows", 2),
            "erase": (base, "--drop-attn", 0, "--variant", "zero", *passages, *trained),
            "evaluate": (*pair, *attacks, "--suite", "none"),
            "export": (base, "--drop-attn", 1, "--variant", "mean", "--calibration", other),
            "extract": (*pair, "--metrics", "full"),
            "heal": (self.folder / "cut", *passages, *trained),
            "init": (base, *passages, "--heldout", text),
            "search": (*grid, "--max-extraction", 0.3),
            "sweep": grid,
        }[command]
        sized = ("--batch-size", 8) if command not in UNSIZED else ()
        return (command, *given, *sized, *more)


UNSIZED = ("compare", "erase", "export", "heal")
OUTPUT = {"collect": "found.jsonl", "extract": "result.json", "init": "proposal.yaml"}
"""The name of an output that is a file."""
CONTINUED = ("audit", "collect", "evaluate", "search", "sweep")


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    folder = tmp_path_factory.mktemp("inputs") / SECRET
    folder.mkdir()
    save_tiny(folder / "base")
    export(folder / "base", "0", variant="zero", output=folder / "cut")
    write_rows(folder / "samples.jsonl", members_and_others(tiny_model()))
    write_rows(folder / "few.jsonl", members_and_others(tiny_model())[1:5])
    (folder / "text.txt").write_text(TEXT)
    (folder / "corpus.txt").write_text(TEXT * 4)
    (folder / "other.txt").write_text(" ".join(TEXT.upper().split() * 60))
    return Inputs(folder)


def read_result(command: str, outcome: Outcome) -> Any:
    """What a command printed with --json, without times."""
    if command in ("audit", "evaluate", "extract"):
        return without_times(read_report(outcome))
    times = ("seconds", "tokens_per_second", "output", "resumed", "plan", "tokens")
    return {key: value for key, value in outcome.json.items() if key not in times}


@pytest.mark.parametrize("command", [*OUTPUT, *CONTINUED[:1], *CONTINUED[2:], *UNSIZED])
@pytest.mark.usefixtures("blank_pictures")
def test_no_passage_and_no_path_of_an_input_is_in_a_result(
    command: str, inputs: Inputs, tmp_path: Path
) -> None:
    """In no file, as it is, as JSON writes it, or as HTML does; nor is a passage printed."""
    output = () if command == "compare" else ("--output", tmp_path / OUTPUT.get(command, "out"))
    output += ("--rows", tmp_path / "rows.jsonl") if command in ("audit", "extract") else ()
    outcome = attn_surgery(*inputs.call(command, *output, "--json"))
    assert outcome.code == 0, outcome
    lines = (inputs.folder / "samples.jsonl").read_text().splitlines()
    rows = list(map(json.loads, lines))
    said = [tiny_tokenizer().decode(row["tokens"][6:]) for row in rows]
    texts = [text for text in said if len(text) >= 8]
    ids = [", ".join(map(str, row["tokens"])) for row in rows]
    assert len(texts) > 8, "shorter ones may stand anywhere"
    files = (*tmp_path.rglob("*"), *(inputs.folder / "cut").rglob("*"))  # `evaluate` adds to it
    written = {str(path): path.read_bytes() for path in files if path.is_file()}
    for place, data in {"stdout": outcome.stdout.encode(), **written}.items():
        for text in texts:
            for form in (text, json.dumps(text)[1:-1], html.escape(text)):
                assert form.encode() not in data, (place, text)
        if command != "collect":  # whose file is of samples
            assert not [row for row in ids if row.encode() in data], place
        if place != "stdout" and command != "init":  # which names its inputs, for `mitigate` here
            assert SECRET.encode() not in data, place


@pytest.mark.parametrize("command", CONTINUED)
@pytest.mark.usefixtures("blank_pictures")
def test_what_was_interrupted_goes_on_and_ends_the_same(
    command: str, inputs: Inputs, tmp_path: Path
) -> None:
    """It writes nothing before, and does nothing twice."""
    first = inputs.call(command, "--json", "--output", tmp_path / "a.jsonl", "--no-cache")
    whole = attn_surgery(*first)
    assert whole.code == 0, whole
    target = tmp_path / "target.jsonl"
    call = inputs.call(command, "--json", "--output", target)
    with interrupted(Store, at=3, method="write") as before:
        stopped = attn_surgery(*call)
    assert (stopped.code, stopped.json["error"]) == (130, "interrupted")
    assert "run the same command again to continue" in stopped.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    with interrupted(Store, method="write") as after:
        again = attn_surgery(*call)
    assert again.code == 0, again
    assert read_result(command, again) == read_result(command, whole)
    if command in ("audit", "evaluate"):
        assert "base: known from an earlier run: " in again.stderr
    keys = [str(file) for _, file, *_ in [*before[:2], *after]]
    assert len(keys) == len({*keys}) > 3, "each piece was made once"
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "target.jsonl"}


@pytest.mark.parametrize(
    ("command", "limit"),
    [
        ("audit", ("--max", "any=0.5")),
        ("evaluate", ("--max-extraction", 0.5)),
        ("search", ("--max-extraction", 0.5)),
    ],
)
@pytest.mark.usefixtures("blank_pictures")
def test_too_few_passages_decide_nothing(
    command: str, limit: tuple[object, ...], inputs: Inputs, tmp_path: Path
) -> None:
    """Where the measured value keeps the limit. It is said beforehand, and how many would do."""
    call = inputs.call(command, rows="few")
    call = (*(call[: call.index("--max-extraction")] if command == "search" else call), *limit)
    outcome = attn_surgery(*call, "--json", "--output", tmp_path / "out")
    assert outcome.code == (0 if command == "search" else 4), outcome
    assert "cannot support 50%: that takes 5" in outcome.stderr
    found = outcome.json
    state = found["state"] if command == "search" else found["edits"][0]["state"]
    assert state == "undecided"


@pytest.mark.slow
@pytest.mark.parametrize("command", [*CONTINUED, "extract"])
def test_two_processes_find_what_one_finds(command: str, inputs: Inputs, tmp_path: Path) -> None:
    """Also of estimates and of fits, but for the last digits of what a search heals: gradients are
    summed in another order. Weights are hashed by the first of them."""
    fits = ("--variant", "mean", "--calibration", inputs.folder / "other.txt")
    more = {"search": (*fits, "--max-evaluations", 8), "sweep": (*fits, "--estimate")}.get(
        command, ()
    )
    found = []
    for name, program in (("one", PROGRAM), ("two", TWO_PROCESSES)):
        (tmp_path / name).mkdir()
        call = inputs.call(command, *more, "--json", "--output", tmp_path / f"{name}.jsonl")
        watched = {**hashing_watched(tmp_path / name), "ATTN_SURGERY_CACHE": str(tmp_path / name)}
        outcome = finish(start(*call, program=program, env=watched), timeout=400)
        assert outcome.code == 0, outcome.stderr[-3000:]
        if command == "collect":  # of one model
            assert hashed_by(tmp_path / name) == ["by-0"]
        found.append(read_result(command, outcome))
    assert_alike(*found)


def assert_alike(one: Any, other: Any) -> None:
    if isinstance(one, float) and isinstance(other, float):
        assert other == pytest.approx(one, rel=1e-4, abs=1e-5)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key, value in one.items():
            assert_alike(value, other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for mine, its in zip(one, other, strict=True):
            assert_alike(mine, its)
    else:
        assert one == other
