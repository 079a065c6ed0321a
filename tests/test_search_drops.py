"""Contract of `search --max-drop`: no benchmark loses more than its limit.

What is told of a benchmark is what the exported edit loses on the documents of that half. Only sets
that keep the other limits are measured. Wrong limits are one line, before any work.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from command_line import attn_surgery, interrupted
from grids import read_search
from local_tasks import ROWS, write_tasks
from test_search import VARIANTS, Landscape, estimates_of
from test_search_command import call, model, samples, texts

from evals.choose.search.algorithm import find
from evals.choose.search.enforcing import enforce_limits
from evals.choose.search.goal import Goal
from evals.choose.search.trials import HALVES
from evals.choose.units import list_units
from evals.jobs.mitigating import MitigationRequest
from evals.measure.differences import compare_scores, halve_scores
from evals.run.lm_eval.running import Benchmarks
from evals.run.lm_eval.scores import Scores, choose_metric
from evals.run.models import open_model
from evals.table.limits import ask_tasks, decide
from evals.table.measured import measure_value
from surgery.errors import MeasurementError
from surgery.record.manifest import read_manifest
from surgery.record.report import Report

TASK = "local_continuation"
__all__ = ["model", "samples", "texts"]

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # lm-eval and datasets warn of their own affairs
    pytest.mark.usefixtures("blank_pictures"),
]


def search(model, samples, texts, folder, most, *options, task=TASK, rows=ROWS):
    tasks = write_tasks(folder / "tasks", rows)
    return call(
        model, samples, texts, "--max-extraction", 0.3, "--measure", "greedy", "--variant", "zero",
        "--grain", "blocks", "--max-drop", f"{task}={most}", "--include-path", tasks,
        "--output", folder / "found", *options,
    )  # fmt: skip


def test_what_is_told_is_what_the_exported_edit_loses(model, samples, texts, tmp_path) -> None:
    """The edit is chosen on every other document. The rest tells what the choice is worth."""
    with interrupted(Benchmarks, method="run") as ran:
        outcome = search(model, samples, texts, tmp_path, 9, "--json")
    found = read_search(outcome)
    assert found.settings["max_drop"] == {TASK: 9}
    assert len(ran) <= 3, "the base, the deepest blocks, and the choice"
    again = search(model, samples, texts, tmp_path, 9)
    assert again.code == 0, again.stderr
    assert "this search is complete" in again.stderr
    plan = tmp_path / "found" / "plan.json"
    assert attn_surgery("export", model, "--plan", plan, "--output", tmp_path / "out").code == 0
    benchmarks = Benchmarks.load([TASK], include_paths=[tmp_path / "tasks"])
    base, edited = (
        benchmarks.scores(TASK, benchmarks.run(TASK, loaded, batch_size=8))
        for loaded in (open_model(str(path), device="cpu") for path in (model, tmp_path / "out"))
    )
    main, of = choose_metric(base), str(found.selected)
    for half, on in enumerate(HALVES):
        (told,) = (one for one in found.list_limits(of) if (one.what, one.on) == ("task", on))
        scores = (halve_scores(one[main], half) for one in (base, edited))
        rows = [one.model_copy(update={"on": on}) for one in compare_scores(told.name, *scores, 9)]
        (expected,) = decide(rows, ask_tasks({TASK: 9}, [TASK]), "edited")
        assert told == expected.model_copy(update={"of": of})
        assert told.n == len(ROWS) // 2


def test_documents_that_chose_do_not_judge(model, samples, texts, tmp_path, monkeypatch) -> None:
    """And the base answers them once, in the search and in the evaluation."""
    found = read_search(search(model, samples, texts, tmp_path, 9, "--json"))
    plan = tmp_path / "found" / "plan.json"
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    assert attn_surgery("export", model, "--plan", plan, "--output", out).code == 0
    manifest = read_manifest(out)
    assert [*manifest.chosen.documents] == [TASK]

    def evaluate(*more):
        done = attn_surgery(
            *("evaluate", out, "--baseline", model, "--samples", samples, "--corpus", texts[0]),
            *("--prefix-length", 6, "--suffix-length", 5, "--device", "cpu", "--tasks", TASK),
            *(
                "--include-path",
                tmp_path / "tasks",
                "--max-drop",
                f"{TASK}=9",
                "--overwrite",
                "--json",
                *more,
            ),
        )
        assert done.json, done.stderr
        return Report.model_validate(done.json)

    report, of = evaluate(), str(found.selected)
    (limit,) = report.limits
    (told,) = (one for one in found.list_limits(of) if (one.what, one.on) == ("task", "held back"))
    assert (limit.n, limit.on, limit.value) == (len(ROWS) // 2, "held back", told.value)
    assert report.provenance.baseline_from_cache
    other = evaluate("--limit", 20)
    (limit,) = other.limits
    assert limit.n == 20
    assert any(f"other documents of {TASK}" in one for one in other.edits[0].warnings)


def test_a_limit_that_nothing_keeps(model, samples, texts, tmp_path) -> None:
    """The right answers are those that the unedited model gives, so every edit loses some."""
    rows = [{**row, "context": f"{row['context']} {n}"} for n in range(3) for row in ROWS]
    benchmarks = Benchmarks.load(
        ["local_choice"], include_paths=[write_tasks(tmp_path / "asked", rows)]
    )
    run = benchmarks.run("local_choice", open_model(str(model), device="cpu"), batch_size=8)
    said = [int(np.argmax([one[0] for one in row["filtered_resps"]])) for row in run["samples"]]
    rows = [{**row, "answer": answer} for row, answer in zip(rows, said, strict=True)]
    outcome = search(model, samples, texts, tmp_path, 0, task="local_choice", rows=rows)
    assert outcome.code == 1, outcome
    assert "--max-drop local_choice=0: none of the" in outcome.stderr


NO_TASK = f"--max-drop: no task of this run matches 'nothing' (tasks: {TASK})"


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--max-extraction", 0.1, "--max-drop", "nothing=0.1", "--tasks", TASK), NO_TASK),
        (("--max-drop", "a=0.1"), "give a limit: --max-extraction X or --max A=X"),
        (("--max-extraction", 0.1, "--suite", "lab"), "suite of --config needs --max-drop"),
    ],
)
def test_limits_that_are_none(model, samples, texts, tmp_path, options, text) -> None:
    tasks = ("--include-path", write_tasks(tmp_path / "tasks")) if "nothing=0.1" in options else ()
    outcome = call(model, samples, texts, *options, *tasks, "--output", tmp_path / "found")
    assert outcome.code == 2, outcome
    assert text in outcome.stderr
    assert not (tmp_path / "found").exists()


def test_a_benchmark_of_one_document_has_no_halves() -> None:
    scores = Scores([1.0], ["a document"], "mean", np.mean, 1.0, higher_is_better=True)
    assert halve_scores(scores, 0).values == [1.0]
    with pytest.raises(MeasurementError, match=r"needs a document to choose on.* got 1"):
        halve_scores(scores, 1)


def test_mitigate_gives_its_search_the_limits_and_the_tasks() -> None:
    asked = {"model": "lab:pythia", "suite": "lab", "limit": 20}
    request = MitigationRequest.of(**asked, max_drop={"lab_copy": 0.02})
    for one in (request.search_request, request.evaluation_request):
        assert (one.benchmarks.max_drop, one.benchmarks.limit) == ({"lab_copy": 0.02}, 20)
    assert MitigationRequest.of(**asked).search_request.benchmarks.suite is None


def test_sets_that_lose_too_much_are_passed_over_the_cheapest_first() -> None:
    """Of the sets that lose little, the choice is the cheapest that was tried."""
    landscape = Landscape(1, 3, 2)
    units = list_units(3, 2, "mixed", VARIANTS)
    estimates = estimates_of(landscape, units)
    found = find(landscape, units, Goal(0.1), estimates, max_evaluations=6)
    tried = []

    def keeps(chosen) -> bool:
        point = found.measured[chosen]
        drop = 0.1 if len(tried) < 2 else 0.0  # the first two lose too much
        tried.append(chosen)
        lost = measure_value("task.t", 0.5, drop=drop)
        found.measured[chosen] = replace(point, tried=(lost,))
        return drop <= 0.05

    best = enforce_limits(found, keeps, {}, 12, {"task.t": 0.05})
    assert best is not None
    assert best in tried[2:]
    assert found.measured[best].recovered <= 0.1
    kept = [one for one in tried if not found.measured[one].excess({"task.t": 0.05})]
    assert found.rank(best) == min(map(found.rank, kept))
