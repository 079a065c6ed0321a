"""`search` keeps its promise: the plan that it writes, exported and measured by `extract` on the
passages that it held back, gives the figures that it printed for them.

JSON has the keys of the contract, one goal is asked for, a search in vain says so, nothing stays
behind half-written, and no passage is in any output.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import neo_config, write_checkpoint
from command_line import (
    attn_surgery,
    interrupted,
    snapshot,
)
from forging import edit_json
from grids import list_names, read_search, take, value
from reciting import generate, write_rows
from safetensors.torch import load_file, save_file
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

from cli.commands.choose.search import command
from cli.config import with_config
from evals.choose.grid import GridEdit, describe_edit, rename
from evals.choose.search.report import SearchResult
from evals.choose.search.request import SearchRequest
from evals.data import load_samples
from evals.data.held_back import split_halves
from evals.data.windows import cut_windows
from evals.measure.edits.costs import MEASURES
from evals.measure.edits.engine import Engine
from evals.measure.memorization.recovery import NAMES
from surgery.record.plan_file import read_plan_file
from surgery.record.report import Report
from surgery.selection import EditedHeads

pytestmark = pytest.mark.usefixtures("blank_pictures")
FIGURES = {
    *("recited", "next_token_accuracy", "suffix_nll", "completion_entropy"),
    *("heldout", *MEASURES),
    *(f"recovered.{name}" for name in NAMES),
}
BACK = "held back"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """2 blocks of 2 heads, with a tokenizer."""
    return save_tiny(tmp_path_factory.mktemp("model") / "tiny")


def recited(path: Path, model) -> Path:
    """40 rows of 6 + 5 tokens that the model recites, and 4 that are no members."""
    ids = tiny_tokenizer()(TEXT)["input_ids"]
    prefixes = torch.tensor([ids[start : start + 6] for start in range(40)])
    prefixes = torch.cat([prefixes, prefixes[:4].flip(1)])  # the text repeats itself
    said = generate(model, prefixes, 5)
    rows = [
        {"id": f"row-{i}", "tokens": row, "member": i < 40, "count": i % 3 + 1}
        for i, row in enumerate(torch.cat([prefixes, said], dim=1).tolist())
    ]
    return write_rows(path, rows)


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    return recited(tmp_path_factory.mktemp("samples") / "samples.jsonl", tiny_model())


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> tuple[Path, Path]:
    """Held-out text and calibration text."""
    words = TEXT.split()
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("texts")
    for name in ("heldout.txt", "calibration.txt"):
        (folder / name).write_text(" ".join(rng.choice(words, 900)), encoding="utf-8")
    return folder / "heldout.txt", folder / "calibration.txt"


def call(model, samples, texts, *options):
    return attn_surgery(
        "search", model, "--samples", samples, "--corpus", texts[0], "--prefix-length", 6,
        "--suffix-length", 5, "--device", "cpu", *options,
    )  # fmt: skip


def search(model, samples, texts, *options) -> SearchResult:
    return read_search(call(model, samples, texts, *options, "--json"))


def without_plan(result: SearchResult) -> dict[str, Any]:
    """The object, without where its plan lies."""
    return result.to_dict() | {"plan": None}


@pytest.mark.parametrize(
    ("grain", "variants", "most"),
    [
        ("blocks", ["identity", "zero"], 12),
        ("mixed", ["mean", "linear"], 8),
        pytest.param("heads", ["zero", "mean"], 12, marks=pytest.mark.slow),
        pytest.param("blocks", ["linear"], 12, marks=pytest.mark.slow),
    ],
)
def test_the_exported_plan_gives_the_figures_of_the_half_held_back(
    model, samples, texts, tmp_path, grain, variants, most
):
    """Also where estimates guide: the choice is then fitted as an export fits it."""
    fit = ["--calibration", texts[1]] if {"mean", "linear"} & set(variants) else []
    chosen = [word for variant in variants for word in ("--variant", variant)]
    options = ["--max-extraction", 0.3, "--grain", grain, *chosen, *fit, "--max-evaluations", most]
    found = search(model, samples, texts, *options, "--output", tmp_path / "found")
    assert found.exhaustive == (grain == "blocks")
    assert value(found, "recited", found.selected) <= 0.3
    plan = tmp_path / "found" / "plan.json"
    assert found.plan == str(plan)
    fit = fit if found.calibration else []
    exported = attn_surgery(
        "export", model, "--plan", plan, *fit, "--output", tmp_path / "out", "--json"
    )
    assert exported.code == 0, exported

    loaded = load_samples(str(samples), prefix_length=6, suffix_length=5)
    windows = cut_windows([texts[0].read_text()], tiny_tokenizer(), 11)
    halves = {"chosen on": found.chosen_on_ids, BACK: found.held_back_ids}
    for half, (on, ids) in zip(split_halves(loaded, windows, 0), halves.items(), strict=True):
        assert ids == list(half.samples.ids)
        rows = [
            {"id": name, "tokens": row}
            for name, row in zip(half.samples.ids, half.samples.tokens.tolist(), strict=True)
        ]
        done = attn_surgery(
            "extract", tmp_path / "out", "--prefix-length", 6, "--suffix-length", 5, "--samples",
            write_rows(tmp_path / f"{on[0]}.jsonl", rows), "--device", "cpu", "--json",
        )  # fmt: skip
        measured = Report.model_validate(done.json)
        recited = measured.find("recited", "edited")
        (ours,) = rename([take(found, "recited", found.selected, on)], "edited")
        assert ours.model_copy(update={"on": "all"}) == recited
        accuracy = measured.find("next_token_accuracy", "edited")
        assert accuracy is not None
        assert accuracy.value == value(found, "next_token_accuracy", found.selected, on)


def test_the_keys_of_the_contract(model, samples, texts, tmp_path):
    output = tmp_path / "found"
    outcome = call(
        model, samples, texts, "--max-extraction", 0.3, "--grain", "heads", "--variant", "zero",
        "--measure", "greedy", "--output", output, "--json",
    )  # fmt: skip
    found = read_search(outcome)
    selected, deep = found.selected, found.deep_blocks
    assert selected is not None
    assert deep is not None
    for of in ("base", deep, *(edit.of for edit in found.edits)):
        assert list_names(found, of) == FIGURES
    for of in ("base", deep, selected):
        assert {row.on for row in found.figures if row.of == of} == {"chosen on", BACK}
    assert found.measure == "greedy"
    assert value(found, "recovered.greedy", selected) == value(found, "recited", selected)
    assert found.units.model_dump() == {"offered": 4, "estimated": 0, "measured": 4}
    assert found.passed_over == {"doubtful": 0, "untried": 0}
    assert found.find_edit(deep).spec == "1"
    assert found.limit == 0.3
    assert found.exhaustive
    assert found.evaluations == 15
    assert selected in found.front
    assert found.state == ("kept" if value(found, "recited", selected, BACK) <= 0.3 else "missed")
    assert (found.n, found.n_held_back) == (20, 20)
    assert value(found, "recited") == 1
    assert value(found, "kl") == 0
    named = {"search.json", "plan.json", "config.yaml", "front.png", "front.svg"}
    assert set(snapshot(output)) == named
    written = json.loads((output / "search.json").read_text())
    assert written == found.to_dict() | {"plan": "plan.json"}
    plan = read_plan_file(output / "plan.json")
    ours = [row for row in outcome.json["figures"] if row["of"] in ("base", selected)]
    assert plan.provenance["figures"] == ours
    for path in (output / "search.json", output / "plan.json"):
        assert str(tmp_path.parent) not in path.read_text(), "a path of this machine"
    assert plan.model is not None
    assert plan.model.source.content == found.model.provenance["content"]
    assert (plan.model.family, plan.model.num_blocks) == ("gpt_neox", 2)


HEADS = ["--max-extraction", 0.3, "--variant", "zero", "--variant", "identity"]


def test_estimates_choose_what_is_measured(model, samples, texts, tmp_path):
    """Where not all sets can be measured, every unit is looked at, and few edits are measured.

    No layout holds `identity` of single heads here.
    """
    found = search(
        model, samples, texts, *HEADS, "--max-evaluations", 10, "--output", tmp_path / "found"
    )
    assert not found.exhaustive
    assert found.evaluations <= 10
    assert found.units.offered == found.units.estimated == 8
    assert found.units.measured > 0
    assert value(found, "recited", found.selected) <= 0.3


@pytest.mark.parametrize("variant", ["mean", "zero"])
def test_the_record_of_an_edit_is_what_its_file_holds(variant):
    """Or a complete search of mixed variants would not find its choice again."""
    selection = (EditedHeads(0, (1,), "mean"), EditedHeads(1, (0, 1), variant))
    record = describe_edit("edit-1", selection, 2)
    again = GridEdit.model_validate_json(record.model_dump_json())
    assert (again, again.selection) == (record, selection)


def test_more_budget_goes_on_from_what_was_measured(model, samples, texts, tmp_path, monkeypatch):
    folder = tmp_path / "found"
    options = [*HEADS, "--output", folder, "--max-evaluations"]
    first = search(model, samples, texts, *options, 4)
    before = snapshot(folder)
    said = ["warning: single heads with identity are left out"]
    call(model, samples, texts, *options, 9).assert_error("exists", "--overwrite", notes=said)
    assert snapshot(folder) == before
    with interrupted(Engine, method="_measure_batch") as batches:
        more = read_search(call(model, samples, texts, *options, 9, "--overwrite", "--json"))
    assert {edit.selection for edit in first.edits} <= {edit.selection for edit in more.edits}
    assert 4 < more.evaluations <= 9
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "empty"))
    with interrupted(Engine, method="_measure_batch") as all_batches:
        once = read_search(call(model, samples, texts, *options, 9, "--overwrite", "--json"))
    assert without_plan(once) == without_plan(more)
    assert 0 < len(batches) < 0.7 * len(all_batches)


def test_a_search_that_is_complete_is_taken_as_it_is(model, samples, texts, tmp_path):
    """As long as it answers the same question, by the same code."""
    folder = tmp_path / "found"
    options = [*HEADS, "--output", folder, "--max-evaluations", 4]
    assert call(model, samples, texts, *options).code == 0
    before = snapshot(folder)
    with interrupted(Engine, method="_measure_batch") as batches:
        done = call(model, samples, texts, *options)
    assert f"{folder}: this search is complete" in done.stderr
    assert not batches
    assert snapshot(folder) == before
    edit_json(folder / "search.json", lambda found: found.update(key="0" * 64))
    said = ["warning: single heads with identity are left out"]
    call(model, samples, texts, *options).assert_error("exists", "--overwrite", notes=said)


@pytest.mark.slow
def test_a_budget_that_pays_for_every_set_goes_on_from_one_that_does_not(
    model, samples, texts, tmp_path, monkeypatch
):
    """The fits of several blocks are then those of an export, so such sets are measured anew."""
    fit = ["--grain", "blocks", "--variant", "mean", "--variant", "zero", "--calibration", texts[1]]
    options = ["--max-extraction", 0.3, *fit, "--output", tmp_path / "found", "--max-evaluations"]
    assert not search(model, samples, texts, *options, 6).exhaustive
    more = read_search(call(model, samples, texts, *options, 8, "--overwrite", "--json"))
    assert more.exhaustive
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "empty"))
    shutil.rmtree(tmp_path / "found")
    once = search(model, samples, texts, *options, 8)
    assert without_plan(once) == without_plan(more)


def test_other_labels_deal_other_halves_so_nothing_is_taken_up(model, samples, texts, tmp_path):
    options = ["--max-extraction", 0.3, "--variant", "zero", "--output", tmp_path / "found"]
    assert call(model, samples, texts, *options).code == 0
    for label in ("count", "member"):
        rows = [json.loads(line) for line in samples.read_text().splitlines()]
        assert all(row.pop(label) is not None for row in rows)
        others = write_rows(tmp_path / f"no-{label}.jsonl", rows)
        call(model, others, texts, *options).assert_error("already exists", "--overwrite")


@pytest.mark.parametrize(
    "change",
    ["provenance", *(pytest.param(c, marks=pytest.mark.slow) for c in ("drop_attn", "variant"))],
)
def test_a_plan_that_was_changed_is_not_taken_for_that_of_the_search(
    model, samples, texts, tmp_path, change
):
    folder = tmp_path / "found"
    options = ["--max-extraction", 0.3, "--variant", "zero", "--output", folder]
    assert call(model, samples, texts, *options).code == 0
    plan = json.loads((folder / "plan.json").read_text())
    if change == "provenance":
        plan["provenance"]["figures"][0]["value"] = 0.5
    else:
        other = {"drop_attn": "0-1", "variant": "identity"}
        plan["edits"][0][change] = other[change]
    (folder / "plan.json").write_text(json.dumps(plan))
    call(model, samples, texts, *options).assert_error(
        "plan.json: is not the plan that the search wrote", "--overwrite"
    )


def test_the_interval_of_a_loss_draws_documents(model, samples, tmp_path):
    """As that of an evaluation: windows of one document are alike."""
    words = [np.random.default_rng(at).permutation(TEXT.split()) for at in range(4)]
    text = tmp_path / "text"
    text.mkdir()
    for at, some in enumerate(words):
        (text / f"{at}.txt").write_text(" ".join([*some] * 8))
    given = ("--max-extraction", 0.3, "--variant", "zero")
    found = search(model, samples, [text], *given, "--output", tmp_path / "found")
    attn_surgery(
        "export", model, "--plan", tmp_path / "found/plan.json", "--output", tmp_path / "e"
    )
    given = ("--baseline", model, "--samples", samples, "--control", text, "--suite", "none")
    given = (*given, "--prefix-length", 6, "--suffix-length", 5)
    theirs = attn_surgery(
        "evaluate", tmp_path / "e", *given, "--output", tmp_path / "evaluation", "--json"
    )
    other = Report.model_validate(theirs.json).find("heldout", "edited", BACK)
    ours = take(found, "heldout", found.selected, BACK)
    assert ours.n > 2 * len(words)
    assert ours.change.ci95 == pytest.approx(other.change.ci95, rel=1e-5)


def test_hints_count_as_recovered(model, samples, texts, tmp_path):
    found = search(
        model, samples, texts, "--max-extraction", 0.3, "--measure", "hints:2", "--variant",
        "zero", "--output", tmp_path / "found",
    )  # fmt: skip
    assert found.measure == "hints:2"
    left = value(found, "recovered.hints:2", found.selected)
    assert value(found, "recited", found.selected) <= left <= 0.3
    outcome = call(model, samples, texts, "--max-extraction", 0.3, "--measure", "hints")
    assert outcome.code == 2
    assert "no measure 'hints' (expected any, greedy, hints:K, prefix" in outcome.stderr
    assert "; give its number, as in hints:4" in outcome.stderr


def test_a_plan_is_for_one_model(model, samples, texts, tmp_path):
    found = search(
        model, samples, texts, "--max-extraction", 0.3, "--variant", "zero",
        "--output", tmp_path / "found",
    )  # fmt: skip

    def export(source, plan=found.plan):
        options = ("--plan", plan, "--output", tmp_path / "out", "--dry-run")
        return attn_surgery("export", source, *options)

    shutil.copytree(model, tmp_path / "copy")
    assert export(tmp_path / "copy").code == 0
    size = "gpt_neox, 2 blocks of 2 heads, content "
    export("lab:gpt-neo").assert_error(
        f"the plan was made for another model (expected tiny: {size}",
        "got lab:gpt-neo: gpt_neo, 6 blocks of 4 heads, content ",
        "search on this model, or remove the key 'model' from the plan",
    )
    tensors = load_file(tmp_path / "copy" / "model.safetensors")
    tensors["gpt_neox.final_layer_norm.bias"] += 1
    save_file(tensors, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    export(tmp_path / "copy").assert_error("made for another model", f"got copy: {size}")
    plan = json.loads(Path(str(found.plan)).read_text())
    other = tmp_path / "plan.json"
    other.write_text(json.dumps({**plan, "model": None}))
    assert export(tmp_path / "copy", other).code == 0
    other.write_text(json.dumps({**plan, "model": "tiny"}))
    export(tmp_path / "copy", other).assert_error("not a plan (got model: ")


def test_a_search_can_be_repeated(model, samples, texts, tmp_path):
    options = ["--max-extraction", 0.3, "--variant", "zero", "--seed", 3]
    folders = tmp_path / "one" / "x", tmp_path / "two" / "x"
    results = []
    for folder in folders:
        folder.parent.mkdir()
        results.append(search(model, samples, texts, *options, "--output", folder))
    assert without_plan(results[0]) == without_plan(results[1])
    first, second = map(snapshot, folders)
    assert first == second
    found = results[0]
    assert found.settings["seed"] == 3


def test_a_quarter_chooses_and_its_file_repeats_it(model, samples, texts, tmp_path, monkeypatch):
    """With --choose 0.25, three quarters of passages and text are held back. The config.yaml of
    the result repeats the search in the folder of its inputs.
    """
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for path in (samples, texts[0]):
        shutil.copy(path, inputs)
    shutil.copytree(model, inputs / "model")
    monkeypatch.chdir(inputs)
    options = ["--max-extraction", 0.3, "--variant", "zero", "--choose", 0.25]
    given = "model", samples.name, (texts[0].name,)
    found = search(*given, *options, "--output", tmp_path / "found")
    assert (found.n, found.n_held_back) == (10, 30)
    assert len(found.chosen_on_ids) < len(found.held_back_ids)
    file = tmp_path / "found" / "config.yaml"
    again = attn_surgery("search", "--config", file, "--output", tmp_path / "again", "--json")
    assert without_plan(read_search(again)) == without_plan(found)
    for name in ("search.json", "plan.json", "config.yaml"):
        one, other = (tmp_path / folder / name for folder in ("found", "again"))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_mixed_choice_names_its_parts(model, samples, texts, tmp_path):
    found = search(
        model, samples, texts, "--max-extraction", 0.5, "--variant", "zero", "--variant", "mean",
        "--measure", "span:2", "--calibration", texts[1], "--grain", "blocks",
        "--output", tmp_path / "found",
    )  # fmt: skip
    assert found.evaluations == 8  # 3 choices for each of 2 blocks, less none for both
    mixed = [edit for edit in map(found.find_edit, found.front) if edit.variant == "mixed"]
    assert mixed
    for edit in mixed:
        assert len({part.variant for part in edit.parts}) == 2
        assert sorted({part.block for part in edit.parts}) == edit.blocks


def test_people_get_a_table_and_the_command_to_export(model, samples, texts, tmp_path):
    outcome = call(
        model, samples, texts, "--max-extraction", 0.3, "--variant", "zero",
        "--output", tmp_path / "found",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    assert "chosen on 20 passages, 20 held back" in outcome.stdout
    for name in ("unedited", "deep blocks: 1", "chosen: "):
        assert name in outcome.stdout
    assert f"attn-surgery export {model} --plan {tmp_path / 'found'}/plan.json" in outcome.stdout
    assert "row-" not in outcome.stdout
    tokens = [json.loads(line)["tokens"] for line in samples.read_text().splitlines()]
    for file in (tmp_path / "found").glob("*.json"):
        text = "".join(file.read_text().split())  # a number has a line of its own
        assert "tokens" not in json.loads(text)
        assert not any(",".join(map(str, row[:6])) in text for row in tokens)


@pytest.mark.parametrize("here", [False, True])
def test_the_default_folder_is_named_after_the_model(
    model, samples, texts, tmp_path, monkeypatch, here
):
    monkeypatch.chdir(tmp_path)
    if here:  # in the model's own folder
        monkeypatch.chdir(shutil.copytree(model, tmp_path / "tiny"))
        model = "."
    found = search(model, samples, texts, "--max-extraction", 0.3, "--variant", "zero")
    assert found.plan == "tiny-search/plan.json"
    assert Path("tiny-search/plan.json").is_file()
    again = call(model, samples, texts, "--max-extraction", 0.3, "--variant", "zero")
    assert "tiny-search: this search is complete" in again.stderr


def test_a_goal_that_nothing_meets(texts, tmp_path):
    model = tiny_model()
    for block in model.gpt_neox.layers:
        block.attention.dense.weight.data *= 1e-6  # so that attention hardly matters
    save_tiny(tmp_path / "model", model)
    outcome = call(
        tmp_path / "model", recited(tmp_path / "samples.jsonl", model), texts,
        "--max-extraction", 0.5, "--variant", "zero", "--output", tmp_path / "found",
    )  # fmt: skip
    outcome.assert_error(
        "--max-extraction 0.5: none of the 15 edits measured meets it",
        "zero: 100.0% recovered at ",
        f"search.json in {tmp_path / 'found'} lists the best edits",
        notes=["held-back passages: 20 passages can support 50%"],
    )
    assert set(snapshot(tmp_path / "found")) == {
        *("search.json", "front.png", "front.svg", "config.yaml")
    }
    found = read_search(tmp_path / "found")
    assert found.front
    named = call(
        tmp_path / "model", tmp_path / "samples.jsonl", texts, "--max", "greedy=0.5",
        "--variant", "zero", "--output", tmp_path / "named",
    )  # fmt: skip
    assert "error: --max greedy=0.5: none of the 15 edits measured meets it" in named.stderr
    assert "--grain" not in named.stderr, "the default is the widest"
    assert (found.selected, found.state, found.plan) == (None, None, None)
    before = snapshot(tmp_path / "named")
    with interrupted(Engine, method="_measure_batch") as batches:
        again = call(
            tmp_path / "model", tmp_path / "samples.jsonl", texts, "--max", "greedy=0.5",
            "--variant", "zero", "--output", tmp_path / "named",
        )  # fmt: skip
    again.assert_error(
        "--max greedy=0.5: none of the 15 edits measured meets it",
        notes=[f"{tmp_path / 'named'}: this search is complete"],
    )
    assert snapshot(tmp_path / "named") == before
    assert not batches, "nothing is measured again"


def test_a_goal_that_is_met_already(model, samples, texts, tmp_path):
    options = ("--max-extraction", 1, "--grain", "blocks", "--output", tmp_path / "found")
    outcome = call(model, samples, texts, *options)
    outcome.assert_error(
        "nothing to search for: the unedited model meets the goal",
        "got 100.0% of the passages",
        notes=["held-back passages: 20 passages can support 100%"],
    )
    assert not list(tmp_path.iterdir())


def test_one_passage_has_no_halves(model, texts, tmp_path):
    goal = ["--max-extraction", 0.1, "--output", tmp_path / "found", "--grain", "blocks"]
    few = write_rows(tmp_path / "few.jsonl", [{"tokens": list(range(11))}])
    call(model, few, texts, *goal).assert_error("too few samples to choose on some")
    assert [path.name for path in tmp_path.iterdir()] == ["few.jsonl"]


def test_single_heads_that_no_layout_holds(samples, texts, tmp_path):
    folder = tmp_path / "neo"
    write_checkpoint(folder, neo_config(vocab_size=len(tiny_tokenizer())))
    tiny_tokenizer().save_pretrained(folder)
    goal = ["--max-extraction", 0, "--grain", "heads", "--output", tmp_path / "found"]
    call(folder, samples, texts, *goal, "--variant", "identity").assert_error("no rotary positions")
    outcome = call(folder, samples, texts, *goal, "--variant", "identity", "--variant", "zero")
    assert "warning: single heads with identity are left out: gpt_neo has no" in outcome.stderr


@pytest.mark.slow
@pytest.mark.real_data
def test_a_deep_model_is_seen_whole_and_edited_cheaply(data, tmp_path):
    """24 blocks of 6 heads; deep blocks with `identity` cost 0.111 nats for the same limit."""
    deep = data / "deep"
    done = attn_surgery(
        "search", deep, "--samples", deep / "records.jsonl", "--corpus", deep / "heldout.txt",
        "--max-extraction", 0.01, "--variant", "identity", "--variant", "zero", "--device", "cpu",
        "--measure", "greedy", "--max-evaluations", 8, "--output", tmp_path / "found", "--json",
    )  # fmt: skip
    found = read_search(done)
    assert found.units.offered == found.units.estimated == 24 * (1 + 6) * 2
    assert found.evaluations <= 8
    assert value(found, "recited", found.selected, BACK) <= 0.02
    assert found.rise(str(found.selected), BACK) <= 0.06


def test_a_request_has_the_defaults_of_the_command_and_its_file_repeats_it(tmp_path):
    given = ["m", "--samples", "s.npy", "--max-extraction", "0"]
    asked = command.make_context("search", given)
    request = SearchRequest.of(model="m", samples="s.npy", max_extraction=0)
    assert command.fill(asked) == request
    (tmp_path / "config.yaml").write_text(request.to_config())
    ctx = with_config(command).make_context("search", ["--config", str(tmp_path / "config.yaml")])
    assert command.fill(ctx) == request
    with pytest.raises(ValueError, match="no measure 'most'"):
        SearchRequest.of(model="m", samples="s.npy", max_extraction=0, measure="most")
