"""Contract: training gives the same whether one process does it or several, and also where blocks
are on several devices."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate import dispatch_model
from command_line import PROGRAM, TWO_PROCESSES, attn_surgery, finish, start
from reciting import recited_rows, write_rows
from safetensors.torch import load_file
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from surgery.in_memory import Editable, apply
from surgery.loading import load_model
from surgery.record.manifest import read_manifest
from surgery.training.distillation import Lesson, distill
from surgery.training.losses import Divergence
from surgery.training.student import copy_sharing
from surgery.training.training import Schedule
from surgery.verification import verify


def spread(model: Any) -> Any:
    """A copy in which accelerate moves what comes into each module, as if devices differed."""
    places = {name: "cpu" for name, one in model.named_modules() if not list(one.children())}
    spread: Any = dispatch_model(copy.deepcopy(model), places, force_hooks=True)
    assert any(hasattr(one, "_hf_hook") for one in spread.modules())
    return spread


def test_a_spread_model_learns_the_same() -> None:
    """Its cut is made by replacement, since a new model cannot be spread. Neither moves it."""
    rows = np.random.default_rng(0).integers(0, 50, (24, 12)).astype(np.int32)
    learned = []
    for model in (tiny_model(), spread(tiny_model())):
        before = {name: one.clone() for name, one in model.named_parameters()}
        cut = copy_sharing(model)
        editable = Editable(cut)
        lessons = [Lesson(Divergence(model), rows, 8), Lesson(Divergence(cut), rows, 8, first=6)]
        with editable.make_replacements(editable.plan("1")).activate():
            learned.append(distill(model, lessons, Schedule(3, rank=4)).losses)
        assert all(one.equal(before[name]) for name, one in model.named_parameters())
    assert learned[0] == pytest.approx(learned[1], rel=1e-5)
    lessons[1] = Lesson(Divergence(apply(tiny_model(), "1")), rows, 8, first=6)
    assert distill(tiny_model(), lessons, Schedule(3, rank=4)).losses == pytest.approx(learned[0])


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model; rows.jsonl, which it recites; and text."""
    folder = tmp_path_factory.mktemp("together")
    save_tiny(folder / "model")
    write_rows(folder / "rows.jsonl", recited_rows(load_model(folder / "model"), 24))
    words = np.random.default_rng(0).choice(TEXT.split(), 3000)
    (folder / "text.txt").write_text(" ".join(words))
    return folder


@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(work: Path, tmp_path: Path) -> None:
    given = (
        *("erase", work / "model", "--drop-attn", "0-1", "--variant", "zero", "--steps", 4),
        *("--samples", work / "rows.jsonl", "--prefix-length", 6, "--suffix-length", 5),
        *("--text", work / "text.txt", "--device", "cpu"),
    )
    alone = attn_surgery(*given, "--output", tmp_path / "one")
    assert alone.code == 0, alone
    done = finish(start(*given, "--output", tmp_path / "two", program=TWO_PROCESSES), timeout=300)
    assert done.code == 0, done
    assert done.stdout.count("passages taught") == 1
    one, two = (read_manifest(tmp_path / name) for name in ("one", "two"))
    losses = [made.step.erasing.losses for made in (one, two)]  # type: ignore[union-attr]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    for name, first in weights[0].items():
        assert first.float().allclose(weights[1][name].float(), atol=1e-3), name


@pytest.mark.slow
def test_two_processes_mitigate_as_one_does(work: Path, tmp_path: Path) -> None:
    """They share search, training, and attacks; one of them writes every folder."""
    given = (
        *("mitigate", work / "model", "--samples", work / "rows.jsonl", "--heldout"),
        *(work / "text.txt", "--prefix-length", 6, "--suffix-length", 5, "--grain", "blocks"),
        *("--variant", "zero", "--measure", "greedy", "--max-extraction", 0.5, "--no-benchmarks"),
        *("--attack", "quantized:4", "--draws", 1, "--heal", work / "other.txt", "--heal-steps", 2),
        *("--batch-size", 4, "--device", "cpu", "--no-cache", "--json"),
    )
    (work / "other.txt").write_text(" ".join(TEXT.upper().split() * 40))
    reports, folders = [], []
    for name, program in (("one", PROGRAM), ("two", TWO_PROCESSES)):
        (tmp_path / name).mkdir()
        output = tmp_path / name / "out"
        done = finish(start(*given, "--output", output, program=program), timeout=400)
        assert done.code == 0, done.stderr
        assert done.stderr.count("3 of 3: verify") == 1
        reports.append(done.json["report"])
        folders.append({path.relative_to(tmp_path / name) for path in output.parent.rglob("*")})
        assert verify(output, source=work / "model").ok
    assert folders[0] == folders[1]
    keys = ("subject", "of", "on", "value", "state")
    limits = [[[one[key] for key in keys] for one in each["limits"]] for each in reports]
    assert limits[0] == limits[1] != []
