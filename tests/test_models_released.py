"""Contract: a job that needs several models in turn has one in memory at a time, and what was made
of a model goes with it. Healing alone has two: a cut, and beside it its source.

Whether or not it writes a folder, and keeps finished work. Models are let go by
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
from surgery.editing import in_memory, loading
from surgery.fitting import fitter
from surgery.proof import behavior
from surgery.training import student
from surgery.training.ways import cut
from surgery.training.ways import model as other_model

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny, a model; twin, another; cut, an edit of tiny; samples.jsonl, which tiny recites, and
    unknown.jsonl; words.txt, and other.txt to train on."""
    folder = tmp_path_factory.mktemp("released")
    save_tiny(folder / "tiny")
    save_tiny(folder / "twin")
    export(folder / "tiny", "1", output=folder / "cut")
    write_rows(folder / "samples.jsonl", recited_rows(tiny_model(), 24))
    words = np.random.default_rng(0).choice(TEXT.split(), 600)
    (folder / "words.txt").write_text(" ".join(words))
    (folder / "other.txt").write_text(TEXT.upper() * 30)
    rows = np.random.default_rng(2).integers(1, 250, (24, 11)).tolist()
    write_rows(
        folder / "unknown.jsonl", [{"id": str(at), "tokens": row} for at, row in enumerate(rows)]
    )
    return folder


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many earlier models are in memory each time that one is loaded: those that were loaded,
    and those that were edited or trained."""
    made: list[weakref.ref[Any]] = []
    found: list[int] = []
    load, share, edit = loading.load_model, student.copy_sharing, in_memory._rebuild

    def note(model: Any) -> Any:
        made.append(weakref.ref(model))
        return model

    def count(*given: Any, **options: Any) -> Any:
        found.append(sum(one() is not None for one in made))
        return note(load(*given, **options))

    for owner in (loading, models, fitter, behavior):
        monkeypatch.setattr(owner, "load_model", count)
    for where in (student, cut, other_model):
        monkeypatch.setattr(where, "copy_sharing", lambda *given: note(share(*given)))
    monkeypatch.setattr(in_memory, "_rebuild", lambda *given: note(edit(*given)))
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
    done = attn_surgery(*call, "--suite", "none", "--output", tmp_path / "out")
    assert done.code == 0, done
    assert len(alive) == 3
    assert not any(alive)


def test_erase_with_a_teacher_that_it_chooses(work: Path, tmp_path: Path, alive: list[int]) -> None:
    given = ("--samples", work / "unknown.jsonl", "--prefix-length", 6, "--suffix-length", 5)
    more = ("--text", work / "other.txt", "--steps", 2, "--device", "cpu", "--adapters", 4)
    done = attn_surgery("erase", work / "tiny", *given, *more, "--output", tmp_path / "out")
    assert done.code == 0, done
    assert alive == [0, 0], "to choose, and to teach"


def test_a_chain_of_steps(work: Path, tmp_path: Path, alive: list[int]) -> None:
    taught = ("--samples", work / "unknown.jsonl", "--prefix-length", 6, "--suffix-length", 5)
    taught += ("--text", work / "other.txt", "--steps", 2)
    cut = ("--drop-attn", "1", "--variant", "mean", "--calibration", work / "other.txt")
    made = [tmp_path / name for name in ("erased", "cut", "healed")]
    for call in (
        ("erase", work / "tiny", *taught, *cut, "--output", made[0]),
        ("export", made[0], *cut, "--output", made[1]),
        ("heal", made[1], *taught, "--source", work / "tiny", "--output", made[2]),
    ):
        done = attn_surgery(*call)
        assert done.code == 0, done
    assert alive == [0, 0, 0, 0, 1], "to fit the teacher, to erase, to fit, to heal, and its source"


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_mitigate_with_training(work: Path, tmp_path: Path, alive: list[int]) -> None:
    """Every phase: a search that heals and attacks, erasing, healing, proofs, and attacks."""
    call = (
        "mitigate",
        work / "tiny",
        "--grain",
        "blocks",
        "--variant",
        "zero",
        "--measure",
        "greedy",
    )
    call = (*call, "--max-extraction", 0.5, "--max", "relearn=1", "--heldout", work / "words.txt")
    call = (*call, "--erase", "--erase-steps", 2, "--heal", work / "other.txt", "--heal-steps", 2)
    call = (*call, "--no-benchmarks", "--attack", "near", *of_passages(work))
    done = attn_surgery(*call, "--allow-undecided", "--output", tmp_path / "out")
    assert done.code == 0, done
    assert len(alive) > 12, "of the search, the results, their proofs, and their attacks"
    assert max(alive) == 1
    assert alive.count(1) == 3, "the sources of the three results that are healed"


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
