"""`extract` keeps its contract: JSON keys, rows, pairing, privacy, and one result for any number
of processes.

Figures in the JSON are recomputed here from the rows; the baseline is measured on the same rows
under the same settings; no token and no text is in any output unless asked for; two processes
under `accelerate launch` give the same bytes as one.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from command_line import (
    PROGRAM,
    TORCHRUN,
    TWO_PROCESSES,
    finish,
    hashed_by,
    hashing_watched,
    start,
)
from reciting import members_and_others, write_rows
from scipy.stats import binomtest
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from cli.commands.measure.extract import command
from cli.terminal import note
from evals.run.console import Console, use_console
from surgery.checkpoint.content import hash_content
from surgery.editing.in_memory import apply
from surgery.errors import SurgeryError

LENGTHS = ["--prefix-length", "6", "--suffix-length", "5"]
HEADLINE = {"exact_match", "next_token_accuracy", "suffix_nll"}


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
    call = [*map(str, arguments), *LENGTHS, "--device", "cpu"]
    with use_console(Console(note)):
        result = CliRunner().invoke(command, call)
    assert result.exit_code == expect, result.output + repr(result.exception)
    return result


def run_json(*arguments: object) -> dict:
    return json.loads(run(*arguments, "--json").stdout)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_keys_of_the_contract(models, samples, tmp_path):
    rows_file = tmp_path / "rows.jsonl"
    printed = run_json(models[0], "--samples", samples, "--rows", rows_file)
    rows = lines(rows_file)
    assert [row["id"] for row in rows] == [f"row-{i}" for i in range(40)]
    members = [row for row in rows if row["member"]]
    exact = [row["exact"] for row in members]
    assert printed["n"] == 30
    assert (printed["prefix_length"], printed["suffix_length"]) == (6, 5)
    assert printed["exact_match"]["count"] == sum(exact)
    assert 0 < sum(exact) < 30
    assert printed["exact_match"]["rate"] == sum(exact) / 30
    wilson = binomtest(sum(exact), 30).proportion_ci(method="wilson")
    assert printed["exact_match"]["ci95"] == pytest.approx([wilson.low, wilson.high])
    for key, column in (("next_token_accuracy", "next_token_accuracy"), ("suffix_nll", "nll")):
        values = [row[column] for row in members]
        assert printed[key]["mean"] == pytest.approx(np.mean(values))
        low, high = printed[key]["ci95"]
        assert low <= printed[key]["mean"] <= high
    for row in rows:
        assert (row["first_divergence"] is None) == row["exact"]
        assert (row["next_token_accuracy"] == 1.0) == row["exact"]
    assert "baseline" not in printed
    assert "near_match" not in printed
    assert "text" not in rows[0]


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--baseline", "lab:none", "no embedded model"),
        ("--baseline", "./none", "no such folder"),
    ],
)
def test_a_mistake_is_found_before_anything_is_measured(models, samples, option, value, text):
    from unittest import mock

    with mock.patch("evals.measure.memorization.protocol.measure") as measure:
        result = run(models[0], "--samples", samples, option, value, expect=1)
    assert isinstance(result.exception, SurgeryError)
    assert text in str(result.exception)
    measure.assert_not_called()


def test_strata_non_members_and_controls(models, samples, tmp_path):
    text = tmp_path / "control.txt"
    text.write_text(TEXT)
    printed = run_json(models[0], "--samples", samples)
    strata = {part["count"]: part for part in printed["by_count"]}
    assert {label: part["n"] for label, part in strata.items()} == {
        "0": 10,
        "1": 10,
        "5": 10,
        "9": 10,
    }
    assert (
        sum(strata[label]["exact_match"]["count"] for label in ("1", "5", "9"))
        == (printed["exact_match"]["count"])
    )
    assert printed["non_members"]["n"] == 10
    assert printed["control"]["kind"] == "non-members"
    assert printed["control"]["nll"]["mean"] == printed["non_members"]["suffix_nll"]["mean"]
    assert set(printed["membership"]) == {"loss", "min_k", "zlib"}
    assert printed["membership"]["loss"]["auc"] > 0.8
    with_text = run_json(models[0], "--samples", samples, "--control", text)
    assert with_text["control"]["kind"] == "text"
    assert with_text["control"]["n"] > 5


def test_a_baseline_is_compared_row_by_row(models, samples, tmp_path):
    base, edited = models
    rows_file = tmp_path / "rows.jsonl"
    printed = run_json(edited, "--baseline", base, "--samples", samples, "--rows", rows_file)
    alone = run_json(base, "--samples", samples)
    for key in HEADLINE | {"n", "by_count", "control", "membership", "prefix_length"}:
        assert printed["baseline"][key] == alone[key]
    members = [row for row in lines(rows_file) if row["member"]]
    forgotten = sum(row["baseline"]["exact"] and not row["exact"] for row in members)
    new = sum(row["exact"] and not row["baseline"]["exact"] for row in members)
    paired = printed["paired"]
    assert (paired["forgotten"], paired["newly_extracted"]) == (forgotten, new)
    assert forgotten > 5
    assert paired["p_value"] == pytest.approx(binomtest(new, forgotten + new).pvalue)
    difference = paired["exact_match_difference"]
    assert difference["value"] == pytest.approx((new - forgotten) / 30)
    assert difference["ci95"][0] <= difference["value"] <= difference["ci95"][1]
    rise = np.mean([row["nll"] - row["baseline"]["nll"] for row in members])
    assert paired["suffix_nll_difference"]["mean"] == pytest.approx(rise)
    others = [row for row in lines(rows_file) if not row["member"]]
    control = np.mean([row["nll"] - row["baseline"]["nll"] for row in others])
    assert paired["control_nll_difference"]["mean"] == pytest.approx(control)
    assert paired["selectivity"]["value"] == pytest.approx(rise - control)
    assert "nats per token" in paired["selectivity"]["definition"]
    assert sum(part["forgotten"] for part in paired["by_count"]) == forgotten
    sizes = {printed["provenance"][name]["batch_size"] for name in ("model", "baseline")}
    assert len(sizes) == 1


def test_full_metrics_add_to_the_exact_ones_and_change_none(models, samples, tmp_path):
    exact = run_json(models[0], "--samples", samples)
    rows_file = tmp_path / "rows.jsonl"
    full = run_json(models[0], "--samples", samples, "--metrics", "full", "--rows", rows_file)
    for key in HEADLINE | {"by_count", "extraction_strength", "control"}:
        assert full[key] == exact[key]
    members = [row for row in lines(rows_file) if row["member"]]
    assert full["memorization_score"]["mean"] == pytest.approx(
        np.mean([row["memorization_score"] for row in members])
    )
    near = sum(row["similarity"] >= 0.75 for row in members)
    assert full["near_match"]["levenshtein"]["count"] == near >= full["exact_match"]["count"]
    curve = full["probabilistic_extraction"]["curve"]
    at = {(point["n"], point["p"]): point["count"] for point in curve}
    for (n, p), count in at.items():
        chances = [
            0 if row["log_p_z"] is None else 1 - (1 - np.exp(row["log_p_z"])) ** n
            for row in members
        ]
        if all(abs(chance - p) > 1e-6 for chance in chances):
            assert count == sum(chance >= p for chance in chances)
    assert at[1, 0.1] <= at[100_000, 0.1]
    assert set(full["membership"]) == {"loss", "min_k", "min_k_plus_plus", "zlib"}


def test_privacy_no_token_and_no_text_unless_asked_for(models, samples, tmp_path):
    rows_file, output = tmp_path / "rows.jsonl", tmp_path / "result.json"
    options = ["--samples", samples, "--metrics", "full", "--rows", rows_file, "--output", output]
    result = run(models[0], *options, "--json")
    row = json.loads(samples.read_text().splitlines()[1])
    said = tiny_tokenizer().decode(row["tokens"][6:])
    for text in (result.stdout, rows_file.read_text(), output.read_text()):
        assert ",".join(map(str, row["tokens"][6:])) not in "".join(text.split())
        assert said not in text
    assert set(lines(rows_file)[1]) >= {
        "id",
        "hash",
        "exact",
        "first_divergence",
        "next_token_accuracy",
        "nll",
    }
    run(models[0], *options, "--show-text", "--overwrite")
    shown = lines(rows_file)[1]
    assert shown["suffix"] == said
    assert shown["decoded"] == said
    assert shown["prefix"] == tiny_tokenizer().decode(row["tokens"][:6])


def test_output_is_what_is_printed_and_complete(models, samples, tmp_path):
    output = tmp_path / "result.json"
    printed = run_json(models[0], "--samples", samples, "--output", output)
    assert json.loads(output.read_text()) == printed
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    (tmp_path / "sub").mkdir()
    for name, rows in (("x", "x"), ("x", Path.cwd() / "x"),
                       (tmp_path / "x", tmp_path / "sub" / ".." / "x")):  # fmt: skip
        both = run(models[0], "--samples", samples, "--output", name, "--rows", rows, expect=2)
        assert "--rows and --output name the same file" in both.output


def test_a_model_that_the_library_places_is_measured_alike(models, samples):
    """Without a GPU, it stays in memory."""
    alone = run_json(models[0], "--samples", samples)
    placed = run_json(models[0], "--samples", samples, "--device-map", "auto")
    assert (
        placed.pop("provenance")["model"]["content"] == alone.pop("provenance")["model"]["content"]
    )
    assert placed == alone


def test_provenance_is_complete(models, samples):
    printed = run_json(models[1], "--samples", samples, "--baseline", models[0], "--batch-size", 16)
    provenance = printed["provenance"]
    for name, folder in (("model", models[1]), ("baseline", models[0])):
        found = provenance[name]
        assert (found["model"], found["content"]) == (folder.name, hash_content(folder))
        assert (found["dtype"], found["device"], found["batch_size"]) == ("float32", "cpu", 16)
    assert provenance["samples_sha256"] == printed["samples"]["sha256"]
    assert {"python", "torch", "transformers"} <= set(provenance["versions"])
    assert provenance["seeds"]["bootstrap"] > 0


def test_float16_is_measured_in_float32_on_a_cpu_and_says_so(models, samples, tmp_path):
    from surgery.editing.loading import load_model

    load_model(models[0]).half().save_pretrained(tmp_path)
    result = run(tmp_path, "--samples", samples, "--json")
    assert json.loads(result.stdout)["provenance"]["model"]["dtype"] == "float32"
    assert f"{tmp_path.name}: float16 weights are measured in float32 on this CPU" in result.stderr
    assert str(tmp_path.parent) not in result.stderr, "it may have another name when it is whole"
    kept = run_json(tmp_path, "--samples", samples, "--dtype", "bfloat16")
    assert kept["provenance"]["model"]["dtype"] == "bfloat16"


def test_people_get_a_table(models, samples):
    result = run(models[1], "--samples", samples, "--baseline", models[0], "--metrics", "full")
    assert "30 passages, 6 tokens of prefix, 5 of suffix" in result.stdout
    for label in ("exact match", "suffix NLL", "control NLL", "exact, count 5", "selectivity"):
        assert label in result.stdout


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
    printed = json.loads(result.stdout)
    assert printed["membership"]["loss"]["overcorrected"]
    assert any("loss: AUC 0.0" in w and "over-correction" in w for w in printed["warnings"])
    assert "warning: membership score loss: AUC 0.0" in result.stderr


def test_rows_left_out_are_reported_and_not_counted(models, tmp_path):
    pairs = [
        {"id": "good", "prefix": TEXT[:43], "suffix": TEXT[43:80]},
        {"id": "torn", "prefix": TEXT[:18], "suffix": TEXT[18:80]},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    result = run(models[0], "--samples", path, "--json")
    printed = json.loads(result.stdout)
    assert printed["n"] == 1
    assert [row["id"] for row in printed["samples"]["left_out"]] == ["torn"]
    assert (
        "1 rows left out, the first 'torn': prefix and suffix tokenize differently" in result.stderr
    )


def test_a_device_that_fails_without_a_word(models, samples, monkeypatch):
    def fails(*size, device):
        raise RuntimeError

    monkeypatch.setattr("evals.run.models.torch.empty", fails)
    result = run(models[0], "--samples", samples, expect=1)
    assert str(result.exception) == "`device`: no such device (got cpu: RuntimeError)"


@pytest.mark.slow
@pytest.mark.parametrize("metrics", ["exact", "full"])
def test_two_processes_give_the_bytes_of_one(models, samples, tmp_path, metrics):
    call = ["extract", models[1], "--samples", samples, "--baseline", models[0], *LENGTHS]
    call += ["--metrics", metrics, "--batch-size", "8", "--json"]
    results = []
    programs = {"one": PROGRAM, "two": TWO_PROCESSES}
    if metrics == "exact":
        programs["torchrun"] = (*TORCHRUN, "-m", "cli.main")
    for name, program in programs.items():
        rows = tmp_path / f"{name}.jsonl"
        watch = tmp_path / f"watch-{name}"
        watch.mkdir()
        process = start(*call, "--rows", rows, program=program, env=hashing_watched(watch))
        done = finish(process, timeout=300)
        assert done.code == 0, done.stderr[-3000:]
        assert hashed_by(watch) == ["by-0"]
        results.append((done.stdout, rows.read_bytes()))
    assert all(result == results[0] for result in results)
    assert json.loads(results[0][0])["n"] == 30


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
    printed = json.loads(result.stdout)
    assert (printed["n"], printed["prefix_length"], printed["suffix_length"]) == (979, 50, 50)
    assert printed["exact_match"]["count"] == 0
    assert printed["suffix_nll"]["mean"] == pytest.approx(np.log(50_257), rel=0.05)
