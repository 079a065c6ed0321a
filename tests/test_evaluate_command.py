"""Contract of `attn-surgery evaluate`: one report of what an edit cost and bought, whose figures
are those of its parts; limits decide the exit code; mistakes are found before any work.

- Too little gives no verdict, and a part that was measured is never reported as the whole.
- What the base is to the edited model is known by content; only against a source do figures get
  onto the edited model's card.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from command_line import Outcome, attn_surgery, snapshot
from local_tasks import NAMES, write_tasks
from results import list_attacks, read_report, take
from tiny_tokenizer import TEXT, save_tiny, tiny_model, tiny_tokenizer

import surgery
from evals.jobs.asking import MeasureRequest
from evals.measure.attacks.names import CHEAP
from evals.run.lm_eval.tasks import SUITES
from surgery.card.facts import as_line
from surgery.card.measurements import name_limit, say_above
from surgery.checkpoint import hash_file
from surgery.publishing.upload import find_publishable
from surgery.record.manifest import REPORTS
from surgery.record.measured import Limit, Measured
from surgery.record.report import EditRecord, Report

pytestmark = pytest.mark.usefixtures("blank_pictures")
PREFIX, SUFFIX = 6, 4


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, edited (block 0 zero), tasks, samples.jsonl (some recited), control.txt."""
    import torch

    folder = tmp_path_factory.mktemp("work")
    model, tokenizer = tiny_model(), tiny_tokenizer()
    save_tiny(folder / "base", model)
    surgery.export(folder / "base", "0", variant="zero", output=folder / "edited")
    write_tasks(folder / "tasks")
    ids = tokenizer(TEXT)["input_ids"]
    rows = []
    for at in range(16):
        prefix = ids[at : at + PREFIX]
        said = model.generate(
            torch.tensor([prefix]), max_new_tokens=SUFFIX, do_sample=False, pad_token_id=0
        )[0, PREFIX:].tolist()
        suffix = said if at % 2 else ids[at + PREFIX : at + PREFIX + SUFFIX]
        rows.append({"id": f"row-{at}", "tokens": prefix + suffix, "count": at % 2 * 8})
    (folder / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "control.txt").write_text(TEXT)
    return folder


def compared(work: Path, command: str, *more: object) -> list[object]:
    """Base and edited model on all passages and the text."""
    return [
        *(command, work / "edited", "--baseline", work / "base"),
        *("--samples", work / "samples.jsonl", "--control", work / "control.txt"),
        *("--prefix-length", PREFIX, "--suffix-length", SUFFIX, "--batch-size", 4),
        *more,
    ]


def arguments(work: Path, *more: object) -> list[object]:
    tasks = ("--tasks", ",".join(NAMES), "--include-path", work / "tasks")
    return compared(work, "evaluate", *tasks, *more)


@pytest.fixture(scope="module")
def done(work: Path) -> tuple[Outcome, Path]:
    """An evaluation with limits that hold. The model has its report, whichever test ran before."""
    output = work / "report"
    gates = ("--max-drop", "*=0.9", "--max-drop", "local_whole=0.5", "--max-extraction", 0.7)
    gates += (
        *("--attack", "cheap", "--attack", "quantized:4"),
        "--max",
        "relearn=0.7",
        "--draws",
        1,
    )
    given = arguments(work, *gates, "--output", output, "--json", "--overwrite")
    return attn_surgery(*given), output


def edit_in(folder: Path) -> EditRecord:
    (edit,) = read_report(folder).edits
    return edit


def limits_in(folder: Path) -> dict[str, Limit]:
    return {name_limit(limit): limit for limit in read_report(folder).limits}


def list_rows(report: Report) -> list[Measured]:
    """All rows, without how long attacks took."""
    return [
        row.model_copy(update={"details": {**row.details, "seconds": None}})
        for row in report.figures
    ]


def list_costs(report: Report) -> list[str]:
    return next(table.names for table in report.tables if table.key == "cost")


def test_the_report_is_of_its_schema_and_complete(work, done):
    outcome, output = done
    report = read_report(output)
    assert outcome.json == report.to_dict()
    edit = edit_in(output)
    assert (outcome.code, edit.state) == (0, "kept")
    assert (report.base.name, edit.name) == ("base", "edited")
    assert list_costs(report) == [*(f"task.{name}" for name in NAMES), "heldout", "form"]
    assert edit.edit is not None
    (step,) = edit.edit.history
    assert (step.blocks, step.variant, step.layout) == ((0,), "zero", "stock")
    assert edit.edit.attention_free == {0: "zero"}
    for side in (report.base.provenance, edit.provenance):
        assert len(str(side["config_sha256"])) == len(str(side["tokenizer_sha256"])) == 64
    assert {"lm-eval", "torch", "attn-surgery"} <= set(report.provenance.versions)
    assert not report.provenance.baseline_from_cache
    assert edit.relation == "source"
    control = {"name": "control.txt", "size": None, "sha256": hash_file(work / "control.txt")}
    assert [one.model_dump() for one in report.provenance.controls] == [control]
    asked = MeasureRequest.of(
        command="evaluate",
        models=("edited",),
        baseline="base",
        tasks=NAMES,
        include_path=("tasks",),
        samples="samples.jsonl",
        prefix_length=PREFIX,
        suffix_length=SUFFIX,
        heldout=("control.txt",),
        max_drop={"*": 0.9, "local_whole": 0.5},
        max_extraction=0.7,
        attack=(*CHEAP, "quantized:4", "relearn"),
        max={"relearn": 0.7},
        draws=1,
        dtype="float32",
        batch_size=4,
    )
    assert report.settings == asked.to_settings()


def test_what_the_passages_can_decide_is_said_beforehand(done):
    """Of as many as the limit then counts."""
    outcome, output = done
    gates = limits_in(output)
    gate, trained = gates["max-extraction"], gates["max relearn"]
    assert (gate.limit, gate.state) == (0.7, "kept")
    held = gate.n - trained.n
    for n, more in ((gate.n, ""), (trained.n, f" (relearn holds the other {held})")):
        said = f"{n} passages can support 70%{more}: that takes 3 with none recovered\n"
        assert outcome.stderr.count(said) == 1


def test_figures_are_those_of_extract(work, done):
    direct = read_report(attn_surgery(*compared(work, "extract", "--json")))
    rows = list_rows(read_report(done[1]))
    names = {row.name for row in direct.figures if row.change is not None}
    assert {"recited", "next_token_accuracy", "suffix_nll", "heldout"} <= names
    assert all(row in rows for row in list_rows(direct))
    assert take(direct, "recited", "base").details["count"] >= 8


def test_figures_are_those_of_audit(work, done):
    attacks = ("--attack", "cheap", "--attack", "quantized:4", "--max", "relearn=0.7", "--draws", 1)
    direct = read_report(attn_surgery(*compared(work, "audit", *attacks, "--json")))
    report = read_report(done[1])
    assert list_attacks(direct) == list_attacks(report)
    assert list_attacks(direct)[-3:] == ["any", "quantized:4", "relearn"]
    rows = list_rows(report)
    assert all(row in rows for row in list_rows(direct))
    for name in list_attacks(direct):
        assert take(direct, f"recovered.{name}", on="never trained on").n
        assert take(direct, f"recovered.{name}").change is not None
    assert report.edits[0].not_tried == direct.edits[0].not_tried
    found = [take(direct, f"recovered.{name}") for name in list_attacks(direct)]
    strongest = max(found, key=lambda row: row.value)
    assert strongest.name.removeprefix("recovered.") in report.edits[0].verdict


def test_figures_are_those_of_lm_eval(done):
    _, output = done
    report = read_report(output)
    scored = {name: one.details for name, one in report.names.items() if "task" in one.details}
    shown = [name for name in list_costs(report) if name in scored]
    assert len(scored) > len(shown) == len(NAMES)
    for side in ("base", "edited"):
        (file,) = (output / "lm_eval" / side).rglob("results_*.json")
        results = json.loads(file.read_text())["results"]
        for name, known in scored.items():
            value = take(report, name, side).value
            assert value == results[known["dataset_name"]][f"{known['metric']},none"]


def test_limits_that_fail_are_named_and_the_report_is_written(work):
    """The other way round the same edit makes a model worse, and one that recites."""
    command = arguments(work, "--tasks", "local_choice,local_whole", "--output", work / "failed")
    command[1], command[3] = command[3], command[1]
    gates = ("--max-drop", "*=0.9", "--max-drop", "local_whole=0", "--max-extraction", 0.1)
    outcome = attn_surgery(*command, *gates)
    assert outcome.code == 3
    edit, found = edit_in(work / "failed"), limits_in(work / "failed")
    assert edit.state == "missed"
    assert found["max-drop local_choice"].state == "kept"
    said = outcome.stderr.splitlines()
    beforehand = f"{found['max-extraction'].n} passages cannot support 10%: that takes 29; unless "
    assert next(line for line in said if "support" in line).startswith(beforehand)
    failed = [line for line in said if line.startswith("limit missed: ")]
    assert len(failed) == 2
    assert failed[0].startswith("limit missed: max-extraction: share of passages recited")
    assert failed[1].startswith("limit missed: max-drop local_whole: relative rise of local_whole")
    assert "it misses max-extraction, max-drop local_whole" in edit.verdict


def test_no_path_of_this_machine_is_written(work, done):
    for folder in (done[1], work / "edited"):
        written = files_in(folder)
        assert {"report.json", "report.html", "report.md"} <= {path.name for path in written}
        assert sum(path.name.startswith("samples_") for path in written) == 2 * len(NAMES)
        assert sum(path.name.startswith("results_") for path in written) == 2
        for path in written:
            at = (data := path.read_bytes()).find(str(work).encode())
            assert at < 0, (path, data[at - 30 : at + 60])
    assert not any("lm_eval" in name for name in find_publishable(work / "edited").files)


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_shares_are_shown_above_those_of_a_twin(work, tmp_path):
    """Beside an untrained model of the same form. A twin that is not there is told at once."""
    import torch

    torch.manual_seed(3)
    like = tiny_model()
    save_tiny(work / "twin", type(like)(like.config))
    options = ("--suite", "none", "--attack", "any", "--output", work / "with-twin")
    edited = shutil.copytree(work / "edited", tmp_path / "edited")  # it gets the report, too
    call = ("evaluate", edited, "--baseline", work / "base", "--samples")
    call += (work / "samples.jsonl", "--control", work / "control.txt", *options)
    call += ("--prefix-length", PREFIX, "--suffix-length", SUFFIX)
    attn_surgery(*call, "--twin", work / "nobody").assert_error("nobody")
    assert not (work / "with-twin").exists()
    outcome = attn_surgery(*call, "--twin", work / "twin")
    assert outcome.code == 0, outcome
    report = read_report(work / "with-twin")
    assert report.twin.name == "twin"
    page = " ".join((work / "with-twin" / "report.md").read_text().split())
    for name in ("recited", "recovered.any"):
        after, never = (take(report, name, of) for of in ("edited", "twin"))
        above = after.above_twin
        assert above.difference == pytest.approx(after.value - never.value)
        assert above.ci95[0] < above.difference < above.ci95[1]
        assert f"twin {never.value:.1%}, {as_line(say_above(after, 'it'))}" in page
        assert take(report, name, "base").above_twin is never.above_twin is None
    assert "above the twin" in outcome.stdout
    assert say_above(take(report, "recited")) in report.edits[0].verdict


def test_verify_compares_what_stands_beside_a_model(work, done, tmp_path):
    """Report, pages, card and manifest agree, or the one that does not is named."""
    folder = tmp_path / "edited"

    def verified(name: str = "", old: str = "", new: str = "") -> dict[str, Any]:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(work / "edited", folder)
        if name:
            text = (folder / name).read_text()
            assert old in text
            (folder / name).write_text(text.replace(old, new, 1))
        found: dict[str, Any] = attn_surgery(
            "verify", folder, "--source", work / "base", "--json"
        ).json
        return found

    whole = verified()
    assert whole["ok"], whole
    assert [check["name"] for check in whole["checks"]][-2:] == ["report", "card"]
    claims = {"source", "versions", "report.json", "lm_eval", "report.html and report.md"}
    assert claims == {c["name"] for c in whole["claims"]}
    verdict, changed = edit_in(done[1]).verdict, "is not the one that surgery.json records"
    for name, old, new, said in (
        ("report.json", '"count": 8', '"count": 0', changed),
        ("report.json", verdict, "It forgot all.", changed),
        ("report.json", '"layout": "stock"', '"layout": "compact"', changed),
        ("report.md", verdict[:20], "It recites", changed),
        ("README.md", verdict[:20], "It recites", "part measurements of README.md is not what"),
        ("README.md", "value: 0.25", "value: 0.75", "model-index of README.md is not what"),
    ):
        found = verified(name, old, new)
        assert not found["ok"], old
        assert said in found["checks"][-1]["detail"]
        assert found["verdict"].startswith("NOT verified: ")
    (folder / "report.json").unlink()
    found = attn_surgery("verify", folder, "--json").json
    assert "report.json: is missing" in found["verdict"]


def test_again_no_benchmark_is_run_and_nothing_changes(work, done, monkeypatch, caches):
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(caches / "shared"))
    from evals.run.lm_eval.running import Benchmarks

    ran: list[str] = []
    run = Benchmarks.run

    def counted(self: Any, name: str, loaded: Any, **options: Any) -> Any:
        ran.append(f"{name} {Path(loaded.name).name}")
        return run(self, name, loaded, **options)

    monkeypatch.setattr(Benchmarks, "run", counted)
    outcome = attn_surgery(*arguments(work, "--output", work / "again", "--show-text"))
    assert outcome.code == 0, outcome
    assert ran == []
    assert read_report(work / "again").provenance.baseline_from_cache
    first, second = (
        [row for row in read_report(folder).figures if not row.name.startswith("recovered.")]
        for folder in (done[1], work / "again")
    )
    # a limit on a task says how wide an interval may be
    plain = [[row.model_copy(update={"details": {}}) for row in rows] for rows in (first, second)]
    assert plain[0] == plain[1]
    again = edit_in(work / "again")
    assert again.state is None
    texts = [*map(json.loads, (work / "again" / "passages.jsonl").read_text().splitlines())]
    assert {row["hash"] for row in texts} == {row.hash for row in again.passages}
    assert all(row["prefix"] and row["suffix"] for row in texts)
    assert again.verdict in outcome.stdout.replace("\n", " ")
    assert str(work / "again" / "report.html") in outcome.stdout

    ran.clear()
    more = ("--output", work / "again", "--no-cache", "--tasks", "local_choice")
    attn_surgery(*arguments(work, *more)).assert_error("already exists", "give --overwrite")
    more = (*more, "--overwrite")
    assert attn_surgery(*arguments(work, *more)).code == 0  # an earlier report is replaced
    assert ran == ["local_choice base", "local_choice edited"]
    assert list_costs(read_report(work / "again")) == ["task.local_choice", "heldout", "form"]


def test_a_batch_size_found_for_the_base_is_the_edited_models(work):
    given = arguments(work)
    at = given.index("--batch-size")
    automatic = given[:at] + given[at + 2 :]
    output = work / "automatic"
    assert attn_surgery(*automatic, "--output", output).code == 0
    report = read_report(output)
    assert report.settings["batch_size"] is None
    for side in ("base", "edited"):
        (file,) = (output / "lm_eval" / side).rglob("results_*.json")
        size = json.loads(file.read_text())["config"]["batch_size"]
        assert size == report.names[f"task.{NAMES[0]}"].details["batch_size"]


def test_without_samples_the_held_out_loss_remains(work):
    command = [
        *("evaluate", work / "edited", "--baseline", work / "base", "--tasks", "local_choice"),
        *("--include-path", work / "tasks", "--control", work / "control.txt"),
        *("--output", work / "no-samples"),
    ]
    outcome = attn_surgery(*command)
    assert outcome.code == 0
    edit = edit_in(work / "no-samples")
    assert edit.passages == []
    assert read_report(work / "no-samples").find("recited", "edited") is None
    assert edit.verdict.startswith("Memorization was not measured. ")
    assert edit.warnings == [
        "memorization was not measured; to measure it, give passages with --samples"
    ]
    for page in ("report.html", "report.md"):
        assert "Memorization was not measured." in (work / "no-samples" / page).read_text()
    assert take(read_report(work / "no-samples"), "heldout").n > 1


def test_held_out_text_of_every_form_is_recorded_without_its_path(work):
    (work / "texts").mkdir()
    (work / "texts" / "a.txt").write_text(TEXT)
    (work / "set").mkdir()
    pq.write_table(pa.table({"text": [TEXT]}), work / "set" / "train.parquet")
    outcome = attn_surgery(
        *("evaluate", work / "edited", "--baseline", work / "base", "--tasks", "local_choice"),
        *("--include-path", work / "tasks", "--limit", 2, "--control", work / "texts"),
        *("--control", f"hf:{work / 'set'}:train:text", "--output", work / "two-controls"),
    )
    assert outcome.code == 0, outcome.stderr
    report = read_report(work / "two-controls")
    assert [(text.name, text.sha256) for text in report.provenance.controls] == [
        ("a.txt", hash_file(work / "texts" / "a.txt")),
        ("hf:set:train:text", None),
    ]
    assert take(report, "heldout")
    assert str(work) not in (work / "two-controls" / "report.json").read_text()
    command = ("evaluate", work / "edited", "--baseline", work / "base", "--tasks", "none")
    missing = attn_surgery(*command, "--control", work / "texts" / "b.txt")
    missing.assert_error("b.txt: no such file or folder")


def test_what_a_search_found_is_in_the_picture(work):
    searched = attn_surgery(
        *("search", work / "base", "--samples", work / "samples.jsonl"),
        *("--corpus", work / "control.txt", "--prefix-length", PREFIX, "--suffix-length", SUFFIX),
        *("--max-extraction", 0.3, "--variant", "zero", "--output", work / "found"),
    )
    assert searched.code in (0, 3, 4), searched
    found = json.loads((work / "found" / "search.json").read_text())
    more = ("--tasks", "local_choice", "--front", work / "found" / "search.json")
    assert attn_surgery(*arguments(work, *more, "--output", work / "front")).code == 0
    report = read_report(work / "front")
    labels = {edit["of"]: f"{edit['spec']} {edit['variant']}" for edit in found["edits"]}
    assert [point.label for point in report.front] == [labels[of] for of in found["front"]]
    rises = {
        row["of"]: row["change"]["difference"]
        for row in found["figures"]
        if (row["name"], row["on"]) == ("heldout", "chosen on") and row["of"] != "base"
    }
    for point, of in zip(report.front, found["front"], strict=True):
        assert take(report, "heldout", point.of).change.difference == rises[of]
    page = (work / "front" / "report.html").read_text()
    assert "The search measured its points on those of the passages that it used to choose." in page


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--max-drop", "x"), "'x' is not TASK=X; write for example 'lambada_openai=0.03'"),
        (("--max-drop", "local_choice=-1"), "is not a number from 0 on"),
        (("--max-drop", "piqa=0.1"), "no task of this run matches 'piqa'"),
        (("--max-extraction", "2"), "2.0 is not in the range 0<=x<=1"),
        (("--suite", "lab"), "--tasks and --suite exclude each other"),
        (("--limit", "1.5"), "is neither a whole number from 1 on nor a share below 1"),
        (("--tasks", "a,,b"), "a name is empty"),
    ],
)
def test_usage_errors_come_before_any_work(work, more, text, monkeypatch):
    monkeypatch.setattr(
        "evals.run.models.load_model", lambda *_, **__: pytest.fail("work was done")
    )
    before = snapshot(work)
    outcome = attn_surgery(*arguments(work, *more))
    assert outcome.code == 2, outcome
    assert text in outcome.stderr
    assert snapshot(work) == before


@pytest.mark.parametrize(
    ("models", "suite"), [(("lab:pythia", "edited"), "lab"), (("base", "edited"), "standard")]
)
def test_without_tasks_a_suite_is_run(models, suite):
    request = MeasureRequest.of(command="evaluate", models=models[1:], baseline=models[0])
    assert request.task_names == tuple(SUITES[suite])


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ("edited", "evaluate needs the model before the edit: give --baseline"),
        ("edited --baseline base --max-extraction 0.1", "needs passages: give --samples"),
        (
            "edited --baseline base --attack near",
            "need passages and held-out text: give --samples",
        ),
        (
            "edited --baseline base --attack near --samples x",
            "and held-out text: give --heldout",
        ),
    ],
)
def test_what_is_missing_is_an_error_of_usage(work, given, text, monkeypatch):
    monkeypatch.chdir(work)
    outcome = attn_surgery("evaluate", *given.split())
    assert (outcome.code, text in outcome.stderr) == (2, True), outcome


@pytest.fixture
def reported(work: Path, tmp_path: Path) -> Path:
    """The edited model with a full report of its own beside it."""
    folder = Path(shutil.copytree(work / "edited", tmp_path / "edited"))
    assert measured(work, folder, work / "base", tmp_path / "full").code == 0
    assert "Nothing yet" not in (folder / "README.md").read_text()
    return folder


def measured(work: Path, edited: Path, base: Path, output: Path, *more: object) -> Outcome:
    return attn_surgery(
        *("evaluate", edited, "--baseline", base, "--output", output),
        *("--tasks", "local_choice", "--include-path", work / "tasks", "--batch-size", 8, *more),
    )


def test_two_documents_show_nothing(work, reported, tmp_path):
    before = snapshot(reported)
    more = ("--limit", 2, "--max-drop", "*=0.05")
    outcome = measured(work, reported, work / "base", tmp_path / "part", *more)
    assert outcome.code == 4, "the measured value is within the limit, and its interval is not"
    edit = edit_in(tmp_path / "part")
    task = take(read_report(tmp_path / "part"), "task.local_choice")
    assert task.details["verdict"] == "inconclusive (n = 2)"
    assert "inconclusive (n = 2), p = " in (tmp_path / "part" / "report.md").read_text()
    assert edit.verdict == (
        "Only the first 2 documents of each benchmark were measured. Memorization was not "
        "measured. Inconclusive on 1 of 1 tasks: local_choice (n = 2). Not decided: "
        "max-drop local_choice: 2 documents leave an interval of -0.693 to 0.693: about 1,537 "
        "would decide it."
    )
    assert "limit not decided: max-drop local_choice: drop of " in outcome.stderr
    assert outcome.stderr.endswith("so the exit code is 4; --allow-undecided makes it 0\n")
    allowed = measured(
        work, reported, work / "base", tmp_path / "allowed", *more, "--allow-undecided"
    )
    assert allowed.code == 0, "and the report says the same"
    limits = [read_report(tmp_path / name).limits for name in ("part", "allowed")]
    assert limits[0] == limits[1] != []
    assert f"{reported}: left its report and model card unchanged: only a part of each " in (
        outcome.stderr
    )
    assert snapshot(reported) == before


def test_a_model_keeps_its_report_unless_told_otherwise(work, reported, tmp_path):
    """Then all of it is new: no benchmarks of the earlier one stay beside it."""
    before, output = snapshot(reported), tmp_path / "second"
    call = ("evaluate", reported, "--baseline", work / "base", "--suite", "none")
    call += ("--control", work / "control.txt", "--output", output)
    outcome = attn_surgery(*call)
    assert outcome.code == 0, outcome
    kept = f"{reported}: left its report and model card unchanged: it has a report, which "
    assert f"{kept}--overwrite replaces" in outcome.stderr
    first = f"{reported}: will leave its report and model card unchanged: it has a report, "
    assert outcome.stderr.startswith(first), "before the work, which may take hours"
    assert snapshot(reported) == before
    assert attn_surgery(*call, "--overwrite").code == 0
    assert not any(name.startswith("task.") for name in read_report(reported).names)
    assert not (reported / "lm_eval").exists()


def test_files_of_yours_stay_beside_a_report(work, reported, tmp_path):
    """Results that lm-eval itself wrote there, and a page of yours."""
    for name in ("report.json", "report.html", "report.md"):
        (reported / name).unlink(missing_ok=True)
    (reported / "lm_eval" / "mine").mkdir(parents=True)
    (reported / "lm_eval" / "mine" / "results_1.json").write_text("{}")
    call = ("evaluate", reported, "--baseline", work / "base", "--suite", "none")
    call += ("--control", work / "control.txt", "--output", tmp_path / "output")
    (reported / "report.md").write_text("# Mine\n")
    assert "left its report and model card unchanged" in attn_surgery(*call).stderr
    assert (reported / "report.md").read_text() == "# Mine\n"
    (reported / "report.md").unlink()
    assert attn_surgery(*call, "--overwrite").code == 0
    assert read_report(reported)
    kept = [path.relative_to(reported) for path in (reported / "lm_eval").rglob("*.json")]
    assert kept == [Path("lm_eval/mine/results_1.json")]


@pytest.mark.parametrize("place", ["lm_eval", "lm_eval/base"])
def test_a_link_among_the_results_is_not_followed(work, reported, tmp_path, place):
    """It may lead to a folder of yours that is called base."""
    mine = tmp_path / "mine" / "base"
    mine.mkdir(parents=True)
    (mine / "results_1.json").write_text("{}")
    shutil.rmtree(reported / place)
    (reported / place).symlink_to(mine if place.endswith("base") else mine.parent)
    call = ("evaluate", reported, "--baseline", work / "base", "--suite", "none", "--overwrite")
    call += ("--control", work / "control.txt", "--output", tmp_path / "output")
    outcome = attn_surgery(*call)
    assert "warning: could not put the report beside the model" in outcome.stderr
    assert (mine / "results_1.json").is_file()


def test_a_report_that_a_killed_run_left_in_part_is_replaced(work, reported, tmp_path):
    call = ("evaluate", reported, "--baseline", work / "base", "--suite", "none")
    call += ("--control", work / "control.txt", "--output")
    assert attn_surgery(*call, tmp_path / "first", "--overwrite").code == 0
    (reported / "report.html").unlink()
    assert attn_surgery("verify", reported).code == 1
    again = attn_surgery(*call, tmp_path / "second")
    assert "updated its report and model card" in again.stderr, again
    assert attn_surgery("verify", reported).code == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"source": {"commit": "my branch"}}, "is not valid"),
        ({"num_blocks": 10**9}, "is of a model of another size"),
    ],
)
def test_a_manifest_that_no_report_can_show_is_found_first(
    work, reported, tmp_path, monkeypatch, change, text
):
    from forging import edit_json

    def forge(manifest: dict[str, Any]) -> None:
        for key, value in change.items():
            (one,) = manifest["history"]
            one[key] = {**one[key], **value} if isinstance(value, dict) else value

    edit_json(reported / "surgery.json", forge)
    monkeypatch.setattr(
        "evals.run.models.load_model", lambda *_, **__: pytest.fail("work was done")
    )
    call = ("evaluate", reported, "--baseline", work / "base", "--suite", "none")
    outcome = attn_surgery(*call, "--control", work / "control.txt", "--output", tmp_path / "out")
    assert outcome.code == 1
    assert text in outcome.stderr


def test_results_of_lm_eval_that_no_report_brought_stay(work, tmp_path):
    """Those of your own runs may have the names of ours."""
    folder = Path(shutil.copytree(work / "edited", tmp_path / "edited"))
    for name in REPORTS:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "lm_eval", ignore_errors=True)
    mine = folder / "lm_eval" / "base" / "results_1.json"
    mine.parent.mkdir(parents=True)
    mine.write_text("{}")
    call = ("evaluate", folder, "--baseline", work / "base", "--suite", "none")
    done = attn_surgery(*call, "--control", work / "control.txt", "--output", tmp_path / "output")
    assert done.code == 0, done
    assert "will leave its report and model card unchanged" in done.stderr
    assert mine.read_text() == "{}"


def test_a_base_that_is_no_source_is_said_first_and_stays_off_the_card(work, reported, tmp_path):
    import torch

    torch.manual_seed(1)
    other = tmp_path / "base"  # of the same name
    stranger = tiny_model()
    stranger.gpt_neox.embed_in.weight.data.add_(0.01)
    save_tiny(other, stranger)
    before = snapshot(reported)
    outcome = measured(work, reported, other, tmp_path / "report")
    assert outcome.code == 0, outcome
    assert outcome.stderr.startswith("warning: the base is not a recorded ")
    assert (
        f"{reported}: left its report and model card unchanged: base is not known to be its "
        in (outcome.stderr)
    )
    assert snapshot(reported) == before
    edit = edit_in(tmp_path / "report")
    assert edit.relation == "unrelated"
    said = (
        "The base is not a recorded source of the edited model, so differences may have other "
        "causes than the edit. Memor"
    )
    assert edit.verdict.startswith(said)
    assert said in (tmp_path / "report" / "report.md").read_text()


def test_a_copy_and_the_first_source_of_a_chain_are_sources(work, tmp_path):
    twice = surgery.export(work / "edited", "1", output=tmp_path / "twice").output
    copy = shutil.copytree(work / "base", tmp_path / "renamed")
    outcome = measured(work, twice, copy, tmp_path / "report")
    assert f"{twice}: updated its report and model card" in outcome.stderr
    assert edit_in(twice).relation == "source"


def test_without_a_manifest_the_relation_is_not_recorded(work, tmp_path):
    assert measured(work, work / "base", work / "base", tmp_path / "report").code == 0
    edit = edit_in(tmp_path / "report")
    assert edit.relation == "not recorded"
    assert edit.verdict.startswith(
        "No record says whether the edited model was made from the base. Memorization "
    )
