"""Contract: what training costs new text of the passages' form is kept low, measured, and limited.

- Of the records that `--never` names, the same half is kept by every command, whatever their order
  and labels; no command trains on the other half, on which reports measure the cost *form*.
- What was kept is recorded, and repeats to the bit with the same records alone.
- A limit on it is decided by the rise of the loss and its interval.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Outcome, attn_surgery
from reciting import recited_rows, write_rows
from tiny_tokenizer import save_tiny, tiny_model

from evals.data import Samples, open_samples
from evals.data.never import add_never, split_never
from evals.measure.differences import compare_losses
from evals.table.limits import ask_form, decide
from surgery.errors import SamplesError
from surgery.fitting.calibration import Calibration
from surgery.record.manifest import NeverRecord, read_manifest
from surgery.record.measured import EDITED
from surgery.training import distillation
from surgery.training.distillation import Lesson, TaughtRows, distill, teach
from surgery.training.losses import Divergence
from surgery.training.training import ROWS, Schedule

pytestmark = pytest.mark.usefixtures("blank_pictures")
NUMBER = 70
CUT = ("--prefix-length", 6, "--suffix-length", 5)


def make_rows(number: int = NUMBER) -> list[dict[str, Any]]:
    tokens = np.random.default_rng(4).integers(2, 300, (number, 11)).tolist()
    return [{"id": f"new-{at}", "tokens": row, "member": False} for at, row in enumerate(tokens)]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base; samples.jsonl, which it recites; never.jsonl, which nobody does; text.txt."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny(folder / "base")
    save_tiny(folder / "public", tiny_model(1))
    write_rows(folder / "samples.jsonl", recited_rows(tiny_model(), 12))
    write_rows(folder / "never.jsonl", make_rows())
    (folder / "text.txt").write_text(" ".join(f"{n} cold stones {n * 7 % 101}" for n in range(900)))
    return folder


def erase(work: Path, output: Path, *more: object) -> Outcome:
    given = ("--samples", work / "samples.jsonl", *CUT, "--text", work / "text.txt")
    where = ("--steps", 2, "--output", output, "--device", "cpu", "--by", work / "public")
    return attn_surgery("erase", work / "base", *given, *where, *more)


def open_rows(path: Path, **more: Any) -> Any:
    return open_samples(str(path), prefix_length=6, suffix_length=5, labeled=False, **more)


def read(folder: Path) -> NeverRecord | None:
    manifest = read_manifest(folder)
    assert manifest is not None
    assert manifest.step.erasing is not None
    return manifest.step.erasing.never


def test_content_decides_which_half_is_kept(work: Path, tmp_path: Path) -> None:
    passages = open_samples(str(work / "samples.jsonl"), prefix_length=6, suffix_length=5)
    samples = passages.tokenize(None)
    kept, tested = split_never(open_rows(work / "never.jsonl"), samples, None)
    assert (len(kept), len(tested)) == (NUMBER // 2, NUMBER // 2)
    assert not {*kept.hashes} & {*tested.hashes}
    plain = [{"tokens": row["tokens"]} for row in make_rows()[::-1]]
    again = split_never(open_rows(write_rows(tmp_path / "back.jsonl", plain)), samples, None)
    assert [{*half.hashes} for half in again] == [{*kept.hashes}, {*tested.hashes}]
    both = add_never(samples, tested)
    assert (both.trained_on == (np.arange(len(both)) < len(samples))).all()
    assert both.select(both.trained_on).sha256 == samples.sha256


def test_secrets_of_other_lengths_and_counts_stay(work: Path) -> None:
    """Rows of 8 tokens among some of 11; passages whose counts are known."""
    passages = Samples(
        np.full((2, 8), 5, np.int32), 6, ("a", "b"), "made here", counts=np.array([3, 4]),
        after=(np.ones(2, np.int32), np.empty(0, np.int32)),
    )  # fmt: skip
    both = add_never(passages, open_rows(work / "never.jsonl").tokenize(None))
    assert both.tokens.shape == (2 + NUMBER, 11)
    assert both.tokens[0].tolist() == [5] * 8 + [-1] * 3
    assert both.counts is not None
    assert both.after is not None
    assert (both.counts[:2].tolist(), both.counts[2:].any()) == ([3, 4], False)
    assert len(both.after) == len({*both.ids}) == len(both)


def test_what_cannot_be_kept_is_refused(work: Path, tmp_path: Path) -> None:
    mine = [json.loads(line) for line in (work / "samples.jsonl").read_text().splitlines()]
    for rows, more, said in (
        (
            [*make_rows(8), {**mine[3], "member": True}],
            (),
            "1 of 9 records of `never` are among the passages",
        ),
        (make_rows(3), (), "too few records"),
    ):
        named = write_rows(tmp_path / "never.jsonl", rows)
        refused = erase(work, tmp_path / "out", "--never", named, *more)
        refused.assert_error(said.replace("`never`", "--never"))
    samples = open_rows(work / "samples.jsonl").tokenize(None)
    other = replace(open_rows(work / "never.jsonl"), ready=None, prefix=5)
    with pytest.raises(SamplesError, match="prefixes of another length"):
        split_never(other, samples, None)
    assert not (tmp_path / "out").exists()


def test_training_keeps_what_the_model_predicts() -> None:
    """The losses of `teach` are those of a lesson more, which is not the last."""
    rows = np.random.default_rng(0).integers(0, 50, (3, 4, 8)).astype(np.int32)
    student, intact, cut = (tiny_model(seed) for seed in range(3))
    passages, kept = (TaughtRows(some, 4, "rows", "0" * 64) for some in rows[1:])
    text, schedule = Calibration(rows[0], (), spread=True), Schedule(2)
    lessons = [
        Lesson(Divergence(intact), rows[0], ROWS),
        Lesson(Divergence(intact), kept.tokens, distillation.ROWS_OF_PASSAGES),
        Lesson(Divergence(cut), passages.tokens, distillation.ROWS_OF_PASSAGES, 4),
    ]
    found = teach(student, intact, Divergence(cut), text, passages, schedule, kept=kept).losses
    assert found == distill(student, lessons, schedule).losses
    assert found != teach(student, intact, Divergence(cut), text, passages, schedule).losses


def test_what_was_kept_is_recorded_and_measured(work: Path, tmp_path: Path) -> None:
    out, never = tmp_path / "out", work / "never.jsonl"
    done = erase(work, out, "--never", never)
    assert done.code == 0, done.stderr
    record = read(out)
    assert record is not None
    assert (record.kept.name, record.kept.number, record.tested) == ("never.jsonl", 35, 35)
    assert f"The loss on 35 new records of their form moved by {record.rise:+.3f}" in done.stderr
    card = (out / "README.md").read_text()
    assert "On 35 records of their form, it kept what it predicted before." in card
    assert card.count("--never never.jsonl") == 1
    assert "already holds this result" in erase(work, out, "--never", never).stderr
    erase(work, out).assert_error("already exists")

    asked = ("evaluate", out, "--baseline", work / "base", "--samples", work / "samples.jsonl")
    asked = (*asked, *CUT, "--suite", "none", "--output", tmp_path / "report")
    needed = attn_surgery(*asked, "--max-form", 1)
    needed.assert_error("--max-form needs records of the passages' form", "give them with --never")
    found = attn_surgery(*asked, "--never", never, "--max-form", 0.000001, "--json")
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (form,) = (one for one in report["figures"] if one["name"] == "form" and one["of"] == EDITED)
    assert (form["n"], form["on"]) == (35, "never trained on")
    assert form["change"]["difference"] == pytest.approx(record.rise, abs=1e-3)
    (limit,) = report["limits"]
    assert (limit["what"], limit["value"]) == ("form", form["change"]["difference"])
    assert (limit["state"], found.code) in {("missed", 3), ("undecided", 4), ("kept", 0)}
    page = (tmp_path / "report" / "report.md").read_text()
    assert "loss on new text of the passages' form, nats per token" in page


@pytest.mark.parametrize(
    ("rise", "spread", "n", "state"),
    [(0.1, 0.1, 60, "kept"), (0.6, 0.1, 60, "missed"), (0.4, 1.0, 60, "undecided"),
     (0.1, 0.1, 20, "undecided")],
)  # fmt: skip
def test_a_limit_on_the_form(rise: float, spread: float, n: int, state: str) -> None:
    before = np.random.default_rng(0).normal(3, 1, n)
    after = before + rise + spread * np.resize([1, -1], n)
    figures = compare_losses("form", before, after, "never trained on", EDITED)
    (limit,) = decide(figures, ask_form(0.5), EDITED)
    assert (limit.state, limit.unit, limit.value) == (state, "nats", pytest.approx(rise))
    assert (limit.needed is not None) is (state == "undecided")
    (alone,) = decide(compare_losses("form", None, after, "never trained on", EDITED),
                      ask_form(0.5), EDITED)  # fmt: skip
    assert alone.state == "undecided"
    assert "name the model before the edit" in alone.description
