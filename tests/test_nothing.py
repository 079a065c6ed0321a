"""Contract: nothing is never a result. No windows, passages, documents or tokens: an error that
says so, in one line, and never an all-clear.

A folder without a tokenizer is the trap: the library makes an empty one up, which encodes every
text to nothing.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from command_line import attn_surgery
from hostile.victims import change, commands, model, refuse, samples
from local_tasks import write_tasks
from tiny_tokenizer import tiny_tokenizer

from evals.run.lm_eval.running import Benchmarks
from surgery.errors import MeasurementError

OF_PASSAGES = ["extract", "sweep", "search", "evaluate"]


WITHOUT_TOKENIZER = {
    "collect": "a corpus needs a tokenizer (got a model without one)",
    "export": "model: holds no tokenizer (expected tokenizer.json or ",
}
TOO_SHORT = {
    "collect": "text.txt: nothing to test: every document is shorter than a window (expected at "
    "least 16 tokens in a document)",
    "export": "text.txt: too little text (expected at least 640 tokens, got fewer than 64)",
}


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    folder = model(tmp_path / "model", tokenizer=False)
    text = "held-out text needs a tokenizer (got a model without one)"
    for name, arguments in commands(folder, tmp_path).items():
        refuse(arguments, WITHOUT_TOKENIZER.get(name, text))
    tiny_tokenizer().save_pretrained(folder)
    (folder / "tokenizer.json").unlink()  # its settings alone are none
    for name, arguments in commands(folder, tmp_path).items():
        refuse(arguments, WITHOUT_TOKENIZER.get(name, text))
    (folder / "tokenizer.json").write_text("{")
    refuse(commands(folder, tmp_path)["extract"], "the tokenizer cannot be loaded")


def test_tasks_need_a_tokenizer(tmp_path: Path) -> None:
    """Where passages are tokens already, and no other text is read."""
    bare, tasks = model(tmp_path / "bare", tokenizer=False), write_tasks(tmp_path / "tasks")
    whole = model(tmp_path / "whole")
    chosen = ("--tasks", "local_choice", "--include-path", tasks)
    evaluate = ("evaluate", whole, "--baseline", bare, *chosen, "--output", tmp_path / "out")
    refuse(evaluate, "bare: benchmarks need a tokenizer")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_gives_no_tokens(tmp_path: Path) -> None:
    folder = model(tmp_path / "model")
    settings = json.loads((folder / "tokenizer.json").read_text())
    settings["model"] |= {"vocab": {}, "merges": []}
    change(folder / "tokenizer.json", model=settings["model"], added_tokens=[])
    change(folder / "tokenizer_config.json", eos_token=None)
    for arguments in commands(folder, tmp_path).values():
        refuse(arguments, "the tokenizer gives no tokens for text")


@pytest.mark.parametrize("text", ["", "too short"])
def test_text_that_is_too_short(tmp_path: Path, text: str) -> None:
    every = commands(model(tmp_path / "model"), tmp_path)
    (tmp_path / "text.txt").write_text(text)
    window = "the held-out text is too short (expected at least 16 tokens in a text, got "
    for name, arguments in every.items():
        refuse(arguments, TOO_SHORT.get(name, window))
        written = {path.name for path in tmp_path.iterdir()}
        assert written == {"model", "text.txt", "good.jsonl"}, "nothing is left behind"


def test_no_passages(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text("\n")
    every = commands(model(tmp_path / "model"), tmp_path)
    for command in OF_PASSAGES:
        given = [path if str(word).endswith("good.jsonl") else word for word in every[command]]
        refuse(tuple(given), "no rows (expected at least one)")


def test_passages_of_which_none_was_trained_on(tmp_path: Path) -> None:
    every = commands(model(tmp_path / "model"), tmp_path)
    path = samples(tmp_path / "good.jsonl")
    rows = map(json.loads, path.read_text().splitlines())
    path.write_text("\n".join([json.dumps({**row, "member": False}) for row in rows]))
    for command in OF_PASSAGES:
        refuse(every[command], "no row is a member")


def test_a_task_without_documents(tmp_path: Path) -> None:
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


def test_a_tokenizer_of_another_model(tmp_path: Path) -> None:
    """Token ids beyond the vocabulary, wherever they come from."""
    folder = model(tmp_path / "model", config={"vocab_size": 100})
    for name, arguments in commands(folder, tmp_path).items():
        outcome = attn_surgery(*arguments)
        *notes, error = outcome.stderr.splitlines(keepends=True)
        assert all("passages cannot support" in note for note in notes), name
        replace(outcome, stderr=error).assert_error(
            "the model's vocabulary", "expected ids below 100"
        )


def test_good_text_is_a_result(tmp_path: Path) -> None:
    """The same commands, with nothing missing."""
    folder = model(tmp_path / "model")
    arguments = commands(folder, tmp_path)
    for name in ("extract", "collect", "export"):
        assert attn_surgery(*arguments[name]).code == 0, name
