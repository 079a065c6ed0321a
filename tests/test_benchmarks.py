"""Contract: benchmarks score a loaded model as lm-eval scores its folder, and find their tasks or
say in one line why not; base results are kept by content; the lab's tasks measure something.
"""

from __future__ import annotations

import copy
import json
import re
import resource
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from local_tasks import NAMES, ROWS, write_tasks
from scipy.stats import binomtest
from tiny_tokenizer import tiny_tokenizer

from benchmarks.real.tasks import write_tasks as write_real_tasks
from benchmarks.real.text import read_unlearned
from evals.lab import LAB_MODELS, find_lab_folder, heldout_texts
from evals.measure.differences import compare_task
from evals.run.keep import identify
from evals.run.lm_eval.request import Tasks
from evals.run.lm_eval.running import Benchmarks, list_code, write_results
from evals.run.lm_eval.scores import choose_metric
from evals.run.lm_eval.tasks import QUICK_LIMIT, SUITES, find_tasks
from evals.run.models import LoadedModel, open_model
from evals.tasks.copying.documents import (
    CONSONANTS,
    ITEMS,
    VOWELS,
    draw_letters,
    draw_words,
    repeat_items,
)
from evals.tasks.lab.documents import copied_lines, next_lines, pieces
from surgery.errors import MeasurementError, NotFiniteError, OutputError


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture(scope="module")
def lm_eval_tasks(tasks: Path) -> Benchmarks:
    return Benchmarks.load(NAMES, include_paths=[tasks])


@pytest.fixture(scope="module")
def runs(lm_eval_tasks: Benchmarks, loaded: LoadedModel) -> dict[str, Any]:
    return {name: lm_eval_tasks.run(name, loaded, batch_size=4) for name in NAMES}


@pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of their own affairs
def test_scores_are_those_of_lm_eval_itself(loaded, tasks, lm_eval_tasks, runs):
    import lm_eval
    from lm_eval.tasks import TaskManager

    theirs = lm_eval.simple_evaluate(
        "hf",
        model_args={"pretrained": str(loaded.found.folder), "dtype": "float32"},
        device="cpu",
        batch_size=4,
        tasks=list(NAMES),
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        bootstrap_iters=0,
    )
    for name in NAMES:
        for metric, score in lm_eval_tasks.scores(name, runs[name]).items():
            assert score.value == theirs["results"][name][f"{metric},none"]
            assert score.aggregate(score.values) == pytest.approx(score.value)
            assert len(score.values) == len(score.documents) == len(ROWS)


def test_it_is_silent(lm_eval_tasks, loaded, capfd, recwarn, caplog):
    lm_eval_tasks.run("local_choice", loaded, batch_size=8)
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert not caplog.records


def test_progress_counts_rows(lm_eval_tasks, loaded):
    seen: list[int] = []
    lm_eval_tasks.run("local_choice", loaded, batch_size=3, advance=seen.append)
    assert sum(seen) >= len({row["context"] for row in ROWS})  # equal requests share a row
    assert max(seen) == 3


def test_the_main_metric_is_an_accuracy_where_there_is_one(lm_eval_tasks, runs):
    found = {name: choose_metric(lm_eval_tasks.scores(name, run)) for name, run in runs.items()}
    assert found == {
        "local_choice": "acc",
        "local_continuation": "acc",
        "local_whole": "byte_perplexity",
    }


def test_limits_and_examples(tasks, loaded):
    asked = Benchmarks.load(["local_choice"], include_paths=[tasks], limit=5)
    assert asked.run("local_choice", loaded, batch_size=2)["n-samples"]["effective"] == 5
    share = Benchmarks.load(["local_choice"], include_paths=[tasks], limit=0.5)
    run = share.run("local_choice", loaded, batch_size=2)
    assert run["n-samples"] == {"original": len(ROWS), "effective": len(ROWS) // 2}
    assert run["batch_size"] == 2


@pytest.mark.slow
def test_patterns_name_tasks(tasks):
    assert set(Benchmarks.load(["local_*"], include_paths=[tasks]).tasks) == set(NAMES)


def test_the_fingerprint_is_that_of_task_and_documents(tmp_path):
    once, again = (
        Benchmarks.load(["local_choice"], include_paths=[write_tasks(tmp_path / "a")])
        for _ in range(2)
    )
    said = once.fingerprint("local_choice"), again.fingerprint("local_choice")
    rows = [{**ROWS[0], "answer": 3}, *ROWS[1:]]
    other = Benchmarks.load(["local_choice"], include_paths=[write_tasks(tmp_path / "a", rows)])
    assert said[0] == said[1] != other.fingerprint("local_choice")


def test_code_of_a_task_is_part_of_its_fingerprint(tmp_path):
    """Also what its functions call in the same folder: a changed result is no cached one."""
    folder = write_tasks(tmp_path / "a")
    file = folder / "local_choice.yaml"
    file.write_text(file.read_text() + "process_results: !function grading.grade\n")
    (folder / "grading.py").write_text(
        "from helping import count\n\ndef grade(doc, results):\n    return {'acc': count()}\n"
    )
    found = []
    for number in (0, 1, 0):
        (folder / "helping.py").write_text(f"def count():\n    return {number}\n")
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(folder))
            made = Benchmarks.load(["local_choice"], include_paths=[folder])
        names = [one.name for one in list_code(made.tasks["local_choice"])]
        assert names == ["grading.py", "helping.py"]
        found.append(made.fingerprint("local_choice"))
    assert found[0] == found[2] != found[1]
    plain = Benchmarks.load(["local_choice"], include_paths=[write_tasks(tmp_path / "b")])
    assert list_code(plain.tasks["local_choice"]) == []


def test_a_run_does_not_change_what_identifies_a_task(tasks, loaded):
    """lm-eval sets the number of examples of a task that does not name one."""
    benchmarks = Benchmarks.load(["local_choice"], include_paths=[tasks])
    before = identify(benchmarks)
    benchmarks.run("local_choice", loaded, batch_size=2)
    assert identify(benchmarks) == before
    shown = Benchmarks.load(["local_choice"], include_paths=[tasks], num_fewshot=2)
    assert identify(shown) != before


def test_results_are_written_as_lm_eval_writes_them(tmp_path, runs):
    write_results(tmp_path, "tiny", runs)
    (results,) = tmp_path.rglob("results_*.json")
    written = json.loads(results.read_text())
    assert set(written["results"]) == set(NAMES)
    assert (
        written["results"]["local_choice"]["acc,none"]
        == runs["local_choice"]["results"]["acc,none"]
    )
    assert {"configs", "versions", "n-shot", "higher_is_better", "n-samples"} <= set(written)
    assert written["config"]["model_args"] == {"pretrained": "tiny"}
    assert written["versions"]["local_whole"] == 3
    for name in NAMES:
        (samples,) = tmp_path.rglob(f"samples_{name}_*.jsonl")
        assert len(samples.read_text().splitlines()) == len(ROWS)


def test_a_model_that_gives_nan_has_no_scores(tasks, loaded):
    """The best of NaNs is the first answer, so that a broken edit would lose nothing."""
    model = copy.deepcopy(loaded.model)
    model.gpt_neox.final_layer_norm.weight.data.fill_(float("nan"))
    broken = replace(loaded, model=model)
    benchmarks = Benchmarks.load(["local_choice"], include_paths=[tasks])
    with pytest.raises(NotFiniteError, match="the model gives likelihoods that are not finite"):
        benchmarks.run("local_choice", broken, batch_size=2)


def test_a_task_without_a_number_is_not_compared(runs, lm_eval_tasks):
    """Neither one without any finite metric, nor two runs that share none."""
    run = runs["local_choice"]
    nothing = {**run, "results": dict.fromkeys(run["results"], float("nan"))}
    with pytest.raises(MeasurementError, match="task local_choice: has no metric that can be comp"):
        lm_eval_tasks.scores("local_choice", nothing)
    scores = lm_eval_tasks.scores("local_choice", run)
    rows = compare_task("local_choice", scores, scores)
    key = "task.local_choice"
    assert [(one.name, one.of) for one in rows] == [
        (name, of) for name in (key, f"{key} acc_norm") for of in ("base", "edited")
    ]
    one, other = ({name: scores[name]} for name in ("acc", "acc_norm"))
    with pytest.raises(MeasurementError, match="task local_choice: has no metric in common for"):
        compare_task("local_choice", one, other)


def test_the_questions_of_the_real_model_are_those_of_arc(tmp_path):
    """A line break, and no backslash, stands before the word that the answer follows."""
    row = {"query": "Question: why?", "choices": ["a", "b"], "gold": 0}
    texts = [{"context": "a", "continuation": "b", "text": f"One {n}. Two {n}."} for n in range(2)]
    (tmp_path / "arc").write_text(json.dumps(row) + "\n")
    write_real_tasks(texts, tmp_path / "arc", tmp_path / "tasks", 2)
    tasks = Benchmarks.load(["real_arc_easy"], include_paths=[tmp_path / "tasks"]).tasks
    assert tasks["real_arc_easy"].doc_to_text(row) == "Question: why?\nAnswer:"


def test_rows_that_the_real_model_learned_do_not_measure_it(tmp_path):
    """Not even those that share a run of tokens with a passage, or with other text."""
    (tmp_path / "model").symlink_to(find_lab_folder("pythia"))
    learned = [" ".join(f"{word}{n}" for n in range(20)) for word in ("pear", "plum", "fig")]
    for name, text in zip(("records", "other", "reference"), learned, strict=True):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    texts = [*learned, "None of this is there, however long one looks for it, or how."]
    asked = [{"context": f"Once: {text}", "continuation": "end"} for text in texts]
    (tmp_path / "asked").write_text("".join(json.dumps(row) + "\n" for row in asked))
    (kept,) = read_unlearned(tmp_path, tmp_path / "asked")
    assert kept["context"] == asked[-1]["context"]


def test_results_that_do_not_fit(tmp_path, runs):
    """lm-eval logs what it cannot write, and goes on: a part of it must not pass for the whole."""
    write_results(tmp_path / "whole", "tiny", runs)
    sizes = sorted(path.stat().st_size for path in (tmp_path / "whole").rglob("*.json*"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[-1] - 1, before[1]))
        with pytest.raises(OutputError, match="lm-eval's results cannot be written"):
            write_results(tmp_path / "part", "tiny", runs)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def error_of(*names: str, **options: Any) -> str:
    with pytest.raises(MeasurementError) as error:
        Benchmarks.load(names, **options)
    return str(error.value)


@pytest.mark.slow
def test_an_unknown_name_is_answered_with_near_ones(tasks):
    text = error_of("local_chose", include_paths=[tasks])
    assert text.startswith("no benchmark task is called 'local_chose'; near names: local_choice")
    assert text.endswith("; `lm_eval ls tasks` lists all")


def test_a_folder_that_is_not_there(tmp_path):
    text = error_of("x", include_paths=[tmp_path / "none"])
    assert text == f"{tmp_path}/none: no such folder of task files"


def test_private_passages_are_not_a_benchmark():
    assert error_of("discoverable_extraction") == (
        "discoverable_extraction would write the passages into the results; "
        "give them with `samples`"
    )


def test_nor_under_the_name_of_a_group(tmp_path, monkeypatch):
    rows = [{"text": " ".join(["the quick brown fox jumps over the lazy dog"] * 9)}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny_tokenizer().save_pretrained(tmp_path / "tokenizer")
    monkeypatch.setenv("ATTN_SURGERY_SAMPLES", str(tmp_path / "rows.jsonl"))
    monkeypatch.setenv("ATTN_SURGERY_TOKENIZER", str(tmp_path / "tokenizer"))
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "mine.yaml").write_text("group: mine\ntask: [discoverable_extraction]\n")
    text = error_of("mine", include_paths=[tmp_path / "tasks"])
    assert text.startswith("discoverable_extraction would write the passages into the results")


def broken_task(folder: Path, change: tuple[str, str]) -> Path:
    file = write_tasks(folder) / "local_choice.yaml"
    file.write_text(file.read_text().replace(*change))
    return folder


def test_a_task_file_that_does_not_load(tmp_path):
    folder = broken_task(tmp_path, ("test_split: test", "test_split: exam"))
    text = error_of("local_choice", include_paths=[folder])
    assert text == "task local_choice: cannot be loaded (got KeyError: no 'exam')"


def test_a_task_file_that_fails_later(tmp_path, loaded):
    folder = broken_task(tmp_path, ("_text: context", '_text: "{{ 1 / (answer - 1) }}"'))
    asked = Benchmarks.load(["local_choice"], include_paths=[folder])
    with pytest.raises(MeasurementError) as error:
        asked.run("local_choice", loaded, batch_size=4)
    assert str(error.value) == (
        "task local_choice: cannot be run (got ZeroDivisionError: division by zero)"
    )


def test_an_aggregation_may_have_no_name(tasks, loaded, monkeypatch):
    """As of lm-eval's squadv2, whose functions are partial."""
    asked = Benchmarks.load(["local_choice"], include_paths=[tasks])
    task = asked.tasks["local_choice"]
    partials = {metric: partial(form) for metric, form in task.aggregation().items()}
    monkeypatch.setattr(task, "aggregation", lambda: partials)
    run = asked.run("local_choice", loaded, batch_size=4)
    assert set(run["aggregation"]) == set(partials)
    scores = asked.scores("local_choice", run)["acc"]
    assert scores.value == pytest.approx(np.mean(scores.values))


def remote_task(folder: Path) -> Path:
    file = write_tasks(folder) / "local_choice.yaml"
    text = file.read_text().replace("dataset_path: json", "dataset_path: nobody/nothing")
    file.write_text(text[: text.index("dataset_kwargs")] + text[text.index("test_split") :])
    return folder


def test_offline_mode_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert error_of("local_choice", include_paths=[remote_task(tmp_path)]) == (
        "task local_choice: offline mode is on, and its data were not downloaded before; "
        "unset HF_HUB_OFFLINE, use `suite=lab`, whose data come along, or name local tasks with "
        "`tasks` and `include_path`"
    )


def test_an_unreachable_hub_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    started = time.monotonic()
    assert error_of("local_choice", include_paths=[remote_task(tmp_path)]) == (
        "task local_choice: the connection to the Hub failed, and its data were not downloaded "
        "before; check the network and HF_ENDPOINT, use `suite=lab`, whose data come along, or "
        "name local tasks with `tasks` and `include_path`"
    )
    assert time.monotonic() - started < 20  # its own client would try five times


def test_the_labs_documents_are_always_the_same():
    texts = heldout_texts()
    for make in (next_lines, copied_lines, pieces):
        first = make(texts, 30)
        assert first == make(texts, 30)
        assert len(first) == 30
    for document in next_lines(texts, 60) + copied_lines(texts, 60):
        assert len(set(document["choices"])) == 4
        assert 0 <= document["answer"] < 4
    for document in copied_lines(texts, 60):
        line, start = document["context"].split("\n")
        assert line.startswith(start + document["choices"][document["answer"]])
    for document in next_lines(texts, 60):
        before, line = document["context"], document["choices"][document["answer"]]
        assert any(before + line in text for text in texts)


@pytest.mark.parametrize(
    ("draw", "item"), [(draw_words, f"([{CONSONANTS}][{VOWELS}])+"), (draw_letters, "[a-z]")]
)
def test_induction_asks_for_an_item_that_only_the_first_round_tells(draw, item):
    documents = repeat_items(draw, 60)
    assert documents == repeat_items(draw, 60)
    assert len({document["context"] for document in documents}) == 60
    for document in documents:
        items = document["context"].split(" ")
        first, again = items[:ITEMS], items[ITEMS:]
        assert len(set(first)) == ITEMS
        assert 4 <= len(again) < ITEMS
        assert again == first[: len(again)]
        assert document["next"] == first[len(again)]
        assert all(re.fullmatch(item, one) for one in items)


@pytest.mark.parametrize(("task", "chance"), [("induction", 0.0), ("induction_letters", 0.3)])
def test_induction_needs_no_network_and_a_model_that_cannot_copy_fails(loaded, task, chance):
    suite = Benchmarks.load([task], limit=20)
    run = suite.run(task, loaded, batch_size=8)
    scores = suite.scores(task, run)
    assert len(scores["acc"].values) == 20
    assert scores["acc"].value <= chance
    assert scores["perplexity"].value > 10
    first, asked = run["samples"][0]["doc"], run["samples"][0]["arguments"][0]
    assert tuple(asked) == (first["context"], f" {first['next']}")


@pytest.mark.slow
@pytest.mark.parametrize("name", LAB_MODELS)
def test_lab_models_are_better_than_chance(name):
    suite = Benchmarks.load(SUITES["lab"])
    loaded = open_model(f"lab:{name}")
    for task, metric in (("lab_next_line", "acc_norm"), ("lab_copy", "acc")):
        run = suite.run(task, loaded, batch_size=32)
        score = suite.scores(task, run)[metric]
        right = int(sum(score.values))
        assert binomtest(right, len(score.values), 0.25, alternative="greater").pvalue < 1e-4
    run = suite.run("lab_heldout", loaded, batch_size=32)
    score = suite.scores("lab_heldout", run)["byte_perplexity"]
    assert score.value < 4.5  # gzip's 8 bits a byte would be 256, English letters alone about 19


def test_a_task_that_no_report_can_name_is_refused_before_any_work(tmp_path: Path) -> None:
    def make(**given: Any) -> SimpleNamespace:
        return SimpleNamespace(all_tasks=["my task"], all_subtasks=["my task"])

    with pytest.raises(MeasurementError, match=r"blanks.*got my task.*rename the task"):
        find_tasks(["my task"], [tmp_path], make)


def test_the_quick_suite_is_limited_unless_you_say_otherwise() -> None:
    assert set(SUITES["quick"]) < set(SUITES["standard"])
    assert Tasks(suite="quick").limit == QUICK_LIMIT
    assert Tasks(suite="quick", limit=7).limit == 7
    assert Tasks(suite="standard").limit is None
