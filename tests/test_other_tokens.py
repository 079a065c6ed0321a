"""Contract: a model that reads other tokens than its base is refused, not said to recite nothing.

A tokenizer with some more tokens, as fine-tuned models have, is the same tokenizer here.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import attn_surgery
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from evals.run.finding import check_tokens
from surgery.hub.finding import find_model

LENGTHS = ("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, a model of which two tokens are exchanged, and one with a token more."""
    folder, model = tmp_path_factory.mktemp("tokens"), tiny_model()
    for name in ("base", "other", "more", "none"):
        save_tiny(folder / name, model)
    for name in ("other", "more"):
        file = folder / name / "tokenizer.json"
        told = json.loads(file.read_text())
        words = told["model"]["vocab"]
        if name == "other":
            words["a"], words["b"] = words["b"], words["a"]
        else:
            special = {"content": "<more>", "id": len(words), "special": True}
            told["added_tokens"].append({**told["added_tokens"][0], **special})
        file.write_text(json.dumps(told))
    for file in (folder / "none").glob("tokenizer*"):
        file.unlink()
    write_rows(folder / "rows.jsonl", recited_rows(model, 6))
    (folder / "text.txt").write_text(TEXT)
    return folder


@pytest.mark.parametrize("command", ["audit", "extract", "evaluate"])
def test_a_model_with_other_tokens_is_refused(
    command: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    common = ("--baseline", "base", "--samples", "rows.jsonl", *LENGTHS)
    more = {
        "audit": ("--heldout", "text.txt", "--attack", "greedy"),
        "extract": (),
        "evaluate": ("--heldout", "text.txt", "--suite", "none", "--output", tmp_path / "out"),
    }[command]
    attn_surgery(command, "other", *common, *more).assert_error(
        "other: its tokenizer has other tokens, so it cannot be asked what the base is asked "
        "(expected the tokens of base); name the base that it was made from, or a model with the "
        "same tokens"
    )
    if command != "extract":
        twin = attn_surgery(command, "base", *common, *more, "--twin", "other")
        twin.assert_error("other: its tokenizer has other tokens")


def test_some_more_tokens_or_no_tokenizer_are_no_others(folder: Path) -> None:
    base, *others = (find_model(str(folder / name)) for name in ("base", "more", "none"))
    check_tokens(base, others)
