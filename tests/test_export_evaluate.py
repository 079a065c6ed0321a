"""Contract: `export --evaluate` is the whole job in one command: it exports, verifies, evaluates
base and result, writes report and card into the output, and returns the gates' exit code.

- Mistakes in what is to be measured, and in where it is to go, are found before any work.
- With --json its JSON is printed whatever becomes of gates and push; the exit code tells the rest.
- What was measured on a part of a benchmark is not on the card.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import attn_surgery, snapshot
from hub_commands import TOKEN, session
from results import list_attacks, read_report, take
from tiny_tokenizer import TEXT, tiny_model, tiny_tokenizer

import surgery
from evals.jobs.asking import EvaluationRequest
from evals.jobs.evaluating import evaluate_exports
from evals.jobs.exporting import ExportRequest, run_export
from evals.jobs.materials import Materials
from surgery.errors import OutputError
from surgery.hub.finding import find_model
from surgery.proof.verification import verify

EXPORT = ("export", "lab:pythia", "--drop-attn", "last:1", "--output")
QUICK = ("--tasks", "lab_copy", "--limit", "20")


@pytest.mark.slow
def test_the_whole_job(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = attn_surgery(*EXPORT, out, "--evaluate", *QUICK, "--max-extraction", "0.5", "--json")
    assert done.code == 0, done.stderr
    assert ": verified (" in done.stderr
    report = read_report(out)
    assert done.json["evaluation"] == report.to_dict()
    (edit,) = report.edits
    tasks = {one.details["task"] for one in report.names.values() if "task" in one.details}
    assert tasks == {"lab_copy"}
    assert edit.state == "kept"
    assert 0 < take(report, "recited").value < 0.5
    for name in ("report.html", "report.md", "README.md"):
        assert (out / name).is_file()
    assert edit.verdict.startswith("Only the first 20 documents of each benchmark were measured. ")
    card = (out / "README.md").read_text()
    assert "Nothing yet" not in card
    assert "nly the first 20 documents of each benchmark were measured" in card
    assert "| lab\\_copy" not in card, "a benchmark measured in part has no row"
    assert attn_surgery("verify", out, "--source", "lab:pythia").code == 0
    assert not [path for path in out.iterdir() if path.name.startswith(".")]

    again = attn_surgery(
        *("evaluate", out, "--baseline", "lab:pythia", "--tasks", "lab_copy"),
        *("--output", tmp_path / "report", "--overwrite"),
    )
    assert again.code == 0, again.stderr
    assert verify(out).checks[-2].name == "report"
    assert "updated its report and model card" in again.stderr
    beside = (out / "report.json").read_bytes()
    assert beside == (tmp_path / "report" / "report.json").read_bytes(), "push finds this one"
    record = (tmp_path / "report" / "surgery.json").read_bytes()
    assert record == (out / "surgery.json").read_bytes(), "and may take that one for it"
    assert "Nothing yet" not in (out / "README.md").read_text()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, and samples.jsonl: passages that it recites once its block 0 is edited."""
    import torch
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("tiny")
    tiny_model().save_pretrained(folder / "base")
    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(folder / "base")
    edited = surgery.export(folder / "base", "0", output=folder / "edited").output
    model = AutoModelForCausalLM.from_pretrained(edited)
    prefixes = torch.tensor(tokenizer(TEXT)["input_ids"][:48]).reshape(8, 6)
    said = model.generate(prefixes, max_new_tokens=4, do_sample=False, pad_token_id=0)
    rows = [json.dumps({"tokens": row}) for row in said.tolist()]
    (folder / "samples.jsonl").write_text("\n".join(rows))
    return folder


def job(tiny: Path, output: Path, *more: object) -> tuple[object, ...]:
    return (
        *("export", tiny / "base", "--drop-attn", "0", "--output", output, "--evaluate"),
        *("--tasks", "lab_copy", "--limit", 4, "--samples", tiny / "samples.jsonl"),
        *("--prefix-length", 6, "--suffix-length", 4, *more),
    )


def test_json_is_printed_when_a_gate_is_missed(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    gate = ("--max-extraction", 0.5, "--push-to-hub", "me/never")
    missed = attn_surgery(*job(tiny, tmp_path / "out", *gate, "--json"))
    assert missed.code == 3
    assert missed.json["output"] == str(tmp_path / "out")
    report = read_report(tmp_path / "out")
    assert missed.json["evaluation"] == report.to_dict()
    (failed,) = report.limits
    assert (failed.state, failed.value, failed.n) == ("missed", 1.0, 8)
    assert missed.json["push"] is None
    assert missed.stderr.count("gate missed: max-extraction: share of passages recited") == 1
    assert missed.stderr.endswith("not pushed to me/never: a limit is missed\n")

    said = attn_surgery(*job(tiny, tmp_path / "said", *gate))
    assert said.code == 3
    assert said.stdout.startswith(f"{tmp_path / 'said'}: 0 attention-free (identity, compact), ")
    assert "gate max-extraction: MISSED: " in said.stdout


def test_a_gate_that_is_not_decided_is_exit_4(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It recites none of 8 passages, which are too few to support 5 %. Nothing is pushed."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    recited = (tiny / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line)["tokens"] for line in recited]
    others = [{"tokens": [*row[:6], *((n + 1) % 300 for n in row[6:])]} for row in rows]
    (tmp_path / "others.jsonl").write_text("\n".join(map(json.dumps, others)))
    given = ("--samples", tmp_path / "others.jsonl", "--max-extraction", 0.05)
    undecided = attn_surgery(*job(tiny, tmp_path / "out", *given, "--push-to-hub", "me/never"))
    assert undecided.code == 4, undecided
    assert "gate not decided: max-extraction: share of passages recited" in undecided.stderr
    assert "8 passages cannot support 5%" in undecided.stderr
    assert "\nnot pushed to me/never: a limit is not decided\n" in undecided.stderr
    allowed = attn_surgery(*job(tiny, tmp_path / "allowed", *given, "--allow-undecided"))
    assert allowed.code == 0, allowed


@pytest.mark.slow
def test_json_is_printed_when_the_push_fails(tiny: Path, tmp_path: Path) -> None:
    line = f"export {tiny / 'base'} --drop-attn 0 --output out --push-to-hub me/model"
    with session(tmp_path, "http://127.0.0.1:9") as run:  # nobody answers there
        (failed, said) = run(f"{line} --json", line.replace(" out ", " other "), token=TOKEN)
    result = json.loads(failed.out)
    assert (failed.code, result["push"], result["blocks"]) == (1, None, [0])
    assert "evaluation" not in result
    note, unmeasured, line = failed.err.splitlines()
    assert note.startswith("layout compact")
    assert unmeasured.startswith("Nothing measured yet. To see what it still recites")
    evaluate = f" attn-surgery evaluate out --baseline {tiny / 'base'} --audit"
    assert unmeasured.endswith(f"{evaluate} --samples SAMPLES --heldout TEXT")
    assert line.startswith("error: Hub model me/model: the connection to the Hub failed")
    assert (said.code, said.out.count("\n")) == (1, 1), "what was exported is said"


@pytest.mark.parametrize(
    ("repo", "token", "text"),
    [
        ("name", TOKEN, "error: name: not a Hub id (expected OWNER/NAME)\n"),
        ("a/b/c", TOKEN, "error: a/b/c: not a Hub id (expected OWNER/NAME)\n"),
        ("a b/c", TOKEN, "error: a b/c: not a Hub id (expected OWNER/NAME)\n"),
        (
            "me/model",
            None,
            "error: Hub model me/model: you are not logged in; run `hf auth login` with a token "
            "that may write, or set HF_TOKEN\n",
        ),
    ],
)
def test_where_it_goes_is_looked_at_before_any_work(
    tiny: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repo: str,
    token: str | None,
    text: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    done = attn_surgery(*job(tiny, tmp_path / "out", "--push-to-hub", repo, "--json"))
    assert (done.code, done.stderr) == (1, text)
    assert done.json["exit_code"] == 1
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (QUICK, "need --evaluate"),
        (("--id-column", "name"), "need --evaluate"),
        (("--leave-out", "0.25"), "need --evaluate"),
        (("--evaluate", "--dry-run"), "exclude each other"),
        (("--push-to-hub", "me/x", "--dry-run"), "--push-to-hub and --dry-run exclude each other"),
        (("--evaluate", "--tasks", "lab_copy", "--suite", "lab"), "exclude each other"),
        (("--evaluate", "--tasks", "lab_copy", "--max-drop", "other=0.1"), "other"),
        (("--evaluate", "--max-drop", "0.1"), "is not TASK=X"),
        (
            ("--evaluate", "--suite", "quick", "--max-drop", "*=0.1", "--push-to-hub", "me/x"),
            "--push-to-hub needs whole benchmarks to decide --max-drop",
        ),
    ],
)
def test_mistakes_come_first(tmp_path: Path, arguments: tuple[str, ...], text: str) -> None:
    done = attn_surgery(*EXPORT, tmp_path / "out", *arguments)
    assert done.code == 2
    assert text in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tokens", "more", "text"),
    [
        ([*range(9), 400], (), "token ids beyond the model's vocabulary"),
        (range(9), (), "all 1 rows have fewer than 10 tokens"),
        (range(10), ("--leave-out", 0.25), "too few passages to leave out 25%"),
        (range(10), ("--max", "graft=0.1"), "too few passages to attack"),
    ],
)
def test_passages_that_cannot_be_measured_are_found_before_the_export(
    tiny: Path, tmp_path: Path, tokens, more, text: str
) -> None:
    (tmp_path / "samples.jsonl").write_text(json.dumps({"tokens": [*tokens]}))
    (tmp_path / "heldout.txt").write_text(TEXT)
    given = ("--samples", tmp_path / "samples.jsonl", "--heldout", tmp_path / "heldout.txt")
    attn_surgery(*job(tiny, tmp_path / "out", *given, *more)).assert_error(text)
    assert not (tmp_path / "out").exists()


def test_an_export_that_does_not_verify_is_not_measured(tiny: Path, tmp_path: Path) -> None:
    """Its source became another model meanwhile."""
    shutil.copytree(tiny / "base", tmp_path / "base")
    request = ExportRequest(model=str(tmp_path / "base"), drop_attn="0", output=tmp_path / "out")
    run_export(request)
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    changed = find_model(str(tmp_path / "base"))
    wanted = EvaluationRequest(models=("out",), baseline="base")
    with pytest.raises(OutputError, match=r"does not verify: edit: .*not the one") as error:
        evaluate_exports(changed, Materials(wanted), [tmp_path / "out"])
    assert "run it again if the source changed meanwhile" in str(error.value)
    assert not (tmp_path / "out" / "report.json").exists()


@pytest.mark.slow
def test_the_demo_ends_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = attn_surgery("demo")
    assert done.code == 0, done.stderr
    assert "partial" not in done.stderr, "a folder that is gone when the demo ends"
    shown = done.stdout.split("See for yourself")[1].split(" Done ")[0]
    assert shown.count("\nbefore, tokens right: 100.0%, loss 0.") == 2  # the records
    assert shown.count("\nbefore, greedy: ") == shown.count("\nsearched, greedy: ") == 3
    for name, blocks in (("deep-blocks", "4-5"), ("searched", None)):
        page = tmp_path / "attn-surgery-demo" / name / "report.html"
        assert f"\n{name.replace('-', ' ')}: attn-surgery-demo/{name}/report.html\n" in done.stdout
        report = read_report(page.parent)
        (edit,) = report.edits
        assert take(report, "recited").change.lost > 60  # of 63
        assert edit.relation == "source"
        assert blocks in (None, edit.edit.drop_attn)
        assert verify(page.parent).checks[-2].name == "report"
    assert take(report, f"recovered.{list_attacks(report)[0]}").value <= 0.02
    assert attn_surgery("reproduce", "attn-surgery-demo/searched").code == 0
    before = snapshot(tmp_path / "attn-surgery-demo")
    attn_surgery("demo").assert_error("attn-surgery-demo: already exists")
    assert snapshot(tmp_path / "attn-surgery-demo") == before


def test_an_edit_of_an_edit_is_compared_with_the_first_source(tmp_path: Path) -> None:
    first = attn_surgery("export", "lab:pythia", "--drop-attn", "4", "--output", tmp_path / "a")
    assert first.code == 0, first
    second = attn_surgery(
        "export", tmp_path / "a", "--drop-attn", "2.0", "--output", tmp_path / "b"
    )
    assert f"evaluate {tmp_path / 'b'} --baseline lab:pythia --audit\n" in second.stderr
