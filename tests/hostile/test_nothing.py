"""Contract: nothing is never a result. No windows, passages, documents or tokens: an error that
says so, in one line, and never an all-clear.

A folder without a tokenizer is the trap: the library makes an empty one up, which encodes every
text to nothing.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import attn_surgery
from tiny_tokenizer import TEXT, tiny_tokenizer

from hostile.victims import LENGTHS, change, commands, model, refused, samples
from surgery.editing.loading import load_tokenizer
from surgery.errors import SamplesError, SourceError

COMMANDS = ["extract", "collect", "sweep", "search", "evaluate", "export"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_a_tokenizer(tmp_path: Path, command: str) -> None:
    folder = model(tmp_path / "model", tokenizer=False)
    refused(commands(folder, tmp_path)[command], "tokenizer")
    tiny_tokenizer().save_pretrained(folder)
    (folder / "tokenizer.json").unlink()  # its settings alone are none
    refused(commands(folder, tmp_path)[command], "tokenizer")


def silence(folder: Path) -> None:
    """A tokenizer whose vocabulary is empty."""
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["model"] |= {"vocab": {}, "merges": []}
    settings["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_tokenizer_that_gives_no_tokens(tmp_path: Path, command: str) -> None:
    folder = model(tmp_path / "model")
    silence(folder)
    change(folder / "tokenizer_config.json", eos_token=None)
    refused(commands(folder, tmp_path)[command], "the tokenizer gives no tokens for text")


def test_where_a_tokenizer_is(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)(TEXT)["input_ids"] == tiny_tokenizer()(TEXT)["input_ids"]
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(SourceError, match="the tokenizer cannot be loaded"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("text", ["", "too short", "\n" * 3])
def test_text_that_is_too_short(tmp_path: Path, command: str, text: str) -> None:
    arguments = commands(model(tmp_path / "model"), tmp_path)[command]
    (tmp_path / "text.txt").write_text(text)
    refused(arguments)
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {"model", "text.txt", "good.jsonl"}, "nothing is left behind"


@pytest.mark.parametrize("name", ["none.jsonl", "none.npy", "none.parquet"])
@pytest.mark.parametrize("command", ["extract", "sweep", "search", "evaluate"])
def test_no_passages(tmp_path: Path, command: str, name: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    arguments = commands(model(tmp_path / "model"), tmp_path)[command]
    path = tmp_path / name
    path.write_text("\n")
    if path.suffix == ".npy":
        np.save(path, np.zeros((0, 16), dtype=np.int32))
    if path.suffix == ".parquet":
        pq.write_table(pa.table({"tokens": pa.array([], pa.list_(pa.int32()))}), path)
    given = [path if str(word).endswith("good.jsonl") else word for word in arguments]
    refused(tuple(given), "no rows (expected at least one)")


@pytest.mark.parametrize("command", ["extract", "sweep", "search", "evaluate"])
def test_passages_of_which_none_was_trained_on(tmp_path: Path, command: str) -> None:
    arguments = commands(model(tmp_path / "model"), tmp_path)[command]
    rows = [json.loads(line) for line in samples(tmp_path / "good.jsonl").read_text().splitlines()]
    lines = (json.dumps({**row, "member": False}) for row in rows)
    (tmp_path / "good.jsonl").write_text("\n".join(lines))
    refused(arguments, "no row is a member")


def test_a_task_without_documents(tmp_path: Path) -> None:
    from evals.benchmarks.running import Benchmarks
    from surgery.errors import MeasurementError

    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "none.yaml").write_text(
        "task: nothing\ndataset_path: json\ndataset_kwargs:\n  data_files:\n"
        f"    test: {tmp_path / 'some.jsonl'}\ntest_split: test\noutput_type: multiple_choice\n"
        f"process_docs: !function nothing.none\n"
        "doc_to_text: '{{q}}'\ndoc_to_target: 0\ndoc_to_choice: ['a', 'b']\n"
    )
    (tmp_path / "nothing.py").write_text("def none(docs):\n    return docs.select([])\n")
    (tmp_path / "some.jsonl").write_text('{"q": "why"}\n')
    with pytest.raises(MeasurementError, match="task nothing: cannot be loaded"):
        Benchmarks.load(["nothing"], include_paths=[tmp_path])


def test_calibration_text_of_no_tokens(tmp_path: Path) -> None:
    from surgery.families import Dimensions
    from surgery.fitting.calibration import open_calibration

    (tmp_path / "empty.txt").write_text("")
    found = open_calibration([tmp_path / "empty.txt"])
    sizes = Dimensions(1, 1, 8, 32, 300, max_positions=8)
    with pytest.raises(SamplesError, match="too little calibration text"):
        found.tokenized(tiny_tokenizer(), sizes)


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    """Token ids beyond the vocabulary, wherever they come from."""
    folder = model(tmp_path / "model", config={"vocab_size": 100})
    for name, arguments in commands(folder, tmp_path).items():
        outcome = refused(arguments, "beyond the model's vocabulary")
        assert "expected ids below 100" in outcome.stderr, name


def test_good_text_is_a_result(tmp_path: Path) -> None:
    """The same commands, with nothing missing."""
    folder = model(tmp_path / "model")
    arguments = commands(folder, tmp_path)
    for name in ("extract", "collect", "export"):
        assert attn_surgery(*arguments[name]).code == 0, name
    assert LENGTHS[1] in arguments["sweep"]
