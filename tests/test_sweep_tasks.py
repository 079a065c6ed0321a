"""Contract: a sweep scores every edit on lm-eval's tasks as lm-eval scores its exported checkpoint.

Every answer is the same, document by document: contexts that are cut, choices that share a pass,
rolling windows, decoding; likelihoods but for the last bits, as logits are computed where they are
asked for. Differences are paired with the base as `evaluate` pairs
them. Unknown tasks are refused before a model is looked for; a killed run goes on; the number of
processes changes nothing.
"""

from __future__ import annotations

import csv
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from command_line import PROGRAM, TWO_PROCESSES, Outcome, attn_surgery, finish, interrupted, start
from grids import read_sweep, take, value
from local_tasks import NAMES, ROWS, write_tasks
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_neo, tiny_tokenizer

from evals.choose.sweep.report import SweepResult
from evals.choose.sweep.scoring import measure_tasks, run_tasks
from evals.data import Samples
from evals.run.lm_eval.running import Benchmarks
from evals.run.models import open_model
from surgery.errors import MeasurementError
from surgery.exporting import export
from surgery.record.report import Report
from surgery.selection import parse_selection

LONG = " and ".join([ROWS[0]["text"]] * 8)  # of more tokens than the models have positions
CONTEXTS = (LONG, "", "def first(values): ", "the quick brown fox jumps over the")
SPOKEN = """
task: local_spoken
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
test_split: test
output_type: generate_until
doc_to_text: "{{{{context}}}} jumps over"
doc_to_target: target
num_fewshot: 0
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 6
  do_sample: false
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata:
  version: 1
"""
pytestmark = pytest.mark.usefixtures("blank_pictures")
ALL = (*NAMES, "local_spoken")
EDITS = {"neox": [("1", "identity"), ("1.0", "zero")], "neo": [("0", "mean")]}


@pytest.fixture(scope="module")
def tasks(tmp_path_factory) -> Path:
    """Among the rows are ones that are cut, one without a context, and texts of many windows."""
    rows = [
        {**row, "context": row["context"] + " " + str(index) if index < 12 else CONTEXTS[index % 4]}
        | ({"text": LONG} if index == 3 else {})
        for index, row in enumerate(ROWS)
    ]
    letters = {"choices": [" a", " b", " c", " d"]}  # of one token: they share a pass
    folder = write_tasks(
        tmp_path_factory.mktemp("tasks"), [*rows, *({**r, **letters} for r in rows)]
    )
    (folder / "local_spoken.yaml").write_text(SPOKEN.format(data=folder / "rows.jsonl"))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    for name, model in (("neox", tiny_model()), ("neo", tiny_neo())):
        save_tiny(folder / name, model)
    return {name: folder / name for name in ("neox", "neo")}


@pytest.fixture(scope="module")
def samples() -> Samples:
    ids = tiny_tokenizer()(TEXT)["input_ids"]
    rows = np.array([ids[start : start + 12] for start in range(8)], dtype=np.int32)
    return Samples(rows, 6, tuple(map(str, range(8))), "text")


@pytest.mark.filterwarnings("ignore")  # lm-eval and datasets warn of their own affairs
@pytest.mark.parametrize("family", ["neox", pytest.param("neo", marks=pytest.mark.slow)])
def test_every_answer_is_that_of_lm_eval_on_the_export(family, models, tasks, samples, tmp_path):
    import lm_eval
    from lm_eval.tasks import TaskManager

    from surgery.fitting.calibration import open_calibration
    from surgery.fitting.fitter import Fitter

    text = tmp_path / "text.txt"
    text.write_text(TEXT * 8)
    loaded = open_model(str(models[family]), device="cpu")
    edits = EDITS[family]
    selections = [parse_selection(spec, variant, 2, 2) for spec, variant in edits]
    calibration = open_calibration([str(text)]).tokenize(loaded.tokenizer, loaded.dimensions)
    benchmarks = Benchmarks.load(ALL, include_paths=[tasks])
    _, *runs = run_tasks(
        benchmarks,
        loaded,
        selections,
        dict.fromkeys(ALL, 4),
        fit=Fitter(loaded.model, calibration, editable=loaded.editable).fit,
    )
    values = set()
    for (spec, variant), tasks_of in zip(edits, runs, strict=True):
        output = tmp_path / "out" / spec.replace(".", "_")
        fits = [] if variant != "mean" else [str(text)]
        export(models[family], spec, variant=variant, output=output, calibration=fits)
        theirs = lm_eval.simple_evaluate(
            "hf",
            model_args={"pretrained": str(output), "dtype": "float32"},
            tasks=[*ALL],
            task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
            batch_size=4,
            device="cpu",
            bootstrap_iters=0,
        )
        for name in ALL:
            samples_of = theirs["samples"][name]
            told = [one for sample in samples_of for (one,) in sample["resps"]]
            for metric, ours in benchmarks.scores(name, tasks_of[name]).items():
                assert ours.value == pytest.approx(theirs["results"][name][f"{metric},none"])
                assert ours.documents == [sample["doc_hash"] for sample in samples_of]
                if ours.aggregation == "mean":
                    assert ours.values == [sample[metric] for sample in samples_of]
            values.add((name, str(told)))
    assert len(values) == len(ALL) * len(edits)  # every edit says something else


def test_what_no_number_can_hold_is_null(models, tasks):
    loaded = open_model(str(models["neox"]), device="cpu")
    benchmarks = Benchmarks.load(["local_continuation"], include_paths=[tasks])
    sizes = {"local_continuation": 8}
    (base,) = run_tasks(benchmarks, loaded, [], sizes, fit=None)
    runs = [base, {"local_continuation": {"samples": []}}]
    _, row = measure_tasks(benchmarks, runs, ["edit-1"])
    assert (row.name, row.of, row.value) == ("task.local_continuation", "edit-1", None)
    assert (row.ci95, row.change) == (None, None)


def test_an_answer_that_does_not_fit_is_one_line(models, tmp_path):
    rows = [{**ROWS[0], "target": LONG}]
    benchmarks = Benchmarks.load(
        ["local_continuation"], include_paths=[write_tasks(tmp_path / "t", rows)]
    )
    loaded = open_model(str(models["neox"]), device="cpu")
    sizes = {"local_continuation": 1}
    with pytest.raises(MeasurementError, match=r"local_continuation: cannot be run") as caught:
        run_tasks(benchmarks, loaded, [], sizes, fit=None)
    assert "\n" not in str(caught.value)


LENGTHS = ("--prefix-length", "6", "--suffix-length", "5", "--device", "cpu")


@pytest.fixture(scope="module")
def files(models, tasks, tmp_path_factory) -> tuple[object, ...]:
    folder = tmp_path_factory.mktemp("files")
    ids = tiny_tokenizer()(TEXT)["input_ids"]
    np.save(folder / "rows.npy", np.array([ids[start : start + 11] for start in range(20)]))
    (folder / "text.txt").write_text(TEXT * 8)
    return (
        *(models["neox"], "--samples", folder / "rows.npy", *LENGTHS),
        *("--corpus", folder / "text.txt"),
        *("--include-path", tasks, "--batch-size", 8, "--variant", "zero"),
    )


def sweep(files: tuple[object, ...], *options: object) -> Outcome:
    return attn_surgery("sweep", *files, *options)


@pytest.fixture(scope="module")
def swept(files, tmp_path_factory) -> tuple[SweepResult, Path]:
    output = tmp_path_factory.mktemp("out") / "swept"
    done = sweep(files, "--tasks", ",".join(ALL), "--output", output, "--json")
    return read_sweep(done), output


def test_the_keys_of_the_contract(swept):
    result, output = swept
    assert list(result.tasks) == [*ALL]
    assert result.tasks["local_whole"]["ability"] == "language"
    assert result.tasks["local_choice"] == {
        "task": "local_choice",
        "version": "3",
        "num_fewshot": 0,
        "limit": None,
        "batch_size": 8,
        "ability": "reasoning",
        "metric": "acc",
        "higher_is_better": True,
        "share": True,
    }
    for name in ALL:
        base = take(result, f"task.{name}")
        for edit in result.edits:
            one = take(result, f"task.{name}", edit.of)
            assert one.n == base.n
            assert one.change is not None
            assert one.change.ci95 is not None
            moved = one.change.difference
            assert moved == pytest.approx(one.value - base.value)
            low, high = one.change.ci95
            assert low <= moved <= high
    assert take(result, "task.local_choice").n == 64
    rows = list(csv.DictReader((output / "sweep.csv").read_text().splitlines()))
    key = "task.local_whole"
    assert rows[0][f"{key}_change"] == ""
    for row, edit in zip(rows[1:], result.edits, strict=True):
        one = take(result, key, edit.of)
        assert float(row[key]) == one.value
        found = [float(row[f"{key}_change{end}"]) for end in ("", "_low", "_high")]
        assert one.change is not None
        assert found == [one.change.difference, *(one.change.ci95 or ())]


@pytest.mark.slow
def test_differences_are_those_of_evaluate(files, swept, tasks, tmp_path):
    model, result = files[0], swept[0]
    edit = result.edits[1]
    export(model, edit.spec, variant="zero", output=tmp_path / "edited")
    done = attn_surgery(
        "evaluate", tmp_path / "edited", "--baseline", model, "--tasks", ",".join(ALL),
        "--include-path", tasks, "--batch-size", 8, "--device", "cpu", "--no-cache",
        "--output", tmp_path / "report", "--json",
    )  # fmt: skip
    assert done.code == 0, done.stderr
    theirs = Report.model_validate(done.json)
    for task, known in result.tasks.items():
        name = f"task.{task}"
        ours, found = take(result, name, edit.of), theirs.find(name, "edited")
        assert found is not None
        assert theirs.names[name].label.startswith(f"{task}, {known['metric']}")
        assert ours.value == pytest.approx(found.value, rel=1e-6)
        assert ours.change is not None
        assert found.change is not None
        assert ours.change.difference == pytest.approx(found.change.difference, rel=1e-4), name
        assert ours.change.ci95 == pytest.approx(found.change.ci95, rel=1e-4), name


def test_a_task_has_the_same_figures_beside_others(files, swept):
    done = sweep(files, "--tasks", "local_whole,local_choice", "--json")
    result = read_sweep(done)
    for name in ("local_whole", "local_choice"):
        for edit in result.edits:
            key, other = f"task.{name}", swept[0].find_edit(edit.of)
            assert other == edit
            assert take(result, key, edit.of) == take(swept[0], key, other.of)
    assert {*result.tasks} == {"local_whole", "local_choice"}


def test_people_get_a_column_for_each_task(files, swept):
    done = sweep(files, "--tasks", "local_choice,local_whole")
    header = next(line for line in done.stdout.splitlines() if "exact" in line)
    assert header.split().index("local_whole") == header.split().index("local_choice") + 1
    assert "tasks: local_choice (acc, n = 64), local_whole (byte_perplexity, n = 64)" in done.stdout
    assert f"{value(swept[0], 'task.local_choice'):.3f}" in done.stdout


@pytest.mark.slow
def test_a_model_is_looked_up_before_its_tasks_and_loaded_after_them(files):
    """What takes seconds comes first, tasks then, gigabytes last."""
    sweep(("/no/such/model", *files[1:]), "--tasks", "local_choise").assert_error("/no/such/model")
    with mock.patch("evals.choose.sweep.opened.open_model", side_effect=AssertionError):
        done = sweep(files, "--tasks", "local_choise")
    assert (done.code, done.stdout) == (2, "")
    *_, said = done.stderr.splitlines()
    assert said.startswith(
        "error: no benchmark task is called 'local_choise'; near names: local_choice"
    )


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--tasks", "local_choice", "--suite", "lab"), "--tasks and --suite exclude each other"),
        (("--limit", "3"), "give --tasks or --suite"),
        (("--tasks", "a,,b"), "a name is empty"),
    ],
)
def test_misuse(files, options, text):
    done = sweep(files, *options)
    assert done.code == 2
    assert text in done.stderr


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_the_same(files, tmp_path, monkeypatch):
    """In the batches that it was in, however much memory is free by then."""
    files = (*files[:-4], "--variant", "zero")  # without a batch size
    options = ("--tasks", "local_choice,local_spoken", "--output", tmp_path / "swept", "--json")
    with monkeypatch.context() as patch, interrupted(Benchmarks, at=3, method="run"):
        patch.setattr("evals.run.batching._rows_that_fit", lambda *given: 2)
        assert sweep(files, *options).code == 130
    assert not list(tmp_path.iterdir())
    with interrupted(Benchmarks, method="run") as calls:
        resumed = sweep(files, *options)
    assert resumed.code == 0, resumed.stderr
    with monkeypatch.context() as patch, interrupted(Benchmarks, method="run") as every:
        patch.setattr("evals.run.batching._rows_that_fit", lambda *given: 2)
        fresh = sweep(files, *options[:2], "--json", "--no-cache")
    assert resumed.stdout == fresh.stdout
    assert len(calls) == len(every) - 2  # all but the two that were done


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(files):
    call = ("sweep", *files, "--tasks", ",".join(ALL), "--json")
    one, two = (
        finish(start(*call, program=program), timeout=300) for program in (PROGRAM, TWO_PROCESSES)
    )
    assert (one.code, two.code) == (0, 0), two.stderr[-3000:]
    assert one.stdout == two.stdout
    assert SweepResult.model_validate(one.json).tasks.keys() == set(ALL)


def test_tasks_that_were_run_before_are_told_alike(files):
    """lm-eval sets the number of examples of a task that it runs."""
    files = (*files[:-4], "--variant", "zero", "--no-last")
    first, again = (sweep(files, "--tasks", "local_choice", "--json") for _ in range(2))
    assert (first.code, first.stdout) == (0, again.stdout), again.stderr
