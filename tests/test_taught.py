"""Contract: figures tell passages that a model was taught from those that it was not.

- A plan that a search chose on half of the passages trains on that half alone. The figures are of
  the other half, with intervals; those that were taught stand apart, without.
- A model that was taught all passages is measured on these. They are all there is: no interval, the
  count decides limits, and the sentence says that no others were tested.
- The record tells which passages were taught wherever they are measured; otherwise, there is doubt.
- The commands of the card train on the same half.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Outcome, attn_surgery, run_card
from reciting import recited_rows, write_rows
from results import list_attacks, read_report, take
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from evals.data import Samples, hash_row, load_samples
from evals.data.held_back import deal_passages
from surgery.card.measurements import name_limit
from surgery.record.manifest import read_manifest
from surgery.record.report import Report
from surgery.verification import verify

pytestmark = pytest.mark.usefixtures("blank_pictures")
OTHER = " ".join(f"{number} cold stones {number * 7 % 101} under" for number in range(900))
SEED, ROWS = 3, 12
CUT = ("--prefix-length", 6, "--suffix-length", 5)
TWO = ("--attack", "greedy", "--attack", "quantized:4")
LIMITED = ("--max", "greedy=0.9")


@pytest.fixture(scope="module", autouse=True)
def few_attacks() -> Any:
    """Those that every trained model must face take most of the time. Tables are wide."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.measure.attacks.trying.TRAINED", ())
        patch.setattr("cli.console._WIDTH", 300)  # so that no label wraps
        yield


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base; samples.jsonl, and a plan that was chosen on half of it; half and all: erased models,
    taught with and without the plan; text that is held out, and other.txt to train on."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny(folder / "base")
    write_rows(folder / "samples.jsonl", recited_rows(tiny_model(), ROWS))
    (folder / "text.txt").write_text(TEXT)
    (folder / "other.txt").write_text(OTHER)
    samples = read(folder)
    plan = {
        "edits": [{"drop_attn": "0-1", "variant": "zero"}],
        "chosen": {
            "seed": SEED,
            "passages": hash_row(samples.tokens[deal_passages(samples, SEED)[0]]),
            "windows": "0" * 64,
        },
    }
    (folder / "plan.json").write_text(json.dumps(plan))
    half = erase(folder, folder / "half", "--plan", folder / "plan.json")
    assert half.code == 0, half.stderr
    assert f"training takes the {ROWS // 2} passages on which the search chose" in half.stderr
    every = erase(folder, folder / "all", "--drop-attn", "0-1", "--variant", "zero")
    assert every.code == 0, every.stderr
    assert "training takes" not in every.stderr
    assert f"each of {ROWS} passages is shown 2.0 times. Train for 3 steps" in every.stderr
    return folder


def test_an_erasing_that_shows_each_passage_often_does_not_warn(work: Path, tmp_path: Path) -> None:
    often = erase(work, tmp_path / "out", *("--drop-attn", "0-1", "--variant", "zero"), steps=3)
    assert often.code == 0, often.stderr
    assert "times" not in often.stderr


def read(work: Path) -> Samples:
    return load_samples(str(work / "samples.jsonl"), prefix_length=6, suffix_length=5)


def erase(
    work: Path, output: Path, *more: object, samples: str = "samples.jsonl", steps: int = 1
) -> Outcome:
    given = ("--samples", work / samples, *CUT, "--text", work / "other.txt", "--steps", steps)
    return attn_surgery("erase", work / "base", *given, "--output", output, *more)


def run(command: str, work: Path, model: str, *more: object) -> Outcome:
    return attn_surgery(
        *(command, work / model, "--baseline", work / "base", *CUT, "--device", "cpu"),
        *("--samples", work / "samples.jsonl", "--heldout", work / "text.txt", *more),
    )


def audit(work: Path, model: str, *more: object) -> Outcome:
    return run("audit", work, model, *TWO, *more)


def test_a_plan_of_a_search_trains_on_what_it_chose_on(work: Path) -> None:
    manifest = read_manifest(work / "half")
    assert manifest is not None
    assert manifest.step.erasing is not None
    assert manifest.step.chosen is not None
    passages = manifest.step.erasing.passages
    assert (passages.number, passages.sha256) == (ROWS // 2, manifest.step.chosen.passages)
    assert verify(work / "half", source=work / "base").ok


def test_half_that_was_taught_stands_apart(work: Path, tmp_path: Path) -> None:
    done = audit(work, "half", "--max", "greedy=0.9", "--rows", tmp_path / "rows.jsonl", "--json")
    found = read_report(done)
    (edit,) = found.edits
    assert edit.chose["passages"] == edit.chose["taught"] == ROWS // 2
    for name in ("recited", *(f"recovered.{one}" for one in list_attacks(found))):
        assert (take(found, name).n, take(found, name).on) == (6, "not taught")
        assert take(found, name).ci95
        for of in ("base", "edited"):
            row = take(found, name, of, "taught")
            assert (row.n, row.ci95) == (6, None)
        assert found.find(name, "edited", "all") is None
    first, second = found.limits
    assert (name_limit(first), first.on, first.state) == ("max greedy", "not taught", "kept")
    assert (name_limit(second), second.on) == ("max greedy, taught", "taught")
    assert second.state == "kept"
    assert "It keeps every limit." in edit.verdict, "both halves were measured"
    assert "6 passages that it was taught" in edit.verdict
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["counted"] for row in rows] == [not row["taught"] for row in rows]
    assert sum(row["taught"] for row in rows) == 6
    told = audit(work, "half")
    assert "It was taught 6 passages; the figures leave these out." in told.stdout
    assert told.find_row("recovered by greedy", "\nPassages that it was taught:\n")[1] == "6"


def test_all_that_was_taught_is_all_there_is(work: Path) -> None:
    """Twelve passages decide a limit of 1 %, but only for these twelve."""
    done = audit(work, "all", "--json")
    found = read_report(done)
    assert {row.on for row in found.figures if row.name == "recited"} == {"taught"}
    assert (take(found, "recited").n, found.edits[0].chose["taught"]) == (12, 12)
    rows = {
        name: [take(found, f"recovered.{name}", of) for of in ("base", "edited")]
        for name in list_attacks(found)
    }
    for name, (base, edited) in rows.items():
        assert base.ci95 is edited.ci95 is edited.change.ci95 is None
        control = take(found, f"recovered.{name}", on="never trained on")
        assert control.ci95 is not None, "that is a sample"
    most = max(edited.value for _, edited in rows.values())
    done = audit(work, "all", "--max", f"greedy={most + 0.01}", "--json")
    assert done.code == 0, done.stderr
    kept = read_report(done)
    ((limit,), verdict) = kept.limits, kept.edits[0].verdict
    assert (limit.state, limit.on, limit.needed) == ("kept", "taught", None)
    assert "of the 12 that it was taught" in limit.description
    assert (
        "It keeps every limit on the 12 passages that were listed; passages that were not listed "
        "were not tested."
    ) in verdict
    assert "of 12 passages that were listed" in verdict
    assert "to decide" not in done.stderr
    told = audit(work, "all")
    assert "of the 12 passages that were listed word for word" in told.stdout
    *row, control = told.find_row("recovered by greedy")
    assert "[" in control
    assert "[" not in "".join(row), "no interval but of the control"
    missed = audit(work, "base", "--baseline", work / "all", "--max", "greedy=0.5", "--json")
    assert missed.code == 3
    greedy = take(read_report(missed), "recovered.greedy")
    assert greedy.ci95, "the base itself was taught nothing"


@pytest.mark.parametrize(("model", "whole"), [("half", False), ("all", True)])
def test_an_extraction_tells_them_apart(model: str, whole: bool, work: Path) -> None:
    done = run("extract", work, model, "--metrics", "full")
    assert done.code == 0, done.stderr
    found = read_report(run("extract", work, model, "--json"))
    recited = take(found, "recited")
    assert (recited.ci95 is None) == (recited.change.ci95 is None) == whole
    assert take(found, "heldout").ci95 is not None
    if whole:
        assert "of the 12 passages that were listed word for word" in done.stdout
        assert {row.on for row in found.figures if row.name == "recited"} == {"taught"}
    else:
        taught = [take(found, "recited", of, "taught") for of in ("base", "edited")]
        assert [row.ci95 for row in taught] == [None, None]
        assert taught[0].details["count"] == taught[0].n == 6
        row = done.find_row("recited word for word", "\nPassages that it was taught:\n")
        assert row[1] == "6"


def evaluate(work: Path, output: Path, *models: Path, more: tuple[object, ...] = ()) -> Report:
    done = attn_surgery(
        *("evaluate", *models, "--baseline", work / "base", *CUT, "--device", "cpu", *TWO),
        *("--samples", work / "samples.jsonl", "--heldout", work / "text.txt", "--suite", "none"),
        *("--output", output, "--json", *more),
    )
    assert done.code in (0, 3, 4), done.stderr
    return read_report(done)


def test_a_report_has_both_under_their_names(work: Path, tmp_path: Path) -> None:
    report = evaluate(work, tmp_path / "half", work / "half", more=("--max", "greedy=0.9"))
    (edit,) = report.edits
    assert edit.chose["taught"] == 6
    for of in ("base", "edited"):
        taught = take(report, "recovered.quantized:4", of, "taught")
        assert (taught.n, taught.ci95) == (6, None)
    limit = report.limits[-1]
    assert (name_limit(limit), limit.state) == ("max greedy, taught", "kept")
    assert take(report, "recited").ci95 is not None
    assert report.find("recited", "edited", "all") is None
    assert "It was taught 6 passages; the figures leave these out." in edit.verdict
    assert "Of the 6 passages that it was taught, it recites" in edit.verdict
    page = (tmp_path / "half" / "report.html").read_text()
    assert "Passages that it was taught" in page
    assert "Of the 6 other passages, which it was taught, it completes" in page
    assert "None of these passages was taught." in page

    whole = evaluate(work, tmp_path / "all", work / "all", more=("--max", "greedy=0.9"))
    (edit,) = whole.edits
    shares = [take(whole, f"recovered.{name}") for name in ("greedy", "quantized:4")]
    assert [row.ci95 for row in shares] == [None, None]
    assert edit.state == "kept"
    assert "passages that were not listed were not tested" in edit.line
    assert "of the 12 passages that were listed word for word" in edit.verdict
    page = (tmp_path / "all" / "report.html").read_text()
    assert "likely at most" not in page
    assert "They say nothing of passages that were not listed." in page


def test_passages_that_hold_those_taught_are_told_apart_only_by_how_they_were_taken(
    work: Path, tmp_path: Path
) -> None:
    """A share that was left out is known; of other passages, some may have been taught."""
    done = erase(work, tmp_path / "some", "--drop-attn", 0, "--leave-out", 0.25)
    assert done.code == 0, done
    found = attn_surgery(
        *("audit", tmp_path / "some", "--baseline", work / "base", *CUT, *TWO, "--device", "cpu"),
        *("--samples", work / "samples.jsonl", "--heldout", work / "text.txt", "--json"),
    )
    report = read_report(found)
    assert (take(report, "recited").n, take(report, "recited", on="taught").n) == (3, 9)
    assert report.edits[0].chose["taught"] == 9
    rows = (work / "samples.jsonl").read_text().splitlines()
    (work / "few.jsonl").write_text("\n".join(rows[:8]))
    other = audit(work, "all", "--samples", work / "few.jsonl", "--max", "greedy=1", "--json")
    (edit,) = read_report(other).edits
    assert edit.chose["taught"] is None
    assert take(read_report(other), "recovered.greedy").ci95
    assert "an edit here was trained on other passages" in other.stderr
    assert edit.verdict.startswith("The edit was trained on other passages, or on these ")


def test_the_same_half_is_trained_on_again(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("base", "samples.jsonl", "other.txt"):
        (tmp_path / name).symlink_to(work / name)
    (tmp_path / "half").symlink_to(work / "half")
    monkeypatch.chdir(tmp_path)
    ((_, erased),) = run_card(Path("half") / "README.md")
    assert erased.code == 0, erased
    (made,) = [place for place in tmp_path.iterdir() if not place.is_symlink() and place.is_dir()]
    first, second = (read_manifest(place) for place in (work / "half", made))
    assert first is not None
    assert second is not None
    assert first.files["model.safetensors"] == second.files["model.safetensors"]


def test_the_cut_of_a_plan_is_healed_on_the_same_half(work: Path, tmp_path: Path) -> None:
    """And takes up only what was trained on it."""
    plan = ("--plan", work / "plan.json", "--output", tmp_path / "cut")
    assert attn_surgery("export", work / "base", *plan).code == 0
    heal = ("heal", tmp_path / "cut", "--source", work / "base", *CUT, "--steps", 1)
    heal = (*heal, "--text", work / "other.txt")
    samples = ("--samples", work / "samples.jsonl")
    done = attn_surgery(*heal, *samples, "--output", tmp_path / "out")
    assert done.code == 0, done
    assert "training takes the 6 passages on which the search chose the plan" in done.stderr
    manifest = read_manifest(tmp_path / "out")
    assert manifest is not None
    trained = manifest.step.healing
    assert trained is not None
    assert manifest.step.chosen is not None
    assert getattr(trained.passages, "sha256", None) == manifest.step.chosen.passages
    report = evaluate(work, tmp_path / "report", tmp_path / "out")
    assert (take(report, "recited").n, take(report, "recited", on="taught").n) == (6, 6)
    rows = (work / "samples.jsonl").read_text().splitlines()
    (tmp_path / "few.jsonl").write_text("\n".join(rows[:8]))
    few = ("--samples", tmp_path / "few.jsonl", "--output", tmp_path / "others")
    others = attn_surgery(*heal, *few)
    assert "training takes all 8 passages: the search chose the plan on other" in others.stderr
