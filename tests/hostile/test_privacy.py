"""Contract: no path of this machine stands in what leaves it; what only looks like one stays.

Whatever is cleaned holds no more paths, and JSON without any stays as it is: tokens, rules of
splitting text, and chat templates too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surgery.privacy import drop_paths, make_public_name, separate_paths

PATHS = [
    "/home/alice/acme",
    "~/models",
    "C:\\Users\\alice",
    "\\\\server\\share\\model",
    "file:///home/alice",
    "trained on /data/clients/acme.jsonl by me",
    '{"cache": "/home/alice/.cache"}',
    '{"cache": "C:\\\\Users"}',
    "PATH=/usr/bin:/home/alice/bin",
    "/Volumes/My Disk/model",
    "python train.py >/home/alice/log </home/alice/in",
    "\u201e/home/alice/acme\u201c",
    "\x00/home/alice/acme",
]
HARMLESS = [
    "EleutherAI/pythia-1.4b",
    "https://huggingface.co/owner/name",
    "lab:pythia",
    "hf:owner/name:train:text",
    "and/or",
    "a / b / c",
    "</s>",
    "[/INST]",
    "\\s+(?!\\S)|\\s+",
    "./runs/acme/last and ../runs/acme",
    "**/acme/*.py",
    "${HOME}/acme/x and {{ root }}/acme/x",
    "https://host.example/@owner/a/b",
    "Bücher/Modelle/x",
    "<|/think|><|/tool|>",
    "100%/50%/x",
]
BEFORE = st.sampled_from(" \t\n'\"`=([{,;:@<>|!\u201c\u3000\u3001\u2014\u2192\u00bb\x00")
"""What may stand right before a path, in whatever is no name that goes on."""


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_found_wherever_it_stands(path: str) -> None:
    given_ = {"a": {"b": [1, path], path: 2}, "c": path, "kept": "me/model"}
    kept, found = separate_paths(given_, "config.json")
    assert kept == {"a": {"b": [1]}, "kept": "me/model"}
    assert found == ["a.b.1", f"a.{path}", "c"]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_looks_like_a_path_stays(text: str) -> None:
    given_ = {"a": {"b": [text]}, text: text}
    assert separate_paths(given_, "config.json") == (given_, [])


@given(st.text(), BEFORE, st.sampled_from(["/", "~/", "C:\\"]))
def test_a_path_is_found_whatever_stands_before_it(text: str, mark: str, root: str) -> None:
    told = f"{text}{mark}{root}home/alice/acme"
    assert separate_paths({"a": told}) == ({}, ["a"])


def test_names_of_models_and_files_may_not_be_relative_paths() -> None:
    given_ = {"name_or_path": "./out", "a": {"vocab_file": "..\\vocab.json", "_file": "x.json"}}
    assert separate_paths(given_)[1] == ["name_or_path", "a.vocab_file"]
    for path in ("runs/acme/checkpoint-500", "runs\\acme", "~/acme", "C:acme", "/acme"):
        assert separate_paths({"_name_or_path": path})[1] == ["_name_or_path"], path
    assert separate_paths({"merges_file": "acme/merges.txt"})[1] == ["merges_file"]
    for name in ("gpt2", "EleutherAI/pythia-1.4b", "me/a.b-c_d"):
        assert separate_paths({"_name_or_path": name})[1] == [], name


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", {"added_tokens": [{"content": "/usr/bin"}]}),
        ("tokenizer.json", {"model": {"vocab": {"/usr/bin": 1}, "merges": ["/usr /bin", "~/ a"]}}),
        ("tokenizer.json", {"pre_tokenizer": {"pattern": {"Regex": " /a/b"}}}),
        ("tokenizer_config.json", {"chat_template": "{{ '/home/user/file' }}"}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"1": {"content": "/usr/bin"}}}),
        ("tokenizer_config.json", {"eos_token": "/usr/bin", "extra_special_tokens": ["/usr/bin"]}),
        ("special_tokens_map.json", {"additional_special_tokens": ["/usr/bin"]}),
        ("chat_template.json", {"chat_template": "see /path/to/file"}),
        ("vocab.json", {"/usr/bin": 1}),
        ("added_tokens.json", {"~/x": 1}),
    ],
)
def test_tokens_rules_and_templates_are_text(file: str, content: dict[str, Any]) -> None:
    assert separate_paths(content, file) == (content, [])
    assert separate_paths(content, "config.json")[1], "they would be paths elsewhere"


TEXT = st.sampled_from([*PATHS, *HARMLESS]) | st.text()
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)
SETTINGS = st.dictionaries(TEXT | st.sampled_from(["name_or_path", "x_file"]), JSON)


@given(SETTINGS, st.sampled_from(["config.json", "tokenizer.json", "vocab.json"]))
def test_cleaning_is_complete_and_changes_nothing_else(value: dict[str, Any], file: str) -> None:
    kept, found = separate_paths(value, file)
    assert drop_paths(value) == separate_paths(value)[0]
    assert separate_paths(kept, file) == (kept, [])
    assert (kept == value) == (not found)


def test_public_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.npy", "b.npy", "rows.csv", "odd,na:me.csv"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    for given_, public in (
        (f"{tmp_path}/a.npy", "a.npy"),
        (f"{tmp_path}/a.npy,{tmp_path}/b.npy", "a.npy,b.npy"),
        (f"{tmp_path}/rows.csv:text", "rows.csv:text"),
        (f"{tmp_path}/odd,na:me.csv:text", "odd,na:me.csv:text"),
        (f"hubble:{tmp_path}", f"hubble:{tmp_path.name}"),
        (f"hf:{tmp_path}:train:text", f"hf:{tmp_path.name}:train:text"),
        (".", tmp_path.name),
        ("hf:owner/name:train:text", "hf:owner/name:train:text"),
        ("lab:pythia", "lab:pythia"),
        ("EleutherAI/pythia-70m", "EleutherAI/pythia-70m"),
        ("", ""),
    ):
        assert make_public_name(given_) == public
