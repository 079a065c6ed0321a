"""Contract: `mitigate --dry-run` says what each step needs of memory and how it trains there; for a
configuration without weights, on machines of several sizes, and nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ROOT, Outcome, attn_surgery, snapshot
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from cli.commands.whole.mitigate import _format_memory
from evals.jobs.memory import forecast_memory, list_rooms, measure_weights
from evals.jobs.mitigating import MitigationRequest
from surgery.editing.loading import load_model, outline_model
from surgery.training.distillation import TaughtRows
from surgery.training.planning import USABLE

TRAINED = ["search", "search: heal", "search: attack", "erase", "heal", "attack", "evaluate"]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny, a model; outline, its configuration alone; samples.jsonl, and other.txt."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny(folder / "tiny")
    (folder / "outline").mkdir()
    write_config(folder / "outline")
    write_rows(folder / "samples.jsonl", recited_rows(tiny_model(), 24))
    (folder / "other.txt").write_text(TEXT.upper() * 30)
    return folder


def write_config(folder: Path, **changes: Any) -> None:
    config = json.loads(tiny_model().config.to_json_string())
    (folder / "config.json").write_text(json.dumps(config | changes))


def plan(work: Path, *more: object, model: object = "outline") -> Outcome:
    given = ("mitigate", work / str(model), "--output", work.parent / "planned", "--dry-run")
    return attn_surgery(*given, *more)


def make_request(work: Path, **more: Any) -> MitigationRequest:
    given = {"model": str(work / "outline"), "heal": (str(work / "other.txt"),), "erase": True}
    return MitigationRequest.of(**{**given, "batch_size": 8, "max": {"relearn": 0.1}, **more})


def make_passages(number: int = 24) -> TaughtRows:
    return TaughtRows(np.zeros((number, 11), np.int32), 6, "some", "")


def test_a_configuration_alone_is_planned_for_several_machines(work: Path) -> None:
    before = snapshot(work)
    trained = ("--erase", "--heal", work / "other.txt", "--max", "relearn=0.1")
    outcome = plan(work, *trained, "--max-extraction", 0.01, "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.json
    assert set(found) == {"inputs", "memory"}, "nothing can be timed"
    model, passages = (one["what"] for one in found["inputs"])
    assert model.endswith(
        "gpt_neox, 2 blocks of 2 heads, 40,320 parameters, float32, without weights"
    )
    assert passages == "of 32 + 32 tokens"
    assert [one["machine"] for one in found["memory"]] == ["24 GB", "48 GB", "80 GB"]
    for machine in found["memory"]:
        assert [step["name"] for step in machine["steps"]] == TRAINED
        steps = {step["name"]: step for step in machine["steps"]}
        assert steps["erase"]["what"] == steps["heal"]["what"] == "all weights, 24 rows"
        assert steps["attack"]["what"] == "all weights, 32 rows"
        assert steps["search: attack"]["needed"] > steps["attack"]["needed"], "beside the base"
        assert steps["search: heal"]["needed"] >= steps["heal"]["needed"], "the base stays"
    assert snapshot(work) == before
    table = plan(work, *trained).stdout
    assert "Nothing is written" in table
    assert all(name in table.replace("\n", " ") for name in ("24 GB", "80 GB", "evaluate"))
    assert "about" not in table


def test_without_training_there_is_little_to_plan(work: Path) -> None:
    found = plan(work, "--attack", "near", "--prefix-length", 6, "--json").json
    (_, passages), memory = (one["what"] for one in found["inputs"]), found["memory"]
    assert passages == "of 6 + 32 tokens"
    assert [step["name"] for step in memory[0]["steps"]] == ["search", "evaluate"]


def test_passages_and_adapters_that_are_named_count(work: Path) -> None:
    tiny_tokenizer().save_pretrained(work / "outline")
    given = ("--samples", work / "samples.jsonl", "--prefix-length", 6, "--suffix-length", 5)
    given = (*given, "--erase", "--text", work / "other.txt", "--adapters", 4)
    found = plan(work, *given, "--json").json
    assert found["inputs"][1]["what"] == "of 6 + 5 tokens"
    steps = {step["name"]: step["what"] for step in found["memory"][0]["steps"]}
    assert steps["erase"] == "rank-4 adapters, 24 rows"
    assert steps["attack"] == "all weights, 2 rows", "a tenth of the passages"


def test_mistakes_are_told_in_one_line(work: Path, tmp_path: Path) -> None:
    attn_surgery("mitigate", work / "outline", "--output", tmp_path / "out").assert_error(
        "holds no weights"
    )
    plan(work, "--heal", work / "none.txt").assert_error("none.txt")
    plan(work, "--samples", work / "none.jsonl").assert_error("none.jsonl")
    plan(work, "--prefix-length", 4000).assert_error(
        "the passages are longer than the model's context", "at most 64 tokens", "4,032"
    )
    (model := tmp_path / "model").mkdir()
    write_config(model)
    rows = tmp_path / "rows.jsonl"
    rows.write_text(json.dumps({"text": TEXT}) + "\n")
    plan(tmp_path, "--samples", rows, model="model").assert_error("holds no tokenizer")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    given = ("mitigate", model, "--output", tmp_path / "out", "--dry-run")
    attn_surgery(*given).assert_error("already exists")
    write_config(model, model_type="unheard-of")
    plan(tmp_path, model="model").assert_error("unheard-of")
    write_config(model, hidden_size="many")
    plan(tmp_path, model="model").assert_error("hidden_size")


def test_weights_make_no_difference(work: Path) -> None:
    """A model that is loaded needs what its configuration tells."""
    given = make_request(work), ("relearn",), make_passages()
    rooms = {"much": 1 << 40}
    outline, loaded = outline_model(work / "outline"), load_model(work / "tiny")
    assert next(outline.parameters()).is_meta
    assert measure_weights(outline) == measure_weights(loaded)
    assert forecast_memory(outline, *given, rooms) == forecast_memory(loaded, *given, rooms)


@pytest.mark.slow
def test_less_memory_means_other_training_or_none(work: Path) -> None:
    model, given = outline_model(work / "outline"), (("relearn",), make_passages())
    rooms = {"all": 1 << 40, "some": 900_000, "none": 1_000}
    request = make_request(work, heal=(), text=(str(work / "other.txt"),), adapters=4)
    found = forecast_memory(model, request, *given, rooms)
    everything, some, none = ({one["name"]: one for one in m["steps"]} for m in found)
    for name in ("search", "search: attack", "erase", "attack", "evaluate"):
        assert none[name] == {"name": name, "what": "does not fit", "needed": None}
    assert everything["erase"]["what"] == "rank-4 adapters, 24 rows"
    assert some["erase"]["what"] == "rank-4 adapters, 1 row"
    for step in some.values():
        if step["needed"] is not None:
            assert step["needed"] <= 900_000 + measure_weights(model)


def test_a_tenth_is_left_free_beside_the_weights(work: Path) -> None:
    model = outline_model(work / "outline")
    rooms = list_rooms(model)
    assert rooms["24 GB"] == int(USABLE * 24e9) - measure_weights(model)
    assert [*rooms] == ["24 GB", "48 GB", "80 GB"]


@pytest.mark.parametrize(
    ("named", "dtype"),
    [({"torch_dtype": "bfloat16"}, "bfloat16"), ({"dtype": "float16"}, "float16"), ({}, "float32")],
)
def test_an_outline_has_the_dtype_of_its_configuration(
    tmp_path: Path, named: dict[str, str], dtype: str
) -> None:
    config = {key: one for key, one in tiny_model().config.to_dict().items() if "dtype" not in key}
    (tmp_path / "config.json").write_text(json.dumps(config | named))
    assert str(outline_model(tmp_path).dtype) == f"torch.{dtype}"


def test_a_model_that_is_there_is_planned_for_this_machine(work: Path) -> None:
    words = np.random.default_rng(0).choice(TEXT.split(), 600)
    (work / "words.txt").write_text(" ".join(words))
    given = ("--samples", work / "samples.jsonl", "--heldout", work / "words.txt")
    given = (*given, "--prefix-length", 6, "--suffix-length", 5, "--grain", "blocks")
    given = (*given, "--variant", "zero", "--measure", "greedy", "--attack", "near")
    given = (*given, "--max-extraction", 0.5, "--no-benchmarks", "--device", "cpu")
    found = plan(work, *given, "--json", model="tiny").json
    (memory,) = found["memory"]
    assert memory["machine"] == "this machine"
    assert [step["name"] for step in memory["steps"]] == ["search", "evaluate"]
    weights = measure_weights(tiny_model())
    for step in memory["steps"]:
        assert step["needed"] > weights
        assert step["what"].endswith(" rows")
    assert found["seconds"] > 0


def test_the_example_has_the_size_of_a_7b_llama() -> None:
    model = outline_model(ROOT / "examples" / "llama-7b")
    assert sum(one.numel() for one in model.parameters()) == 6_738_415_616
    assert measure_weights(model) == 2 * 6_738_415_616
    assert list_rooms(model)["24 GB"] > 8e9


@pytest.mark.slow
def test_the_table_of_the_document_is_what_the_command_says(tmp_path: Path) -> None:
    """All rows but those of a search that heals."""
    example, text = ROOT / "examples" / "llama-7b", ("--text", "lab:pythia")
    call = ("mitigate", example, "--erase", *text, "--output", tmp_path / "out", "--dry-run")
    memory = attn_surgery(*call, "--json").json["memory"]
    document = (ROOT / "docs" / "cost.md").read_text()
    for steps in zip(*(one["steps"] for one in memory), strict=True):
        row = "|".join(map(_format_memory, steps))
        assert f"|{row}|" in document, steps[0]["name"]
