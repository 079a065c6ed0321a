"""`sweep` keeps its contract: JSON keys, figures, files, errors, and one result for any number of
processes.

Figures equal those of `extract` on the exported edit; the output folder is complete or not there; a
killed run goes on; no token and no text is in any output; two processes under `accelerate launch`
print the bytes of one.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from blank import blank_pictures
from command_line import (
    Outcome,
    attn_surgery,
    interrupted,
    running,
)
from grids import find_edit, list_names, read_sweep, take, value
from reciting import members_and_others, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_neo

from cli.terminal import name_options
from evals.choose.sweep.report import SweepResult, format_csv
from evals.jobs.sweeping import owned
from evals.measure.memorization.recovery import NAMES
from surgery.exporting import export
from surgery.output import check_output
from surgery.record.report import Report

LENGTHS = ("--prefix-length", "6", "--suffix-length", "5", "--device", "cpu")
FIGURES = {
    *("recited", "next_token_accuracy", "suffix_nll", "completion_entropy"),
    *("heldout", "kl"),
    *(f"recovered.{name}" for name in NAMES),
}
ESTIMATES = ("estimated_kl", "estimated_margin", "estimated_recited")


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> tuple[Path, Path, Path]:
    """A model folder, 40 rows (30 members, most of them recited; 10 others), and a text."""
    folder = tmp_path_factory.mktemp("files")
    base = tiny_model()
    save_tiny(folder / "model", base)
    samples = write_rows(folder / "samples.jsonl", members_and_others(base))
    (folder / "text.txt").write_text(TEXT * 8)
    return folder / "model", samples, folder / "text.txt"


def sweep(files: tuple[Path, Path, Path], *options: object) -> Outcome:
    model, samples, text = files
    given = ("--samples", samples, "--corpus", text)
    return attn_surgery("sweep", model, *given, *LENGTHS, *options)


@pytest.fixture(scope="module")
def everything(files, tmp_path_factory) -> tuple[SweepResult, Path]:
    output = tmp_path_factory.mktemp("out") / "swept"
    text = files[2]
    done = sweep(files, "--heads", "--ranges", "--calibration", text, "--output", output, "--json")
    result = read_sweep(done)
    assert json.loads((output / "sweep.json").read_text()) == done.json
    return result, output


def test_the_keys_of_the_contract(everything):
    result, output = everything
    assert str(output.parent.parent) not in (output / "sweep.json").read_text(), "no path"
    asked = result.samples
    assert (result.n, asked.prefix_length, asked.suffix_length) == (30, 6, 5)
    assert list_names(result, "base") == FIGURES
    assert take(result, "recited").details["count"] == 24
    assert value(result, "recited") == 24 / 30
    assert value(result, "kl") == 0
    named = [(edit.spec, edit.kind) for edit in result.edits if edit.variant == "zero"]
    assert named == [
        ("0", "block"),
        ("1", "block"),
        ("0-1", "last"),
        ("0.0", "head"),
        ("0.1", "head"),
        ("1.0", "head"),
        ("1.1", "head"),
    ]
    assert len(result.edits) == 4 * 3 + 2 * 4  # so few rotary pairs hold no map of one head
    for edit in result.edits:
        assert list_names(result, edit.of) == FIGURES
        assert (
            value(result, "recited", edit.of)
            == take(result, "recited", edit.of).details["count"] / 30
        )
        assert value(result, "kl", edit.of) > 0
    (last,) = result.edits[-1].parts
    assert (last.block, last.heads) == (1, (1,))
    assert result.calibration is not None
    assert result.calibration["blocks"].keys() == {"0", "1"}
    assert len(str(result.model.provenance["content"])) == 64
    assert {"python", "torch", "transformers"} <= set(result.provenance["versions"])


@pytest.mark.parametrize("edit", [("1", "zero"), ("0-1", "linear"), ("0.1", "mean")])
def test_figures_are_those_of_extract_on_the_exported_edit(files, everything, tmp_path, edit):
    model, samples, text = files
    spec, variant = edit
    fitted_on = [] if variant == "zero" else [text]
    export(model, spec, variant=variant, output=tmp_path / "edited", calibration=fitted_on)
    call = ("--samples", samples, "--control", text, *LENGTHS, "--metrics", "full", "--json")
    theirs = Report.model_validate(attn_surgery("extract", tmp_path / "edited", *call).json)
    result = everything[0]
    of = find_edit(result, *edit).of
    for name in ("recited", "next_token_accuracy"):
        ours, other = take(result, name, of), theirs.find(name, "edited")
        assert other is not None
        assert ours.value == other.value
    ours, other = take(result, "recited", of), theirs.find("recited", "edited")
    assert other is not None
    assert (ours.ci95, ours.n, ours.details) == (other.ci95, other.n, other.details)
    moved = take(result, "heldout", of).change
    assert moved is not None
    assert moved.ci95 is not None
    assert moved.difference == pytest.approx(result.rise(of), abs=1e-9)
    assert moved.ci95[0] <= moved.difference <= moved.ci95[1]
    for name in ("suffix_nll", "completion_entropy", "heldout"):  # last bits: of the processor
        other = theirs.find(name, "edited")
        assert other is not None
        assert value(result, name, of) == pytest.approx(other.value, rel=1e-6)


def test_the_interval_of_a_loss_draws_documents(files, tmp_path):
    """As that of an evaluation: windows of one document are alike."""
    model, samples, _ = files
    words = [np.random.default_rng(at).permutation(TEXT.split()) for at in range(4)]
    text = write_rows(tmp_path / "text.jsonl", [{"text": " ".join([*some] * 4)} for some in words])
    swept = read_sweep(sweep((model, samples, text), "--variant", "zero", "--json"))
    export(model, "1", variant="zero", output=tmp_path / "edited")
    given = ("--baseline", model, "--samples", samples, "--control", text, "--suite", "none")
    given = (*given, "--output", tmp_path / "evaluation")
    theirs = attn_surgery("evaluate", tmp_path / "edited", *given, *LENGTHS, "--json")
    other = Report.model_validate(theirs.json).find("heldout", "edited")
    ours = take(swept, "heldout", find_edit(swept, "1", "zero").of)
    assert ours.n > 2 * len(words)
    assert ours.change.ci95 == pytest.approx(other.change.ci95, rel=1e-5)


def test_a_model_that_recites_nothing(files, tmp_path):
    """There is nothing to remove, so no edit is called the best."""
    model, _, text = files
    samples = tmp_path / "never.npy"
    np.save(samples, np.arange(88).reshape(8, 11))
    nothing = "the unedited model recites none of the passages: there is nothing to remove"
    done = sweep((model, samples, text), "--json")
    assert take(read_sweep(done), "recited").details["count"] == 0
    assert done.json["warnings"] == [nothing]
    assert done.stderr == f"warning: {nothing}\n"
    printed = sweep((model, samples, text))
    assert printed.stderr == f"warning: {nothing}\n"
    assert "best: " not in printed.stdout


def test_the_folder_is_complete(everything):
    result, output = everything
    names = {path.name for path in output.iterdir()}
    assert {"sweep.json", "sweep.csv", "sweep.png", "sweep.svg"} <= names
    rows = list(csv.DictReader((output / "sweep.csv").read_text().splitlines()))
    assert [row["spec"] for row in rows] == ["", *(edit.spec for edit in result.edits)]
    assert (rows[0]["kind"], rows[0]["variant"]) == ("base", "")
    for row, of in zip(rows, ["base", *(edit.of for edit in result.edits)], strict=True):
        for name in FIGURES:
            assert float(row[name]) == value(result, name, of)
        ends = (float(row["recited_low"]), float(row["recited_high"]))
        assert ends == take(result, "recited", of).ci95
        if (moved := take(result, "heldout", of).change) is not None:
            assert float(row["heldout_change"]) == moved.difference
    assert [path.name for path in output.parent.iterdir()] == ["swept"]
    check_output(output, owned, overwrite=True)  # all that a sweep writes may be overwritten


def test_people_get_a_table_and_the_best_edit(files):
    done = sweep(files)
    lines = done.stdout.splitlines()
    assert lines[0].endswith(
        "30 passages, 6 tokens of prefix, 5 of suffix; losses and KL in nats per token"
    )
    for label in ("edit", "variant", "exact", "held-out loss", "KL"):
        assert label in done.stdout
    rows = [line.split() for line in lines if line.split()[1:2] in (["identity"], ["zero"])]
    assert [row[0] for row in rows] == ["0", "0", "0-1", "0-1", "1", "1"]
    assert lines[-1].startswith("best: --drop-attn ")
    assert "exact match 80.0% to" in lines[-1]
    assert "nats per held-out token (KL " in lines[-1]


def test_blocks_alone(files, tmp_path):
    output = tmp_path / "swept"
    done = sweep(files, "--no-last", "--variant", "zero", "--output", output, "--json")
    assert [edit.spec for edit in read_sweep(done).edits] == ["0", "1"]
    assert "the last blocks together" not in (output / "sweep.svg").read_text()


def test_heads_that_no_layout_holds_are_left_out_and_named(files, tmp_path):
    save_tiny(tmp_path, tiny_neo())
    done = sweep((tmp_path, *files[1:]), "--heads", "--json")
    result = read_sweep(done)
    assert [edit.variant for edit in result.edits if edit.kind == "head"] == ["zero"] * 4
    assert len(result.edits) == 6 + 4
    warning, nothing = result.warnings
    assert "there is nothing to remove" in nothing
    assert warning.startswith(
        "single heads with identity are left out: gpt_neo has no rotary positions"
    )
    assert f"warning: {name_options(warning, running('sweep'))}" in done.stderr


def test_blocks_that_cannot_be_edited_are_left_out_and_named(files, tmp_path):
    export(files[0], "1", variant="zero", output=tmp_path / "cut")
    done = sweep((tmp_path / "cut", *files[1:]), "--ranges", "--variant", "zero", "--json")
    assert [edit.spec for edit in read_sweep(done).edits] == ["0"]
    assert any(text.startswith("blocks 1 are left out: ") for text in done.json["warnings"])


def test_a_killed_run_goes_on_in_its_batches(files, tmp_path, monkeypatch):
    """However much memory is free by then."""
    from evals.measure.edits.engine import Engine

    options = ("--output", tmp_path / "swept", "--json")
    monkeypatch.setattr("evals.run.batching._rows_that_fit", lambda *given: 8)
    with interrupted(Engine, at=4, method="_measure_batch"):
        assert sweep(files, *options).code == 130
    monkeypatch.setattr("evals.run.batching._rows_that_fit", lambda *given: 4)
    with interrupted(Engine, method="_measure_batch") as batches, blank_pictures():
        resumed = sweep(files, *options)
    assert resumed.code == 0, resumed.stderr
    assert resumed.json["model"]["provenance"]["batch_size"] == 8
    windows = -(-resumed.json["heldout"]["all"]["windows"] // 8)
    assert len(batches) == 5 + windows - 3


@pytest.fixture(scope="module")
def estimated(files, tmp_path_factory) -> tuple[SweepResult, Path]:
    output = tmp_path_factory.mktemp("out") / "estimated"
    with blank_pictures():
        done = sweep(files, "--estimate", "--calibration", files[2], "--output", output, "--json")
    return read_sweep(done), output


def list_estimates(result: SweepResult) -> dict[tuple[str, str], list[float]]:
    """Unit, as spec and variant → its estimates."""
    return {
        (one.spec, one.variant): [value(result, name, one.of) for name in ESTIMATES]
        for one in result.estimates
    }


def test_estimates_of_every_head_and_block_in_every_variant(files, estimated):
    result, _ = estimated
    estimates = list_estimates(result)
    assert len(estimates) == len(result.estimates) == 2 * 4 + 4 * 2  # as of single edits
    assert {one.kind for one in result.estimates} == {"block", "head"}
    windows, recited = result.heldout["all"]["windows"], take(result, "recited").details["count"]
    assert result.estimated_on == {"windows": windows, "passages": recited}
    for kl, margin, left in estimates.values():
        assert min(kl, margin) > 0
        assert 0 < left <= 1
    for edit in result.edits:
        assert list_names(result, edit.of) == FIGURES | {*ESTIMATES}
        if edit.kind == "block":
            found = [value(result, name, edit.of) for name in ESTIMATES]
            assert found == estimates[edit.spec, edit.variant]
    *none, left = (value(result, name) for name in ESTIMATES)
    assert none == [0, 0]
    assert 0 < left <= value(result, "recited")


def test_estimates_do_not_depend_on_the_batch_size(files, estimated):
    again = sweep(files, "--estimate", "--calibration", files[2], "--batch-size", 3, "--json")
    assert list_estimates(read_sweep(again)) == list_estimates(estimated[0])


def test_estimates_are_of_members_alone(files, estimated, tmp_path):
    model, samples, text = files
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    alone = write_rows(tmp_path / "members.jsonl", [row for row in rows if row["member"]])
    done = sweep((model, alone, text), "--estimate", "--calibration", text, "--json")
    assert list_estimates(read_sweep(done)) == list_estimates(estimated[0])


def test_estimates_are_a_table(estimated):
    result, output = estimated
    rows = list(csv.DictReader((output / "estimates.csv").read_text().splitlines()))
    estimates = list_estimates(result)
    assert [(row["spec"], row["variant"]) for row in rows] == [*estimates]
    told = [[float(row[name]) for name in ESTIMATES] for row in rows]
    assert told == [*estimates.values()]
    assert "estimated_kl" in (output / "sweep.csv").read_text().splitlines()[0]


def test_people_get_the_front_of_the_estimates(files):
    done = sweep(files, "--estimate")
    table, front = done.stdout.split("\nestimates of ")
    assert table.count("est.") == 2, "a heading may wrap"
    head, *front = front.splitlines()
    assert head.startswith("8 heads and blocks. These move the margins of recited tokens")
    costs = [float(line.split("KL ")[1].split()[0]) for line in front]
    moves = [float(line.split("margins ")[1].split()[0]) for line in front]
    assert costs == sorted(costs)
    assert moves == sorted(moves)
    assert "single heads with identity are left out" in done.stderr


def test_columns_that_only_some_edits_have_are_in_the_csv(estimated) -> None:
    """Such as an estimate, where only blocks have one."""
    plain = estimated[0].to_dict()
    first, other = (edit["of"] for edit in plain["edits"][:2])
    plain["figures"] = [
        row
        for row in plain["figures"]
        if row["name"] == "recited" or (row["name"], row["of"]) == ("estimated_kl", first)
    ]
    result = SweepResult.model_validate(plain)
    some = [edit for edit in result.edits if edit.of in (other, first)]
    rows = list(csv.DictReader(format_csv(result, some[::-1]).splitlines()))
    assert [row["estimated_kl"] for row in rows] == ["", str(result.read("estimated_kl", first))]
    assert list(rows[0])[3:] == ["recited", "recited_low", "recited_high", "estimated_kl"]
