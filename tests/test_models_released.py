"""Contract: a job that measures several models in turn has one in memory at a time.

Whether or not it writes a folder, whose journals live until the job ends. Models are let go by
reference counts alone: nothing waits for the garbage collector.
"""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import attn_surgery
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from evals.run import models
from surgery import export

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny, a model; twin, another; cut, an edit of tiny; samples.jsonl; and other text."""
    folder = tmp_path_factory.mktemp("released")
    save_tiny(folder / "tiny")
    save_tiny(folder / "twin")
    export(folder / "tiny", "1", output=folder / "cut")
    write_rows(folder / "samples.jsonl", recited_rows(tiny_model(), 24))
    words = np.random.default_rng(0).choice(TEXT.split(), 600)
    (folder / "words.txt").write_text(" ".join(words))
    return folder


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many earlier models are in memory each time that one has been loaded."""
    made: list[weakref.ref[Any]] = []
    found: list[int] = []
    load = models.load_model

    def note(*given: Any, **options: Any) -> Any:
        model = load(*given, **options)
        found.append(sum(one() is not None for one in made))
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(models, "load_model", note)
    return found


def of_passages(work: Path) -> tuple[object, ...]:
    lengths = ("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu")
    return ("--samples", work / "samples.jsonl", *lengths)


@pytest.mark.parametrize("written", [False, True])
def test_audit(work: Path, tmp_path: Path, alive: list[int], written: bool) -> None:
    call = ("audit", work / "cut", "--baseline", work / "tiny", "--twin", work / "twin")
    call = (*call, "--heldout", work / "words.txt", "--attack", "greedy", *of_passages(work))
    done = attn_surgery(*call, *(("--output", tmp_path / "out") if written else ()))
    assert done.code == 0, done
    assert alive == [0, 0, 0]


@pytest.mark.slow
def test_evaluate(work: Path, tmp_path: Path, alive: list[int]) -> None:
    call = ("evaluate", work / "cut", "--baseline", work / "tiny", "--twin", work / "twin")
    call = (*call, "--heldout", work / "words.txt", "--attack", "greedy", *of_passages(work))
    done = attn_surgery(*call, "--no-benchmarks", "--output", tmp_path / "out")
    assert done.code == 0, done
    assert len(alive) == 3
    assert not any(alive)


@pytest.mark.slow
def test_mitigate(work: Path, tmp_path: Path, alive: list[int]) -> None:
    call = (
        "mitigate",
        work / "tiny",
        "--grain",
        "blocks",
        "--variant",
        "zero",
        "--max-extraction",
        0.5,
    )
    call = (
        *call,
        "--measure",
        "greedy",
        "--heldout",
        work / "words.txt",
        "--attack",
        "near",
        *of_passages(work),
    )
    done = attn_surgery(*call, "--no-benchmarks", "--output", tmp_path / "out")
    assert done.code == 0, done
    assert len(alive) >= 3, "of the search, the base, and the result"
    assert not any(alive)
