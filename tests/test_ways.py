"""Contract: what teaches a model to forget is a cut of it, another model, or itself nearsighted, or
nothing does, and a loss takes the place of a teacher.

- A short context predicts each token as the model does that gets nothing but the last K.
- A loss without a teacher is that of its paper, passage by passage, however they are divided.
- Each way forgets, is recorded, verifies without its teacher, and repeats to the bit.
- A teacher that recites the passages, or that has other tokens, is refused, and nothing is written.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import Outcome, attn_surgery
from reciting import recited_rows, write_rows
from tiny_tokenizer import save_tiny, tiny_model

import surgery
from evals.choose.teachers import _see_little, choose_teacher
from evals.data import load_samples
from evals.run.models import open_model
from surgery.record.manifest import ErasingRecord, ShortContext, Source, read_manifest
from surgery.training.losses import find_recited
from surgery.training.ways.context import ByContext
from surgery.verification import verify

pytestmark = pytest.mark.usefixtures("blank_pictures")
ROWS, STEPS = 12, 6
CUT = ("--prefix-length", 6, "--suffix-length", 5)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base; samples.jsonl, which it recites, but not from one token; public, a model of the same
    tokens that recites none; text.txt; other and wider: models with other tokens, and with more."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny(folder / "base")
    save_tiny(folder / "public", tiny_model(1))
    save_tiny(folder / "wider", tiny_model(1, vocab_size=tiny_model().config.vocab_size + 8))
    shutil.copytree(folder / "public", folder / "other")
    tokenizer = folder / "other" / "tokenizer.json"
    described = json.loads(tokenizer.read_text())
    vocabulary = described["model"]["vocab"]
    first, second = list(vocabulary)[40:42]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    tokenizer.write_text(json.dumps(described))
    rows = recited_rows(tiny_model(), 2 * ROWS)
    with ByContext(1).open(tiny_model()) as loss:
        tokens = np.asarray([row["tokens"] for row in rows], np.int32)
        known = find_recited(loss.teacher, tokens, 6, len(tokens))
    unknown = [row for row, recited in zip(rows, known, strict=True) if not recited]
    write_rows(folder / "samples.jsonl", unknown[:ROWS])
    (folder / "text.txt").write_text(" ".join(f"{n} cold stones {n * 7 % 101}" for n in range(900)))
    return folder


def erase(work: Path, output: Path, by: object, *more: object) -> Outcome:
    given = ("--samples", work / "samples.jsonl", *CUT, "--text", work / "text.txt")
    where = ("--steps", STEPS, "--output", output, "--device", "cpu")
    return attn_surgery("erase", work / "base", *given, *where, "--by", by, *more)


def read(folder: Path) -> ErasingRecord:
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.step.erasing is not None
    return manifest.step.erasing


@pytest.mark.parametrize("window", [1, 3, 9, 40])
def test_a_short_context_is_all_that_the_teacher_sees(window: int) -> None:
    model, ids = tiny_model(), torch.arange(2, 26).view(2, 12)
    with torch.no_grad(), ByContext(window).open(model) as loss:
        for kept in (0, 1, 5):
            logits = loss.teacher(input_ids=ids, logits_to_keep=kept).logits
            ends = range(1, 13)[-kept:]
            alone = [model(ids[:, max(0, end - window) : end]).logits[:, -1] for end in ends]
            torch.testing.assert_close(logits, torch.stack(alone, 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["model", "context"])
def test_each_way_forgets_is_recorded(work: Path, tmp_path: Path, way: str) -> None:
    out = tmp_path / "out"
    by = {"model": str(work / "public"), "context": "context:1"}.get(way, way)
    done = erase(work, out, by)
    assert done.code == 0, done.stderr
    record = read(out)
    assert record.recital is not None
    assert record.recital.by_teacher == 0
    assert record.recital.recited < ROWS / 2
    assert (record.cut_parts, record.calibration) == ([], None)
    told = attn_surgery("inspect", out).stdout
    card = (out / "README.md").read_text()
    if way == "model":
        assert isinstance(record.teacher, Source)
        assert (record.teacher.model, record.teacher.commit) == ("public", None)
        assert record.teacher.content is not None
        assert "taught by the model public, not hardened" in told
        assert "--by public" in card
        assert str(work) not in card + (out / "surgery.json").read_text()
    else:
        assert record.teacher == ShortContext(context=1)
        assert "taught by the model itself with a context of 1 token, not hardened" in told
        assert "--by context:1" in card
    assert "the attention of some blocks" not in card
    assert surgery.inspect(out).attention_free == {}
    assert verify(out, source=work / "base").ok, "without the teacher"
    assert "already holds this result" in erase(work, out, by).stderr
    cut = erase(work, out, "cut", "--drop-attn", "0")
    cut.assert_error("already exists")


def test_without_a_way_a_look_chooses_and_says_why(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same again, so that it finds what it made. What sees as much as the model knows as much
    as the model."""
    monkeypatch.setattr("evals.jobs.erasing.CONTEXT", 1)
    given = ("--samples", work / "samples.jsonl", *CUT, "--text", work / "text.txt")
    asked = ("erase", work / "base", *given, "--steps", 1, "--output", tmp_path / "out")
    done = attn_surgery(*asked, "--device", "cpu")
    assert done.code == 0, done.stderr
    (said,) = (line for line in done.stderr.splitlines() if line.startswith("teacher: "))
    assert "a context of 1 token" in said
    assert "blocks " in said
    assert re.search(r"\. It (knows fewer passages|reads new text no worse) than ", said), said
    record = read(tmp_path / "out")
    assert (record.teacher == ShortContext(context=1)) is said.startswith("teacher: a context")
    assert "already holds this result" in attn_surgery(*asked, "--device", "cpu").stderr
    loaded = open_model(str(work / "base"), device="cpu")
    tokens = load_samples(str(work / "samples.jsonl"), prefix_length=6, suffix_length=5)
    others = np.random.default_rng(0).integers(2, 300, (ROWS, 11)).astype(np.int32)
    seen = _see_little(loaded.model, tokens, 40)
    assert seen.right.all()
    assert isinstance(choose_teacher(loaded, tokens, others, 40), tuple), "of blocks"
    monkeypatch.setattr("evals.choose.teachers.list_runs", lambda *_: [])
    assert choose_teacher(loaded, tokens, others, 1) == ShortContext(context=1)


def test_python_takes_each_way(work: Path, tmp_path: Path) -> None:
    """And writes what the command writes."""
    rows = [
        json.loads(line)["tokens"] for line in (work / "samples.jsonl").read_text().splitlines()
    ]
    told = {"text": [work / "text.txt"], "steps": 1}
    for number, by in enumerate((str(work / "public"), "context:1")):
        out, made = tmp_path / f"{number}", tmp_path / f"made-{number}"
        done = erase(work, out, by, "--steps", 1)
        assert done.code == 0, done.stderr
        export = surgery.erase(work / "base", None, rows, 6, by=by, output=made, **told)
        assert export.manifest.step.erasing is not None
        assert export.manifest.step.erasing.teacher == read(out).teacher
        weights = [(folder / "model.safetensors").read_bytes() for folder in (out, made)]
        assert weights[0] == weights[1]
    both = "`drop_attn` names the cut that teaches, and goes with no other way"
    for cut, by in (("0", "context:1"), (None, "cut")):
        with pytest.raises(surgery.SurgeryError, match=both):
            surgery.erase(work / "base", cut, rows, 6, by=by, output=tmp_path / "no", **told)
    with pytest.raises(surgery.SurgeryError, match="no such way"):
        surgery.erase(work / "base", None, rows, 6, by="context:", output=tmp_path / "no", **told)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("by", ["public", "context:1"])
def test_a_hardened_adapter_is_proved(work: Path, tmp_path: Path, by: str) -> None:
    out, way = tmp_path / "out", work / by if by == "public" else by
    done = erase(work, out, way, "--steps", 2, "--harden", "--as-adapter")
    assert done.code == 0, done.stderr
    assert read(out).hardened
    assert verify(out, source=work / "base").ok


def test_a_teacher_that_recites_is_refused(work: Path, tmp_path: Path) -> None:
    for by, advice in (
        (work / "base", "name a model that never saw them"),
        ("context:11", "let it see fewer tokens"),
    ):
        refused = erase(work, tmp_path / "out", by)
        refused.assert_error("the teacher recites the passages itself", advice)
    assert not list(tmp_path.iterdir())


def test_a_teacher_with_other_tokens_is_refused_before_any_work(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.jobs.erasing.open_lessons", lambda *_, **__: pytest.fail("read"))
    for name, said in (("wider", "a vocabulary of"), ("other", "the same text for each token id")):
        refused = erase(work, tmp_path / "out", work / name)
        refused.assert_error("has other tokens than base, so it cannot teach it", said)
    erase(work, tmp_path / "out", tmp_path / "no").assert_error("no")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("context:0",), "--by: no such way (expected context:K, such as context:8, got "),
        (("context:few",), "--by: no such way (expected context:K, such as context:8, got "),
        (("npo",), "--by: no such way, and no such model (expected context:K, cut, a folder"),
        (("contxt:8",), "--by: no such way, and no such model (expected context:K, cut, a folder"),
        (("context:8", "--drop-attn", "0"), "--drop-attn is of a cut: leave it out, or leave out"),
        (("public", "--plan", "plan.json"), "--plan is of a cut: leave it out, or leave out --by"),
        (("public", "--device", "all"), "a model that teaches needs one device"),
    ],
)
def test_what_does_not_go_together(work: Path, given: tuple[str, ...], said: str) -> None:
    usage = erase(work, work / "out", *given)
    assert (usage.code, said in usage.stderr) == (2, True), usage
    assert not (work / "out").exists()


def test_adapters_larger_than_the_weights_are_refused(work: Path, tmp_path: Path) -> None:
    refused = erase(work, tmp_path / "out", "context:1", "--adapters", 100_000)
    refused.assert_error("--adapters: adapters of a rank above the width of the model", "100,000")
    assert not list(tmp_path.iterdir())
