"""Contract of `attn-surgery mitigate`: one command searches, exports, verifies, attacks and
evaluates; an interrupted one goes on where it was; a limit that is not met is exit code 3, with the
best that was found; its recipe repeats it, and holds no path.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from command_line import Outcome, attn_surgery, snapshot
from grids import read_search
from local_tasks import write_tasks
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from benchmarks.settling import settle
from cli.commands.whole.mitigate import PRESETS, command
from cli.config import IN_FILE
from cli.tables.figures import RESULTS
from evals.choose.search.report import SearchResult
from evals.data import Samples, load_samples
from evals.jobs.materials import open_materials
from evals.jobs.mitigating import MitigationRequest, OpenedMitigation, check_texts
from evals.jobs.recipes import Recipe, choose_best, list_recipes, place_results
from evals.lab import samples_path
from evals.table.measured import measure_value
from evals.table.words.view import View
from surgery.hub.finding import find_model
from surgery.loading import load_tokenizer
from surgery.record.manifest import MANIFEST, History, Manifest, PassagesRecord, read_manifest
from surgery.record.measured import Change, Limit, Measured, On, State
from surgery.record.plan_file import read_plan_file
from surgery.record.report import EditRecord, Named, Report
from surgery.selection import format_selection
from surgery.verification import verify

pytestmark = pytest.mark.usefixtures("blank_pictures")


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny, a model; samples.jsonl, which it recites; heldout, a folder of text, and tasks."""
    folder = tmp_path_factory.mktemp("work")
    save_tiny(folder / "tiny")
    write_rows(folder / "samples.jsonl", recited_rows(tiny_model(), 24))
    words = np.random.default_rng(0).choice(TEXT.split(), 600)
    (folder / "heldout").mkdir()
    (folder / "heldout" / "words.txt").write_text(" ".join(words))
    write_tasks(folder / "tasks")
    return folder


@pytest.fixture(autouse=True)
def own_cache(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(work / "cache"))


def mitigate(work: Path, output: Path, *more: object) -> Outcome:
    return attn_surgery(
        *("mitigate", work / "tiny", "--samples", work / "samples.jsonl"),
        *("--corpus", work / "heldout", "--prefix-length", 6, "--suffix-length", 5),
        *("--grain", "blocks", "--variant", "zero", "--measure", "greedy", "--device", "cpu"),
        *("--tasks", "local_choice", "--include-path", work / "tasks", "--attack", "quantized:4"),
        *("--max-extraction", 0.5, "--output", output, *more),
    )


def take(report: Report, name: str, on: On | None = None) -> Measured:
    """A figure of the first edit, which must be there."""
    row = report.find(name, report.edits[0].of, on)
    assert row is not None, (name, on)
    return row


def read(folder: Path) -> Manifest:
    """The manifest of a folder, which must be there."""
    manifest = read_manifest(folder)
    assert manifest is not None
    return manifest


@pytest.fixture(scope="module")
def done(work: Path) -> tuple[Outcome, Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATTN_SURGERY_CACHE", str(work / "cache"))
        return mitigate(work, work / "out", "--json"), work / "out"


def test_the_whole_job(work: Path, done: tuple[Outcome, Path]) -> None:
    outcome, out = done
    assert outcome.code == 0, outcome.stderr
    assert verify(out, source=work / "tiny").ok
    report = Report.model_validate_json((out / "report.json").read_text())
    assert outcome.json["report"] == report.to_dict()
    (edit,) = report.edits
    assert edit.relation == "source"
    shown = [name for one in report.tables if one.key in ("attacked", "cost") for name in one.names]
    assert shown == ["recovered.quantized:4", "recovered.greedy", "task.local_choice", "heldout"]
    (limit,) = report.limits
    assert (limit.subject, limit.of, limit.limit, limit.state) == ("greedy", edit.of, 0.5, "kept")
    search = read_search(work / "out-search")
    assert outcome.json["search"] == search.to_dict() | {"plan": str(work / "out-search/plan.json")}
    assert edit.edit is not None
    spec = format_selection(edit.edit.parts, edit.edit.step.num_heads)
    assert spec == search.find_edit(str(search.selected)).spec
    assert outcome.json["next"] == f"attn-surgery push {out} OWNER/NAME"
    assert outcome.stderr.endswith(f"next: attn-surgery push {out} OWNER/NAME\n")
    assert "Nothing yet" not in (out / "README.md").read_text()  # the card has the figures


def test_figures_are_of_what_did_not_choose_the_edit(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """Headline, gates and card too; also when the search's plan is exported and evaluated."""
    search = read_search(work / "out-search")
    report = Report.model_validate_json((done[1] / "report.json").read_text())
    (edit,) = report.edits
    assert edit.chose == {
        "passages": search.n,
        "windows": search.heldout["chosen_on"]["windows"],
        "taught": 0,
    }
    recited, greedy, heldout = (
        take(report, key) for key in ("recited", "recovered.greedy", "heldout")
    )
    assert {row.on for row in (recited, greedy, heldout)} == {"held back"}
    assert recited.n == greedy.n == search.n_held_back == 12
    best = str(search.selected)
    assert recited.value == search.read("recited", best, "held back")
    assert heldout.n == search.heldout["held_back"]["windows"]
    assert heldout.value == pytest.approx(search.read("heldout", best, "held back"))
    assert [limit.n for limit in report.limits] == [12]
    assert {row.id for row in edit.passages} <= {*search.held_back_ids}
    every = [take(report, name, "all").n for name in ("recited", "recovered.greedy")]
    assert every == [24, 24]
    assert edit.verdict.startswith(
        f"A search used 12 of 24 passages and {edit.chose['windows']} of "
        f"{take(report, 'heldout', 'all').n} windows of held-out text; the figures leave these "
        f"out. Recites {recited.details['count']} of 12 passages"
    )
    for name in ("README.md", "report.md"):
        assert "All passages, including those" in (done[1] / name).read_text()
    html = (done[1] / "report.html").read_text()
    assert "All passages, including those that the search used" in html

    assert attn_surgery("verify", done[1]).code == 0

    plan = ("--plan", work / "out-search" / "plan.json", "--output", tmp_path / "again")
    assert attn_surgery("export", work / "tiny", *plan).code == 0

    def evaluated(samples: Path) -> Report:
        outcome = attn_surgery(
            *("evaluate", tmp_path / "again", "--baseline", work / "tiny", "--samples", samples),
            *("--control", work / "heldout", "--prefix-length", 6, "--suffix-length", 5),
            *("--tasks", "local_choice", "--include-path", work / "tasks", "--device", "cpu"),
            *("--output", tmp_path / f"{samples.stem}-report", "--json"),
        )
        assert outcome.code == 0, outcome.stderr
        return Report.model_validate(outcome.json)

    again = evaluated(work / "samples.jsonl")
    assert again.edits[0].chose == edit.chose
    assert take(again, "recited") == take(report, "recited")
    some = tmp_path / "some.jsonl"
    some.write_text("\n".join((work / "samples.jsonl").read_text().splitlines()[:20]))
    others = evaluated(some)
    assert others.edits[0].chose == {**edit.chose, "passages": None}
    assert take(others, "recited").n == 20
    assert any("the two sets may overlap" in warning for warning in others.edits[0].warnings)


def test_a_recipe_repeats_it_and_holds_no_path(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = done[1] / "recipe.yaml"
    assert str(work) not in recipe.read_text()
    options = yaml.safe_load(recipe.read_text())
    assert options["model"] == "tiny"
    assert options["passages"]["samples"] == "samples.jsonl"
    assert options["extraction"]["max-extraction"] == 0.5
    assert "output" not in options
    monkeypatch.chdir(work)
    again = attn_surgery(
        "mitigate", "--recipe", recipe, "--include-path", "tasks", "--output", tmp_path / "out"
    )
    assert again.code == 0, again.stderr
    weights = [folder / "model.safetensors" for folder in (done[1], tmp_path / "out")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert (tmp_path / "out" / "recipe.yaml").read_text() == recipe.read_text()


def test_a_recipe_keeps_every_value(tmp_path: Path) -> None:
    """Zeros too, and names of data sets whole; paths alone are cut."""
    (tmp_path / "heldout.txt").write_text("words")
    given = [
        "lab:pythia", "--max-extraction", "0", "--num-fewshot", "0", "--seed", "0", "--max-drop",
        "*=0", "--max", "perturbed=0", "--max", "hints:2=0.0123456789", "--limit", "0.05",
        "--samples", "hf:me/data:train:tokens", "--corpus", "hf:allenai/c4:train:text", "--corpus",
        str(tmp_path / "heldout.txt"), "--calibration", "hf:allenai/c4:train:text", "--suite",
        "lab", "--attack", "quantized:4", "--output", "out",
    ]  # fmt: skip
    ctx = command.make_context("mitigate", settle("mitigate", *given)[1:])
    request = command.fill(ctx)
    (tmp_path / "recipe.yaml").write_text(request.to_config())
    again = command.make_context(
        "mitigate", ["--recipe", str(tmp_path / "recipe.yaml"), "--output", "out"]
    )
    corpora = (Path("hf:allenai/c4:train:text"), Path("heldout.txt"))
    assert again.params == {**ctx.params, "heldout": corpora}
    assert again.meta[IN_FILE].items() >= ctx.meta[IN_FILE].items()


def test_what_was_done_is_not_done_again(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """Stopped before the evaluation, or before the export, it goes on from there."""
    out, cut, search = (tmp_path / name for name in ("out", "out-cut", "out-search"))
    shutil.copytree(work / "out-search", search)
    shutil.copytree(work / "out", cut)
    for name in ("recipe.yaml", "report.json", "report.html", "report.md"):
        (cut / name).unlink()
    before = snapshot(search), (cut / "model.safetensors").stat().st_mtime_ns
    outcome = mitigate(work, out)
    assert outcome.code == 0, outcome.stderr
    assert f"{search}: this search is complete" in outcome.stderr
    assert f"{cut}: already holds this result" in outcome.stderr
    assert before == (snapshot(search), (out / "model.safetensors").stat().st_mtime_ns)
    assert (out / "report.json").exists()
    assert not cut.exists()
    refused = mitigate(work, out)
    refused.assert_error("already exists", "--overwrite")


def test_the_output_is_replaced_when_all_is_done(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped before, the old one is as it was, and what the attacks found is not lost."""
    out = tmp_path / "out"
    shutil.copytree(work / "out", out)
    before = snapshot(out)

    def stop(*given: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("evals.jobs.mitigating.choose_best", stop)
        stopped = mitigate(work, out, "--overwrite")
    assert stopped.code == 130, stopped.stderr
    assert snapshot(out) == before
    monkeypatch.setattr("evals.measure.attacks.trying._try", stop)  # none runs again
    outcome = mitigate(work, out, "--overwrite")
    assert outcome.code == 0, outcome.stderr
    assert f"{out}-cut: already holds this result" in outcome.stderr
    assert {*tmp_path.iterdir()} == {out, tmp_path / "out-search"}
    assert snapshot(out) != before


def test_another_export_that_is_there_is_not_replaced(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """Also where a search of the same lies beside it, as it would after an interruption."""
    out = tmp_path / "out"
    shutil.copytree(work / "out-search", tmp_path / "out-search")
    made = attn_surgery("export", work / "tiny", "--drop-attn", "1.0", "--variant", "zero",
                        "--output", out)  # fmt: skip
    assert made.code == 0, made.stderr
    before = snapshot(out)
    outcome = mitigate(work, out)
    assert outcome.code == 1
    assert f"error: {out}: already exists; choose another --output" in outcome.stderr
    assert snapshot(out) == before


def test_what_is_in_the_way_is_found_before_any_work(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """Also where the search and the cut of the same job are done."""
    out, healed = tmp_path / "out", tmp_path / "out-cut-heal"
    shutil.copytree(work / "out-search", tmp_path / "out-search")
    shutil.copytree(work / "out", tmp_path / "out-cut")
    shutil.copytree(work / "out", out)
    (tmp_path / "other.txt").write_text(" ".join(TEXT.upper().split() * 40))
    healing = ("--heal", tmp_path / "other.txt", "--heal-steps", 2)
    before = snapshot(tmp_path)
    mitigate(work, out, *healing).assert_error(f"{out}: already exists")
    assert snapshot(tmp_path) == before
    out.rename(healed)
    (healed / MANIFEST).unlink()
    for more in ((), ("--overwrite",)):
        mitigate(work, out, *healing, *more).assert_error(f"{healed}: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max-extraction: [1]", "max-extraction: expected one value, got ['1']"),
        ("samples: {a: b}", "samples: expected one value, got {'a': 'b'}"),
        ("max: any", "max: 'any' is not A=X; write for example"),
        ("variant: [1, {a: 2}]", "variant: expected values, got ['1', {'a': '2'}]"),
        ("json: true", "json: cannot come from a file; pass --json"),
        ("output: elsewhere", "pass --output"),
        ("--seeed: 1", "did you mean 'seed'?"),
        ("- list", "is not valid YAML (expected options, one `name: value` a line)"),
        (r'corpus: ["a\0b"]', r"corpus: ['a\x00b'] holds a NUL character; remove it"),
    ],
)
def test_a_wrong_recipe_is_refused_before_any_work(tmp_path: Path, text: str, message: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"model: no/such\n{text}\n" if ":" in text else text)
    outcome = attn_surgery("mitigate", "--recipe", recipe, "--output", tmp_path / "out")
    assert outcome.code == 2, outcome
    assert f"error: {recipe}: " in outcome.stderr
    assert message in outcome.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_a_limit_that_is_not_met_is_exit_3_with_the_best(work: Path, tmp_path: Path) -> None:
    """One block alone is offered by the budget, and leaves more than none."""
    out = tmp_path / "out"
    outcome = mitigate(work, out, "--max-extraction", 0, "--measure", "span:2")
    assert outcome.code == 3, outcome
    assert (
        "no edit meets the limit of 0 (span:2): continuing with the one that comes closest"
        in outcome.stderr
    )
    report = Report.model_validate_json((out / "report.json").read_text())
    assert report.edits[0].state == "missed"
    assert report.edits[0].edit is not None
    assert report.edits[0].edit.missed_alone  # said also where the half held back keeps the limit
    assert verify(out, source=work / "tiny").ok
    assert "next: " not in outcome.stderr


def test_too_few_passages_decide_nothing(work: Path, tmp_path: Path) -> None:
    """No tick, no push, and an exit code of its own. The least number that would do is said."""
    out = tmp_path / "out"
    outcome = mitigate(work, out, "--max-extraction", 0.05, "--json")
    lacks = "12 passages cannot support 5%: that takes 59"
    assert outcome.code == 4, outcome.stderr
    assert f"held-back passages: {lacks}; unless the limit is missed" in outcome.stderr
    assert "limit not decided: max greedy: share of passages recovered" in outcome.stderr
    assert "next: " not in outcome.stderr
    assert outcome.json["state"] == "undecided"
    assert outcome.json["next"] is None
    assert outcome.json["search"]["state"] == "undecided"
    (limit,) = Report.model_validate(outcome.json["report"]).limits
    assert (limit.state, limit.needed) == ("undecided", 59)
    for name in ("report.html", "report.md", "README.md"):
        assert f"ot decided: max greedy: {lacks}" in (out / name).read_text(), name
    page = (out / "report.html").read_text()
    assert 'class="verdict undecided"' in page
    assert "✓" not in page


def test_benchmarks_measured_in_part_are_nothing_to_publish(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """The card holds what was measured whole, says what was not, and no push is proposed."""
    shutil.copytree(work / "out-search", tmp_path / "out-search")
    outcome = mitigate(work, tmp_path / "out", "--limit", 2, "--json")
    assert outcome.code == 0, outcome.stderr
    assert outcome.json["next"] is None
    assert "next: " not in outcome.stderr
    assert "warning: only a part of each benchmark was measured (limit)" in outcome.stderr
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Nothing yet" not in card
    assert "| recited word for word |" in card
    assert "- only a part of each benchmark was measured" in card
    assert "| local\\_choice" not in card
    assert "model-index" in card
    assert "dataset_name: local_choice" not in card


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("", "name a MODEL, or give a --config that does"),
        ("some/model", "some/model brings no passages of its own: give --samples"),
        ("some/model --samples x.jsonl", "brings no held-out text of its own: give --heldout"),
        ("lab:pythia --measure most", "--measure: no measure 'most'"),
        ("lab:pythia --tasks a --suite lab", "--tasks and --no-benchmarks exclude each other"),
        ("lab:pythia --tasks a --no-benchmarks", "exclude each other"),
        ("lab:pythia --preset fast", "'fast' is not one of 'quick', 'thorough'"),
    ],
)
def test_usage_errors_come_before_any_work(tmp_path: Path, arguments: str, text: str) -> None:
    outcome = attn_surgery("mitigate", *arguments.split(), "--output", tmp_path / "out")
    assert outcome.code == 2, outcome
    assert text in outcome.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.usefixtures("few_steps")
def test_what_holds_best_is_kept_healed_or_not(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody else's folder is: neither at first, nor after hours, nor when it continues."""
    words = np.random.default_rng(1).choice(TEXT.split(), 600)
    (tmp_path / "other.txt").write_text(" ".join(words))
    out = tmp_path / "out"
    short = mitigate(work, out, "--heal", tmp_path / "other.txt", "--heal-steps", 800)
    short.assert_error("other.txt: too little text")
    assert not list(tmp_path.glob("*out*"))  # before the search
    rows = (work / "samples.jsonl").read_text() + '\n{"id": "short", "tokens": [1, 2]}\n'
    (tmp_path / "samples.jsonl").write_text(rows)
    healing = ("--heal", tmp_path / "other.txt", "--heal-steps", 2)
    healing += ("--samples", tmp_path / "samples.jsonl", "--skip-short", "--draws", 1)

    def appear(*given: Any) -> tuple[int, str]:
        out.mkdir()
        (out / "mine.txt").write_text("mine")
        return 0, "kept the cut"

    with monkeypatch.context() as patch:
        patch.setattr("evals.jobs.mitigating.choose_best", appear)
        late = mitigate(work, out, *healing)
    assert late.code == 1
    assert late.stderr.splitlines()[-1].startswith(f"error: {out}: already exists")
    mitigate(work, out, *healing).assert_error(f"{out}: already exists")
    assert (out / "mine.txt").read_text() == "mine"
    shutil.rmtree(out)
    outcome = mitigate(work, out, *healing, "--json")
    assert outcome.code in (0, 3, 4), outcome.stderr
    assert "out-cut-heal: already holds this result" in outcome.stderr
    report = Report.model_validate(outcome.json["report"])
    cut, healed = report.edits
    assert (cut.name, healed.name) == ("out-cut", "out-cut-heal")
    chosen, reason = choose_best(report, PAIR)
    assert reason in outcome.stderr
    assert outcome.json["result"] == ("cut", "cut-heal")[chosen]
    names = ("out-cut", "out-cut-heal")
    (left,) = [place for place in (tmp_path / name for name in names) if place.exists()]
    for folder, trained in ((out, chosen == 1), (left, chosen == 0)):
        assert verify(folder, source=work / "tiny").ok
        assert bool(read(folder).healings) == trained
        written = Report.model_validate_json((folder / "report.json").read_text())
        assert {written.edits[0].name, written.edits[0].provenance["model"]} == {folder.name}
        assert written.settings["models"] == [folder.name]


def test_the_cheapest_of_the_best_results_is_kept(done: tuple[Outcome, Path]) -> None:
    """A kept limit beats one not decided, and that one beats a missed one, whatever they cost. Then
    comes what exceeds the limits, and then the largest loss, relative to the base."""
    report = Report.model_validate(done[0].json["report"])
    (edit,), (limit,), loss = report.edits, report.limits, take(report, "heldout")
    assert limit.what == "recovered"

    def make(costs: Sequence[float | None], states: Sequence[State], *edits: EditRecord) -> Report:
        """The report of several results, of which each has a cost and a state."""
        names = [f"edited-{n + 1}" for n in range(len(costs))]
        known = zip(names, edits or [edit] * len(costs), states, strict=True)
        limits: list[Limit] = [
            limit.model_copy(update={"of": of, "state": state})
            for of, state in zip(names, states, strict=True)
        ]
        rows = [
            loss.model_copy(update={"of": of, "value": 4 + cost, "change": Change(difference=cost)})
            for of, cost in zip(names, costs, strict=True)
            if cost is not None
        ]
        each = [one.model_copy(update={"of": of, "state": state}) for of, one, state in known]
        return report.model_copy(update={"edits": each, "limits": limits, "figures": rows})

    def choose(*results: tuple[float | None, State]) -> tuple[int, str]:
        costs, states = zip(*results, strict=True)
        return choose_best(make(costs, states), [*PAIR, Recipe(("erase",), "cut")][: len(results)])

    assert choose((0.2, "kept"), (0.1, "kept"), (0.3, "kept"))[0] == 1
    assert choose((0.1, "kept"), (0.1, "kept"))[0] == 0, "the first of equals"
    place, why = choose((0.2, "kept"), (0.1, "missed"), (-0.1, "undecided"))
    assert place == 0
    assert why == (
        "kept the cut. the cut: 5.0% worse in loss on held-out text; the cut, healed: 2.5% worse "
        "in loss on held-out text, misses max greedy; erased, by cut: nothing was lost, does not "
        "decide max greedy"
    )
    assert choose((0.2, "missed"), (0.3, "undecided"), (0.1, "missed"))[0] == 1
    assert choose((0.2, "missed"), (0.1, "missed"))[0] == 1
    place, why = choose((None, "kept"), (None, "kept"))
    assert (place, why) == (0, "kept the cut. the cut: not measured; the cut, healed: not measured")

    worse = make((0.2, 0.1), ("missed", "missed"))
    far = worse.limits[1].model_copy(update={"value": limit.limit + 0.1})
    assert choose_best(worse.model_copy(update={"limits": [worse.limits[0], far]}), PAIR)[0] == 0

    two = make((0.2, 0.1), ("kept", "kept"))
    known = {"of": "edited-2", "name": "task.local_choice", "value": 0.6}
    task = loss.model_copy(
        update=known | {"change": Change(difference=-0.2), "details": {"drop": 0.2}}
    )
    place, why = choose_best(two.model_copy(update={"figures": [*two.figures, task]}), PAIR)
    assert place == 0, "a benchmark lost more than the text did"
    assert "the cut, healed: 25.0% worse in local_choice" in why

    twice = task.model_copy(  # a perplexity of 20 that became 40: its drop is relative already
        update={
            "value": 40.0,
            "change": Change(difference=20.0),
            "details": {"drop": 1.0, "drop_is_relative": True},
        }
    )
    place, why = choose_best(two.model_copy(update={"figures": [*two.figures, twice]}), PAIR)
    assert place == 0
    assert "the cut, healed: 100.0% worse in local_choice" in why

    form = loss.model_copy(update={"of": "edited-2", "name": "form", "on": "never trained on"})
    form = form.model_copy(update={"value": 3.0, "change": Change(difference=1.0)})
    place, why = choose_best(two.model_copy(update={"figures": [*two.figures, form]}), PAIR)
    assert place == 0, "records of the form lost more than the text did"
    assert "the cut, healed: 50.0% worse in loss on new text of the passages' form" in why

    assert edit.edit is not None
    search = dict.fromkeys(("passages", "windows"), "a" * 64) | {"seed": 0, "met": False}
    step = edit.edit.step.model_dump(mode="json") | {"chosen": search}
    missed = edit.model_copy(update={"edit": History.model_validate({"history": [step]})})
    searched = make((0.1, 0.2), ("missed", "kept"), missed, edit)
    place, why = choose_best(searched.model_copy(update={"limits": []}), PAIR)
    assert place == 1
    assert "the cut: 2.5% worse in loss on held-out text, misses the limits of the search" in why


PAIR = list_recipes([], heal=True)
ALL = list_recipes(["context:8"], heal=True)
TINY = list_recipes([None], heal=True)
"""Where a look chooses the way."""


def test_recipes_come_in_the_order_in_which_to_try_them() -> None:
    """The public base first. What a recipe begins with stands before it."""
    names = [recipe.name for recipe in list_recipes(["org/base", "context:8"], heal=True)]
    assert names == [
        *("cut", "erase-base", "erase-base-heal", "erase-base-cut", "erase-base-cut-heal"),
        *("cut-heal", "erase-context-8", "erase-context-8-heal", "erase-context-8-cut"),
        "erase-context-8-cut-heal",
    ]
    assert [one.what for one in ALL[1:3]] == [
        "erased, by context:8",
        "erased and healed, by context:8",
    ]
    assert list_recipes([], heal=False) == [Recipe(("cut",))]
    for recipe in ALL:
        assert recipe.before is None or ALL.index(recipe.before) < ALL.index(recipe)


def test_results_are_shown_side_by_side(done: tuple[Outcome, Path]) -> None:
    report = Report.model_validate(done[0].json["report"])
    (edit,), loss = report.edits, take(report, "heldout")
    ofs = ("edited-1", "edited-2")
    states: tuple[State, ...] = ("kept", "missed")
    edits = [
        edit.model_copy(update={"of": of, "state": state})
        for of, state in zip(ofs, states, strict=True)
    ]
    rows = [
        loss.model_copy(update={"of": of, "change": Change(difference=cost)})
        for of, cost in zip(ofs, (0.2, 0.1), strict=True)
    ]
    rates = {"recovered.quantized:4": (0.1, 0.2), "recovered.greedy": (0.4, 0.0)}
    outcomes = {"task.local_choice": ("loss", "gain"), "task.copy": ("none", "gain")}
    for of, *each in zip(ofs, *rates.values(), strict=True):
        rows += [
            measure_value(name, share, of=of, on="held back", n=12, unit="share")
            for name, share in zip(rates, each, strict=True)
        ]
    for of, *each in zip(ofs, *outcomes.values(), strict=True):
        rows += [
            measure_value(name, 0.5, of=of, outcome=end)
            for name, end in zip(outcomes, each, strict=True)
        ]
    named = {**report.names, "task.copy": Named(label="copy", main=True, details={"task": "copy"})}
    told = report.model_copy(update={"edits": edits, "limits": [], "figures": rows, "names": named})
    views = [View(told, one) for one in told.edits]
    assert {heading: [say(view) for view in views] for heading, say in RESULTS.items()} == {
        "limits": ["kept", "MISSED"],
        "held-out loss, nats": ["+0.200", "+0.100"],
        "form, nats": ["", ""],
        "recited": ["", ""],
        "strongest attack": ["greedy 40.0%", "quantized:4 20.0%"],
        "benchmarks": ["1 of 2 lose", "0 of 2 lose"],
    }
    better, worse = place_results(told)[::-1]
    assert (better.attack, better.attack_by) == (0.2, "quantized:4")
    assert (worse.attack, worse.attack_by) == (0.4, "greedy")
    assert better.cost is not None
    assert worse.cost == pytest.approx(2 * better.cost, rel=0.1)
    assert better.cost_of == "loss on held-out text"


def test_every_result_is_made_once_and_none_is_erased_by_a_teacher_that_recites(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """With what was asked for, where that is not as by default."""
    (tmp_path / "other.txt").write_text(" ".join(TEXT.upper().split() * 40))
    request = MitigationRequest.of(
        model=str(work / "tiny"), samples=str(work / "samples.jsonl"), heldout=(work / "heldout",),
        prefix_length=6, suffix_length=5, device="cpu", erase=True, erase_steps=2, heal_steps=3,
        heal=(str(tmp_path / "other.txt"),), harden=True, suite="none",
    )  # fmt: skip
    plan = read_plan_file(work / "out-search" / "plan.json")
    materials = open_materials(request.evaluation_request, [(request.model, None)])
    opened = OpenedMitigation(request, tmp_path / "out", materials)
    assert request.recipes == TINY
    made = opened._make_results(plan)
    assert made == TINY
    for recipe in made:
        manifest = read(tmp_path / f"out-{recipe.name}")
        assert tuple(step.kind for step in manifest.history) == recipe.steps
        assert all((one.steps, one.hardened) == (2, "selective") for one in manifest.erasings)
        assert all(one.steps == 3 for one in manifest.healings)
    before = snapshot(tmp_path)
    assert opened._make_results(plan) == made
    assert snapshot(tmp_path) == before
    said, again = list[str](), tmp_path / "again"
    reciting = OpenedMitigation(request, again, materials)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.choose.teachers.MOST_RECITED", -1.0)
        patch.setattr("evals.jobs.mitigating.say", said.append)
        assert reciting._make_results(plan) == PAIR
    assert said[-1].startswith("nothing erased: the teacher recites the passages")


@pytest.mark.slow
def test_what_is_taught_and_what_is_held_back_are_apart(
    work: Path, done: tuple[Outcome, Path], tmp_path: Path
) -> None:
    """Every result learns from the passages that the search chose on, and the report's figures are
    of the others, with those that were taught beside them.
    """
    (tmp_path / "other.txt").write_text(" ".join(TEXT.upper().split() * 40))
    given = (
        *("mitigate", work / "tiny", "--samples", work / "samples.jsonl", "--device", "cpu"),
        *("--corpus", work / "heldout", "--prefix-length", 6, "--suffix-length", 5),
        *("--grain", "blocks", "--variant", "zero", "--measure", "greedy", "--no-benchmarks"),
        *("--attack", "quantized:4", "--draws", 1, "--max-extraction", 0.5),
        *("--erase", "--erase-steps", 2, "--heal", tmp_path / "other.txt", "--heal-steps", 2),
        *("--output", tmp_path / "out", "--json"),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evals.measure.attacks.trying.TRAINED", ())  # they take most of the time
        made = attn_surgery(*given)
    assert made.code in (0, 3, 4), made.stderr
    samples = load_samples(str(work / "samples.jsonl"), prefix_length=6, suffix_length=5)
    check_apart(tmp_path / "out", samples, Report.model_validate(made.json["report"]), TINY)


def check_apart(output: Path, samples: Samples, report: Report, recipes: Sequence[Recipe]) -> None:
    """Checks that no passage that taught a result is among those that the figures are of."""
    search = read_search(output.with_name("out-search"))
    chosen, others = (
        samples.select(np.array([samples.ids.index(name) for name in ids]))
        for ids in (search.chosen_on_ids, search.held_back_ids)
    )
    for recipe, edit in zip(recipes, report.edits, strict=True):
        place = output.with_name(f"out-{recipe.name}")
        manifest = read(place if place.exists() else output)
        assert tuple(step.kind for step in manifest.history) == recipe.steps
        for training in (*manifest.erasings, *manifest.healings):
            assert isinstance(training.passages, PassagesRecord)
            assert training.passages.sha256 == chosen.sha256
            assert training.passages.number == len(chosen)
        shown = {row.hash for row in edit.passages if row.member is not False}
        assert shown <= {*others.hashes}
        assert not {row.hash for row in edit.passages} & {*chosen.hashes}
    told = [edit.chose["taught"] for edit in report.edits]
    assert told == [0 if recipe.steps == ("cut",) else len(chosen) for recipe in recipes]
    found = [take(report, "recited", on).n for on in ("not taught", "taught")]
    assert found == [len(others) // 2, len(chosen)], "the other half chose among the results"
    assert report.find("recited", report.edits[0].of, "all") is None, "the two kinds are not mixed"


@pytest.mark.slow
def test_a_lab_is_not_taught_what_is_held_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evals.measure.attacks.trying.TRAINED", ())
    rows = samples_path("gpt-neo").read_text(encoding="utf-8").splitlines()[::16]
    (tmp_path / "samples.jsonl").write_text("\n".join(rows), encoding="utf-8")
    made = attn_surgery(
        *("mitigate", "lab:gpt-neo", "--samples", tmp_path / "samples.jsonl", "--device", "cpu"),
        *("--erase", "--erase-steps", 2, "--grain", "blocks", "--variant", "identity"),
        *("--max-evaluations", 2, "--measure", "greedy", "--max-extraction", 0.5),
        *("--attack", "quantized:4", "--no-benchmarks", "--output", tmp_path / "out", "--json"),
    )
    assert made.code in (0, 3, 4), made.stderr
    report = Report.model_validate(made.json["report"])
    tokenizer = load_tokenizer(find_model("lab:gpt-neo").folder)
    samples = load_samples(str(tmp_path / "samples.jsonl"), tokenizer=tokenizer)
    recipes = list_recipes([None], heal=False)  # a look chooses the way
    assert [one["name"] for one in made.json["results"]] == [one.name for one in recipes]
    check_apart(tmp_path / "out", samples, report, recipes)


@pytest.mark.slow
def test_all_results_are_measured_and_the_others_stay(
    work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `--leave-out`, none of them saw the passages that are left out, and all are measured."""
    monkeypatch.setattr("evals.measure.attacks.trying.TRAINED", ())  # they take most of the time
    out = tmp_path / "out"
    (tmp_path / "other.txt").write_text(" ".join(TEXT.upper().split() * 40))
    given = (
        *("mitigate", work / "tiny", "--samples", work / "samples.jsonl", "--device", "cpu"),
        *("--corpus", work / "heldout", "--prefix-length", 6, "--suffix-length", 5),
        *("--grain", "blocks", "--variant", "zero", "--measure", "greedy", "--no-benchmarks"),
        *("--attack", "quantized:4", "--draws", 1, "--max-extraction", 0.5, "--leave-out", 0.25),
        *("--erase", "--erase-steps", 2, "--heal", tmp_path / "other.txt", "--heal-steps", 2),
        *("--harden", "--output", out),
    )
    done = attn_surgery(*given, "--json")
    assert done.code in (0, 3, 4), done.stderr
    report = Report.model_validate(done.json["report"])
    names = [recipe.name for recipe in TINY]
    assert [one["name"] for one in done.json["results"]] == names
    assert [edit.name for edit in report.edits] == [f"out-{name}" for name in names]
    best = TINY[names.index(done.json["result"])]
    others = {tmp_path / f"out-{recipe.name}" for recipe in TINY if recipe != best}
    assert {*tmp_path.iterdir()} == {out, tmp_path / "out-search", tmp_path / "other.txt", *others}
    assert tuple(step.kind for step in read(out).history) == best.steps
    assert verify(out, source=work / "tiny").ok
    sides: tuple[On, ...] = ("not taught", "taught", "not listed")
    assert [take(report, "recited", on).n for on in sides] == [4, 9, 6]
    assert report.find("recited", report.edits[0].of, "all") is None
    assert yaml.safe_load((out / "recipe.yaml").read_text())["passages"]["leave-out"] == 0.25
    again = attn_surgery(*given)
    again.assert_error("already exists")


def test_presets_are_values_of_options_and_what_is_typed_wins(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text("max-evaluations: 9\n")

    def options(*given: str) -> dict[str, Any]:
        context = command.make_context("mitigate", ["lab:pythia", "--output", "out", *given])
        return {**context.params, **context.meta.get(IN_FILE, {})}

    plain, quick = options(), options("--preset", "quick")
    changed = {key for key in quick if plain.get(key) != quick[key]}
    assert changed == set(PRESETS["quick"])
    assert {key: quick[key] for key in changed} == PRESETS["quick"]
    thorough = options("--preset", "thorough")
    assert thorough["max_evaluations"] > 64 > quick["max_evaluations"], "the default"
    typed = options("--config", "{max-evaluations: 7}", "--preset", "quick")
    assert (typed["max_evaluations"], typed["grain"]) == (7, "blocks")
    file = ("--config", str(tmp_path / "own.yaml"))
    for order in ((*file, "--preset", "quick"), ("--preset", "quick", *file)):
        both = options(*order)
        assert (both["max_evaluations"], both["grain"]) == (9, "blocks")


def test_text_to_erase_with_that_is_held_out_is_said(
    work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What an erased model lost is measured on text that it must not have learned."""
    text = tmp_path / "other.txt"
    text.write_text(" ".join(TEXT.upper().split() * 40))
    for heldout, warned in ((text, True), (work / "heldout", False)):
        request = MitigationRequest.of(
            model=str(work / "tiny"), samples=str(work / "samples.jsonl"), heldout=(heldout,),
            prefix_length=6, suffix_length=5, device="cpu", erase=True, erase_steps=2,
            text=(str(text),), suite="none",
        )  # fmt: skip
        materials = open_materials(request.evaluation_request, [(request.model, None)])
        said: list[str] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("evals.jobs.mitigating.say", said.append)
            check_texts(request, materials)
        assert any("stand in the text to fit or train on" in line for line in said) == warned


def test_a_dry_run_tells_of_healing(work: Path, tmp_path: Path) -> None:
    """Two results, three models to measure, and the attacks that a healed model must face. The
    search heals the edits that it tries, and measures the benchmark that has a limit. A sibling
    adds `graft`.
    """
    (tmp_path / "heal.txt").write_text(TEXT.upper() * 30)
    earlier = tiny_model()
    with torch.no_grad():
        earlier.get_input_embeddings().weight.mul_(0.9)
    sibling = ("--attack", "cheap", "--sibling", save_tiny(tmp_path / "a", earlier))
    options = ("--dry-run", "--json", "--heal", tmp_path / "heal.txt", "--heal-steps", 2)
    sibling = (*sibling, "--max-drop", "local_choice=1")
    plain = mitigate(work, tmp_path / "out", "--dry-run", "--json").json
    healed = mitigate(work, tmp_path / "out", *options, *sibling).json
    names = [step["name"] for step in healed["steps"]]
    assert names == ["search", "limits", "benchmark limits", "heal", "attack", "benchmark"]
    steps = {step["name"]: step for step in healed["steps"]}
    assert steps["limits"]["what"].startswith("attack at most 10 edits by")
    assert steps["heal"]["what"] == "train 1 of the results, 2 steps each"
    assert steps["attack"]["what"].endswith("3 models")
    assert "limits" not in [step["name"] for step in plain["steps"]]
    (attacks,) = (one["what"] for one in healed["inputs"] if one["name"] == "attacks")
    assert {"relearn", "graft"} <= set(attacks.split(", "))


def test_a_dry_run_opens_everything_and_writes_nothing(work: Path, tmp_path: Path) -> None:
    before = snapshot(work)
    outcome = mitigate(work, tmp_path / "out", "--dry-run", "--json")
    assert outcome.code == 0, outcome.stderr
    found = outcome.json
    assert [step["name"] for step in found["steps"]] == [
        "search", "attack", "benchmark",
    ]  # fmt: skip
    inputs = {one["name"]: one["what"] for one in found["inputs"]}
    assert inputs["passages"].startswith("24 from")
    split = "choose 0.5: chooses on 12 passages, which decide a limit of 22.1% at least; tests on "
    assert f"; {split}12 passages" in inputs["passages"]
    assert inputs["limits"] == "12 passages can support 50%: that takes 5 with none recovered"
    assert inputs["attacks"] == "quantized:4, greedy"
    assert "relearn" in inputs["not tried"]
    assert inputs["benchmarks"] == "local_choice"
    assert (snapshot(work), [*tmp_path.iterdir()]) == (before, [])
    outcome = mitigate(work, tmp_path / "out", "--dry-run", "--samples", work / "none.jsonl")
    outcome.assert_error("none.jsonl")
    (tmp_path / "out").write_text("mine")
    mitigate(work, tmp_path / "out", "--dry-run").assert_error("already exists")
    (tmp_path / "out").unlink()


def test_without_benchmarks(work: Path, done: tuple[Outcome, Path], tmp_path: Path) -> None:
    """The report has the rest, and the picture of the search."""
    shutil.copytree(work / "out-search", tmp_path / "out-search")
    outcome = attn_surgery(
        *("mitigate", work / "tiny", "--samples", work / "samples.jsonl", "--corpus"),
        *(work / "heldout", "--prefix-length", 6, "--suffix-length", 5, "--device", "cpu"),
        *("--variant", "zero", "--measure", "greedy", "--max-extraction", 0.5, "--preset"),
        *("quick", "--no-benchmarks", "--attack", "quantized:4", "--max-evaluations", 64),
        *("--output", tmp_path / "out", "--json"),
    )
    assert outcome.code == 0, outcome.stderr
    report = Report.model_validate(outcome.json["report"])
    (edit,) = report.edits
    assert [one.names for one in report.tables if one.key == "cost"] == [["heldout"]]
    assert "documents of each benchmark" not in edit.verdict
    assert outcome.json["next"] is not None
    search = SearchResult.model_validate(outcome.json["search"])
    labels = [search.find_edit(of).label for of in search.front]
    assert [point.label for point in report.front] == labels
