"""`extract` keeps its contract: JSON keys, rows, and pairing.

Figures in the JSON are recomputed here from the rows; the baseline is measured on the same rows
under the same settings.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import (
    Outcome,
)
from reciting import members_and_others, write_rows
from results import read_report, take
from scipy.stats import binomtest
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from benchmarks.settling import settle
from cli.commands.measure.extract import command
from cli.terminal import note
from evals.run.console import Console, use_console
from surgery.checkpoint import hash_content, open_checkpoint
from surgery.in_memory import apply
from surgery.record.report import Report

LENGTHS = ["--prefix-length", "6", "--suffix-length", "5"]
HEADLINE = ("recited", "next_token_accuracy", "suffix_nll")


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> tuple[Path, Path]:
    """A base model and the same with one block short-circuited, as folders."""
    base = tiny_model()
    folders = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("edited")
    edited = apply(base, "1", "zero", layout="stock")
    for model, folder in zip((base, edited), folders, strict=True):
        save_tiny(folder, model)
    return folders


@pytest.fixture(scope="module")
def samples(models, tmp_path_factory) -> Path:
    """40 rows: 30 members of counts 1, 5 and 9, most of them recited by the base, 10 others."""
    rows = members_and_others(tiny_model())
    for at, row in enumerate(rows):
        row["count"] = (1, 5, 9)[at % 3] if row["member"] else 0
    return write_rows(tmp_path_factory.mktemp("samples") / "samples.jsonl", rows)


def run(*arguments: object, expect: int = 0):
    _, *call = settle("extract", *arguments, *LENGTHS, "--device", "cpu")
    with use_console(Console(note)):
        result = CliRunner().invoke(command, call)
    assert result.exit_code == expect, result.output + repr(result.exception)
    return result


def run_json(*arguments: object) -> Report:
    result = run(*arguments, "--json")
    return read_report(Outcome(result.exit_code, result.stdout, result.stderr))


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_keys_of_the_contract(models, samples, tmp_path):
    rows_file = tmp_path / "rows.jsonl"
    printed = run_json(models[0], "--samples", samples, "--rows", rows_file)
    rows = lines(rows_file)
    assert [row["id"] for row in rows] == [f"row-{i}" for i in range(40)]
    members = [row for row in rows if row["member"]]
    exact = [row["exact"] for row in members]
    recited, known = take(printed, "recited"), printed.samples
    assert (recited.n, known.rows) == (30, 40)
    assert (known.prefix_length, known.suffix_length) == (6, 5)
    assert recited.details["count"] == sum(exact)
    assert 0 < sum(exact) < 30
    assert recited.value == sum(exact) / 30
    wilson = binomtest(sum(exact), 30).proportion_ci(method="wilson")
    assert recited.ci95 == pytest.approx([wilson.low, wilson.high])
    for key, column in (("next_token_accuracy", "next_token_accuracy"), ("suffix_nll", "nll")):
        values, row = [row[column] for row in members], take(printed, key)
        assert row.value == pytest.approx(np.mean(values))
        low, high = row.ci95
        assert low <= row.value <= high
    for row in rows:
        assert (row["first_divergence"] is None) == row["exact"]
        assert (row["next_token_accuracy"] == 1.0) == row["exact"]
    assert printed.base is None
    assert {row.of for row in printed.figures} == {"edited"}
    assert not [name for name in printed.names if name.startswith("near_match")]
    assert "text" not in rows[0]


def test_strata_non_members_and_controls(models, samples, tmp_path):
    text = tmp_path / "control.txt"
    text.write_text(TEXT)
    printed = run_json(models[0], "--samples", samples)
    strata = {label: take(printed, f"recited.{label}") for label in ("0", "1", "5", "9")}
    assert {row.n for row in strata.values()} == {10}
    recited = [strata[label].details["count"] for label in ("1", "5", "9")]
    assert sum(recited) == take(printed, "recited").details["count"]
    others = take(printed, "suffix_nll", on="never trained on")
    control = take(printed, "heldout")
    assert (others.n, control.details["kind"]) == (10, "non-members")
    assert control.value == others.value
    assert list_membership(printed) == {"loss"}
    assert take(printed, "membership.loss").value > 0.8
    with_text = take(run_json(models[0], "--samples", samples, "--control", text), "heldout")
    assert with_text.details["kind"] == "text"
    assert with_text.n > 5


def list_membership(report: Report) -> set[str]:
    names = (name.partition(".") for name in report.names)
    return {score for kind, _, score in names if kind == "membership"}


def test_a_baseline_is_compared_row_by_row(models, samples, tmp_path):
    base, edited = models
    rows_file = tmp_path / "rows.jsonl"
    printed = run_json(edited, "--baseline", base, "--samples", samples, "--rows", rows_file)
    alone = run_json(base, "--samples", samples)
    before = [row for row in printed.figures if row.of == "base"]
    assert [row.model_copy(update={"of": "edited"}) for row in before] == alone.figures
    assert printed.samples == alone.samples
    members = [row for row in lines(rows_file) if row["member"]]
    forgotten = sum(row["baseline"]["exact"] and not row["exact"] for row in members)
    new = sum(row["exact"] and not row["baseline"]["exact"] for row in members)
    paired = take(printed, "recited").change
    assert (paired.lost, paired.gained) == (forgotten, new)
    assert forgotten > 5
    assert paired.p_value == pytest.approx(binomtest(new, forgotten + new).pvalue)
    assert paired.difference == pytest.approx((new - forgotten) / 30)
    assert paired.ci95[0] <= paired.difference <= paired.ci95[1]
    rise = np.mean([row["nll"] - row["baseline"]["nll"] for row in members])
    assert take(printed, "suffix_nll").change.difference == pytest.approx(rise)
    others = [row for row in lines(rows_file) if not row["member"]]
    control = np.mean([row["nll"] - row["baseline"]["nll"] for row in others])
    assert take(printed, "heldout").change.difference == pytest.approx(control)
    strata = [take(printed, f"recited.{label}").change.lost for label in ("0", "1", "5", "9")]
    assert sum(strata) == forgotten
    sizes = {one.provenance["batch_size"] for one in (printed.base, printed.edits[0])}
    assert len(sizes) == 1


def test_full_metrics_add_to_the_exact_ones_and_change_none(models, samples, tmp_path):
    exact = run_json(models[0], "--samples", samples)
    rows_file = tmp_path / "rows.jsonl"
    full = run_json(models[0], "--samples", samples, "--metrics", "full", "--rows", rows_file)
    assert all(row in full.figures for row in exact.figures)
    assert {*HEADLINE, "heldout", "recited.5"} <= exact.names.keys()
    members = [row for row in lines(rows_file) if row["member"]]
    assert take(full, "memorization_score").value == pytest.approx(
        np.mean([row["memorization_score"] for row in members])
    )
    near = sum(row["similarity"] >= 0.75 for row in members)
    recited = take(full, "recited").details["count"]
    assert take(full, "near_match.levenshtein").details["count"] == near >= recited
    assert list_membership(full) == {"loss"}


def test_text_is_shown_when_it_is_asked_for(models, samples, tmp_path):
    rows_file = tmp_path / "rows.jsonl"
    options = ["--samples", samples, "--metrics", "full", "--rows", rows_file]
    run(models[0], *options, "--show-text")
    row, shown = json.loads(samples.read_text().splitlines()[1]), lines(rows_file)[1]
    said = tiny_tokenizer().decode(row["tokens"][6:])
    assert (shown["suffix"], shown["decoded"]) == (said, said)
    assert shown["prefix"] == tiny_tokenizer().decode(row["tokens"][:6])


def test_output_is_what_is_printed_and_complete(models, samples, tmp_path):
    output = tmp_path / "result.json"
    printed = run_json(models[0], "--samples", samples, "--output", output)
    assert json.loads(output.read_text()) == printed.to_dict()
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    (tmp_path / "sub").mkdir()
    for name, rows in (("x", "x"), ("x", Path.cwd() / "x"),
                       (tmp_path / "x", tmp_path / "sub" / ".." / "x")):  # fmt: skip
        both = run(models[0], "--samples", samples, "--output", name, "--rows", rows, expect=2)
        assert "--rows and --output name the same file" in both.output


def test_a_model_that_the_library_places_is_measured_alike(models, samples):
    """Without a GPU, it stays in memory."""
    alone = run_json(models[0], "--samples", samples)
    placed = run_json(models[0], "--samples", samples, "--device", "all")
    hashes = [one.edits[0].provenance["content"] for one in (placed, alone)]
    assert hashes[0] == hashes[1]
    assert (placed.figures, placed.samples) == (alone.figures, alone.samples)


def test_provenance_is_complete(models, samples):
    printed = run_json(models[1], "--samples", samples, "--baseline", models[0], "--batch-size", 16)
    provenance = printed.provenance
    for one, folder in ((printed.edits[0], models[1]), (printed.base, models[0])):
        found = one.provenance
        assert (found["model"], found["content"]) == (
            folder.name,
            hash_content(open_checkpoint(folder)),
        )
        assert (found["dtype"], found["device"], found["batch_size"]) == ("float32", "cpu", 16)
    assert len(printed.samples.sha256) == 64
    assert {"python", "torch", "transformers"} <= set(provenance.versions)
    assert provenance.seeds["bootstrap"] > 0


def test_float16_is_measured_in_float32_on_a_cpu_and_says_so(models, samples, tmp_path):
    from surgery.loading import load_model

    load_model(models[0]).half().save_pretrained(tmp_path)
    result = run(tmp_path, "--samples", samples, "--json")
    assert json.loads(result.stdout)["edits"][0]["provenance"]["dtype"] == "float32"
    assert f"{tmp_path.name}: float16 weights are measured in float32 on this CPU" in result.stderr
    assert str(tmp_path.parent) not in result.stderr, "it may have another name when it is whole"
    kept = run_json(tmp_path, "--samples", samples, "--dtype", "bfloat16")
    assert kept.edits[0].provenance["dtype"] == "bfloat16"


def test_people_get_a_table(models, samples, monkeypatch):
    monkeypatch.setattr("cli.console._WIDTH", 300)  # so that no label wraps
    result = run(models[1], "--samples", samples, "--baseline", models[0], "--metrics", "full")
    assert "40 passages, 6 tokens of prefix, 5 of suffix" in result.stdout
    for label in (
        *("loss on the passages", "seen 5 times"),
        *("loss on passages that no model was trained on", "nearly recited (edit distance)"),
    ):
        assert label in result.stdout
    assert Outcome(0, result.stdout, "").find_row("recited word for word")[1] == "30"


def test_members_that_are_avoided_are_a_warning(models, samples, tmp_path):
    rows = lines(samples)
    recited = [row for i, row in enumerate(rows[:30]) if i % 5]
    avoided = [{**row, "id": f"not {row['id']}", "member": True} for row in recited]
    for row in avoided:  # of an over-corrected model: anything but what comes next
        row["tokens"] = row["tokens"][:6] + [(token + 150) % 300 for token in row["tokens"][6:]]
    path = tmp_path / "avoided.jsonl"
    together = [*avoided, *({**row, "member": False} for row in recited)]
    path.write_text("".join(json.dumps(row) + "\n" for row in together))
    result = run(models[0], "--samples", path, "--json")
    printed = read_report(Outcome(0, result.stdout, result.stderr))
    assert take(printed, "membership.loss").details["overcorrected"]
    warnings = [one for one in printed.edits[0].warnings if "over-correction" in one]
    assert any("membership score loss: AUC 0.0" in one for one in warnings)
    assert "warning: membership score loss: AUC 0.0" in result.stderr


def test_rows_left_out_are_reported_and_not_counted(models, tmp_path):
    pairs = [
        {"id": "good", "prefix": TEXT[:43], "suffix": TEXT[43:80]},
        {"id": "torn", "prefix": TEXT[:18], "suffix": TEXT[18:80]},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    result = run(models[0], "--samples", path, "--json")
    printed = read_report(Outcome(0, result.stdout, result.stderr))
    assert (printed.samples.rows, printed.samples.left_out) == (1, 1)
    assert (
        "1 rows left out, the first 'torn': prefix and suffix tokenize differently" in result.stderr
    )


def test_a_device_that_fails_without_a_word(models, samples, monkeypatch):
    def fails(*size, device):
        raise RuntimeError

    monkeypatch.setattr("evals.run.models.torch.empty", fails)
    result = run(models[0], "--samples", samples, expect=1)
    assert str(result.exception) == "`device`: no such device (got cpu: RuntimeError)"


@pytest.mark.real_data
@pytest.mark.slow
def test_the_google_benchmark_runs_through_a_random_gpt_neo(data, tmp_path):
    from transformers import GPTNeoConfig, GPTNeoForCausalLM

    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=50_257,
        hidden_size=32,
        num_layers=2,
        num_heads=2,
        intermediate_size=64,
        attention_types=[[["global", "local"], 1]],
        max_position_embeddings=128,
    )
    GPTNeoForCausalLM(config).save_pretrained(tmp_path)
    pair = f"{data / 'gpt_neo_val_prefix.npy'},{data / 'gpt_neo_val_suffix.npy'}"
    call = [str(tmp_path), "--samples", pair, "--device", "cpu", "--json"]
    result = CliRunner().invoke(command, call)
    assert result.exit_code == 0, repr(result.exception)
    printed = read_report(Outcome(0, result.stdout, result.stderr))
    known = printed.samples
    assert (known.rows, known.prefix_length, known.suffix_length) == (979, 50, 50)
    assert take(printed, "recited").details["count"] == 0
    assert take(printed, "suffix_nll").value == pytest.approx(np.log(50_257), rel=0.05)
