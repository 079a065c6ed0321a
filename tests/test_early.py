"""Contract: what is wrong with passages, texts and plans is known before a model is looked for.

Every command is given a model that is nowhere. Where the input is good, the model is missed; where
it is not, the input is what the one line is about.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from checkpoints import neox_config, write_checkpoint
from command_line import attn_surgery, finish, snapshot, start

from evals.data import load_samples
from surgery.errors import SamplesError

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


@pytest.fixture(autouse=True)
def _among_the_files(files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_lengths_in_python() -> None:
    """The command line refuses them as usage."""
    with pytest.raises(SamplesError, match=r"wrong prefix length .*at least 1 token"):
        load_samples("ids.npy", prefix_length=0)
    with pytest.raises(SamplesError, match="wrong suffix length"):
        load_samples("ids.npy", suffix_length=-1)


@pytest.mark.parametrize(("name", "more", "text"), SAMPLES)
@pytest.mark.parametrize("command", WITH_SAMPLES)
def test_samples(command: str, name: str, more: list[str], text: str) -> None:
    options = [*WITH_SAMPLES[command], "--samples", name, *more]
    refused(text, command, NOWHERE, *options)


@pytest.mark.parametrize(("name", "text"), TEXTS)
@pytest.mark.parametrize("command", WITH_CORPUS)
def test_corpora(command: str, name: str, text: str) -> None:
    refused(text, command, NOWHERE, *WITH_CORPUS[command], name)


@pytest.mark.parametrize(("name", "text"), [*TEXTS, ("hf:a:b", "hf:a:b: malformed")])
@pytest.mark.parametrize("command", WITH_CALIBRATION)
def test_calibration(command: str, name: str, text: str) -> None:
    options = ["--variant", "linear", "--calibration", name]
    refused(text, command, NOWHERE, *WITH_CALIBRATION[command], *options)


@pytest.mark.parametrize("command", WITH_CALIBRATION)
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


def test_a_plan_says_what_is_fitted() -> None:
    options = ("--plan", "plan.json", "--calibration", "text.txt")
    refused("no variant is fitted", "export", NOWHERE, *options)
    refused("absent: cannot be read", "export", NOWHERE, "--plan", "absent")


@pytest.mark.parametrize("command", ["sweep", "search"])
def test_held_out_text_is_asked_for(command: str) -> None:
    options = ("--samples", "ids.npy", *(("--max-extraction", "1") if command == "search" else ()))
    refused("no held-out text to measure on", command, NOWHERE, *options)


@pytest.mark.parametrize("command", ["extract", "sweep", "collect"])
def test_a_device(command: str) -> None:
    options = {
        "extract": ("--samples", "ids.npy"),
        "sweep": ("--samples", "ids.npy", "--corpus", "text.txt"),
        "collect": ("--corpus", "text.txt", "--output", "out.jsonl"),
    }[command]
    refused("no such device", command, NOWHERE, *options, "--device", "cuda:99")


def test_reproduce_opens_its_text_first(files: Files, tmp_path: Path) -> None:
    source = write_checkpoint(tmp_path / "source", neox_config(max_position_embeddings=64))
    made = ("--drop-attn", "1", "--output", tmp_path / "made")
    assert attn_surgery("export", source, *made).code == 0
    text = "no variant is fitted"
    refused(text, "reproduce", tmp_path / "made", "--calibration", "text.txt")


@pytest.mark.slow
def test_an_unreachable_hub_is_one_line() -> None:
    """The client says each of its retries, and a line break; we say what came of them."""
    env = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}
    samples = ("--samples", "hf:nobody/nothing:train:text")
    done = finish(start("extract", "lab:pythia", *samples, env=env))
    done.assert_error("hf:nobody/nothing:train:text: the data set cannot be loaded", "network")


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
        ("erase", NOWHERE, "--drop-attn", "1", *samples, "--text", "text.txt"),
        ("heal", NOWHERE, *samples, "--text", "text.txt"),
        ("mitigate", NOWHERE, *samples, *corpus, *tasks, "--output", "out"),
        ("sweep", NOWHERE, *samples, *corpus, *tasks),
        ("collect", NOWHERE, *corpus, "--output", "out.jsonl"),
        ("export", NOWHERE, "--plan", "plan.json"),
    ):
        attn_surgery(*command).assert_error(NOWHERE)
