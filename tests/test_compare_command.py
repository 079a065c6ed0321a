"""Contract: `compare` shows what each model itself would write, and where that differs.

Greedy texts are those of the library. Drawn ones follow the model's distribution, and models that
agree draw the same. Of passages only ids and figures are shown, unless the texts are asked for.
"""

from __future__ import annotations

import builtins
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import attn_surgery, on_terminal
from hostile.victims import LENGTHS, model, samples
from reciting import MODELS, generate, model_named
from tiny_tokenizer import tiny_tokenizer

from evals.data import load_samples
from evals.jobs.comparing import _describe_text
from evals.lab import samples_path
from evals.measure.memorization.extraction import extract
from evals.run.decoding import continue_prompt
from evals.run.models import open_model
from surgery import export

PROMPT = "import os\n\ndef read"
BASE = "lab:pythia"


@pytest.fixture(scope="module")
def edits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A stock edit, and a compact one without attention in block 0."""
    folder = tmp_path_factory.mktemp("edits")
    export(BASE, "4-5", output=folder / "stock")
    export(BASE, "0", layout="compact", output=folder / "compact")
    return folder / "stock", folder / "compact"


@pytest.fixture(scope="module")
def compared(edits: tuple[Path, Path]) -> dict[str, Any]:
    outcome = attn_surgery(
        *("compare", BASE, *edits, BASE, "--prompt", PROMPT, "--max-new-tokens", 12),
        *("--sample", 2, "--device", "cpu", "--json"),
    )
    assert outcome.code == 0, outcome
    return outcome.json


@pytest.mark.parametrize("name", MODELS)
def test_greedy_text_is_the_librarys(name: str) -> None:
    model, prompt = model_named(name), [3, 1, 4, 1, 5]
    written = continue_prompt(model, prompt, 9)
    assert written.tolist() == generate(model, torch.tensor([prompt]), 9).tolist()


def test_draws_follow_the_distribution() -> None:
    """Shares at even distances draw each token as often as the model finds it likely."""
    model, prompt, n = model_named("neox-parallel"), [3, 1, 4], 4000
    shares = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    drawn = continue_prompt(model, prompt, 1, shares)[:, 0]
    with torch.no_grad():
        likely = model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
    counted = torch.bincount(drawn, minlength=len(likely))
    assert (counted / n - likely).abs().max() <= 1 / n
    again = continue_prompt(model, prompt, 3, torch.rand(2, 3, dtype=torch.float64))
    assert again.shape == (2, 3)


def test_models_that_agree_write_the_same(compared: dict[str, Any]) -> None:
    (row,) = compared["rows"]
    base, stock, compact, same = row["outputs"]
    assert [one["model"] for one in row["outputs"]] == compared["models"]
    assert {**same, "model": ""} == {**base, "model": ""}
    assert base["differs"] == same["drawn"][1]["differs"] == []
    assert len({base["text"], *(drawn["text"] for drawn in base["drawn"])}) == 3
    for other in (stock, compact):
        assert other["text"] != base["text"]
        kept, at = "", 0
        for begin, end in [*other["differs"], [len(other["text"])] * 2]:
            kept, at = kept + other["text"][at:begin], end
        assert kept.startswith("_"), "the models agree on this token"
        letters = iter(base["text"])
        assert all(letter in letters for letter in kept)  # what is left stands in the base's text


def test_what_differs_is_told_to_the_character() -> None:
    """Tokens that replace others or were put in. Where some are missing, there is nothing."""
    tokenizer = tiny_tokenizer()
    the, quick, brown, fox = base = tokenizer("the quick brown fox")["input_ids"]
    for tokens, text, differs in (
        (base, "the quick brown fox", []),
        ([the, fox, brown, fox], "the fox brown fox", [[3, 7]]),
        ([the, quick, the, brown, fox], "the quickthe brown fox", [[9, 12]]),
        ([quick, quick, brown, the], " quick quick brownthe", [[0, 6], [18, 21]]),
        ([the, brown, fox], "the brown fox", []),
        ([], "", []),
    ):
        found = _describe_text(tokens, base, tokenizer)
        assert found == {"text": text, "differs": differs}


def test_the_passages_that_changed_most(edits: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "few.jsonl"
    file.write_text("\n".join(samples_path("pythia").read_text().splitlines()[::25]))
    few = load_samples(str(file))
    call = ("compare", BASE, edits[0], "--samples", file, "--rows", 3, "--device", "cpu")
    shown = attn_surgery(*call, "--json").json["rows"]
    models = [open_model(str(name), device="cpu").model for name in (BASE, edits[0])]
    members = few.select(few.trained_on)
    before, after = (extract(model, members).nll for model in models)
    order = np.argsort(-np.abs(after - before), kind="stable")[:3]
    assert [row["id"] for row in shown] == [members.ids[at] for at in order]
    assert shown[0]["outputs"][0]["nll"] == pytest.approx(before[order[0]], abs=1e-5)
    assert shown[0]["outputs"][1]["nll"] == pytest.approx(after[order[0]], abs=1e-5)
    assert [one["text"] for one in shown[0]["outputs"]] == [None, None]
    text = open_model(BASE).tokenizer.decode(members.suffixes[order[0]])
    hidden = attn_surgery(*call)
    seen = attn_surgery(*call, "--show-text", "--json")
    assert seen.json["rows"][0]["follows"] == text
    assert seen.json["rows"][0]["outputs"][1]["text"] != text
    assert text[:20] not in hidden.stdout + json.dumps(shown)
    assert hidden.stderr.splitlines()[-1].startswith("--show-text shows the passages, and what ")
    assert "--show-text" not in seen.stderr


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_on_a_terminal(columns: int, compared: dict[str, Any]) -> None:
    """Beside each other where there is room, nothing beyond the edge, what differs in color."""
    from cli.tables.comparison import print_comparison

    printed = on_terminal(columns, lambda: print_comparison(compared))
    plain = re.sub(r"\x1b\[[\d;]*m", "", printed)
    assert max(map(len, plain.splitlines())) <= columns, plain
    assert "\x1b[1;31m" in printed
    both = {line for line in plain.splitlines() if "stock" in line and "compact" in line}
    assert (len(both) == 1) == (columns == 120)  # the head of the texts


def test_a_person_types_prompts(edits: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter(["a b " * 400, "def main(", ""])
    monkeypatch.setattr(builtins, "input", lambda shown: next(typed))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    outcome = attn_surgery("compare", BASE, edits[0], "--max-new-tokens", 4)
    assert outcome.code == 0, outcome
    assert "the prompt does not fit the model" in outcome.stderr, "the next one does"
    assert "prompt: def main(" in outcome.stdout
    assert "stock, greedy: " in outcome.stdout


def test_prompts_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("prompt: [one, two]\nmax-new-tokens: 2\n")
    found = attn_surgery("compare", BASE, BASE, "--config", tmp_path / "p.yaml", "--json").json
    assert [row["prompt"] for row in found["rows"]] == ["one", "two"]


def test_mistakes() -> None:
    pair = ("compare", BASE, BASE)
    for call, text in (
        (
            (),
            "nothing to compare: give --prompt or --samples (on a terminal, without --json, the "
            "command asks for prompts)",
        ),
        (("--prompt", " "), "--prompt is empty"),
        (("--prompt", "one", "--seed", 1), "seed of --config needs --sample"),
        (("--samples", "s.txt", "--max-new-tokens", 8), "--max-new-tokens needs --prompt"),
        (("--samples", "s.txt", "--sample", 2), "--sample needs --show-text"),
    ):
        outcome = attn_surgery(*pair, *call)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert text in outcome.stderr
    for call, text in (
        (("--prompt", "a b " * 400), "the prompt does not fit the model (expected 1 to "),
        (
            ("--prompt", "one", "--max-new-tokens", 5000),
            "--max-new-tokens: the model has no room for so many tokens (expected less than the ",
        ),
    ):
        attn_surgery(*pair, *call).assert_error(text)


def test_models_that_read_other_text(tmp_path: Path) -> None:
    """Other tokens, or none: told before a prompt or a passage is read."""
    whole, other = model(tmp_path / "whole"), model(tmp_path / "other")
    bare, rows = model(tmp_path / "bare", tokenizer=False), samples(tmp_path / "samples.jsonl")
    vocabulary = other / "tokenizer.json"
    swapped = json.loads(vocabulary.read_text())
    words = swapped["model"]["vocab"]
    one, two = sorted(words, key=words.__getitem__)[-2:]
    words[one], words[two] = words[two], words[one]
    vocabulary.write_text(json.dumps(swapped))
    attn_surgery("compare", whole, other, "--prompt", "one").assert_error(
        "other: its tokenizer has other tokens", "expected the tokens of whole"
    )
    attn_surgery("compare", bare, whole, "--samples", rows, *LENGTHS).assert_error(
        "bare: has no tokenizer to read text with"
    )
