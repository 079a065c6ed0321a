"""Contract: what follows an export. Where it is to be pushed is looked at before any work, and what
was exported is told whatever becomes of the push; no export is measured that does not verify.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import attn_surgery
from hub_commands import TOKEN, session
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from cli.terminal import note_unmeasured
from evals.jobs.asking import MeasureRequest
from evals.jobs.evaluating import evaluate_exports
from evals.jobs.exporting import ExportRequest, open_export
from evals.jobs.materials import Materials, open_materials
from surgery.errors import OutputError
from surgery.hub.finding import find_model
from surgery.record.report import Report


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "base")


@pytest.mark.slow
def test_json_is_printed_when_the_push_fails(source: Path, tmp_path: Path) -> None:
    line = f"export {source} --drop-attn 0 --output out --push-to-hub me/model"
    with session(tmp_path, "http://127.0.0.1:9") as run:  # nobody answers there
        (failed, said) = run(f"{line} --json", line.replace(" out ", " other "), token=TOKEN)
    result = json.loads(failed.out)
    assert (failed.code, result["push"], result["blocks"]) == (1, None, [0])
    *loading, unmeasured, healing, line = failed.err.splitlines()
    assert healing == (
        f"To heal it: attn-surgery heal out --source {source} --text TEXT --samples SAMPLES"
    )
    assert len(loading) == 3, "how it loads, in lm_eval, and what needs no flag"
    assert "from_pretrained('out', trust_remote_code=True)" in loading[0]
    assert "pretrained=out,trust_remote_code=True" in loading[1]
    assert "--variant zero" in loading[2]
    assert unmeasured.startswith("Nothing measured yet. To see what it still recites")
    evaluate = f" attn-surgery evaluate out --baseline {source} --attack default"
    assert unmeasured.endswith(f"{evaluate} --samples SAMPLES --heldout TEXT")
    assert line.startswith("error: Hub model me/model: the connection to the Hub failed")
    assert (said.code, said.out.count("\n")) == (1, 1), "what was exported is said"


@pytest.mark.parametrize(
    ("samples", "more"),
    [(None, ""), ("lab:pythia", ""), ("letters.csv", " --samples SAMPLES")],
)
def test_a_lab_model_is_measured_on_what_it_was_given(
    samples: str | None, more: str, capsys: pytest.CaptureFixture[str]
) -> None:
    note_unmeasured("out", find_model("lab:pythia"), samples)
    evaluate = "attn-surgery evaluate out --baseline lab:pythia --attack default"
    assert capsys.readouterr().err.endswith(f"{evaluate}{more}\n")


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
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    repo: str,
    token: str | None,
    text: str,
) -> None:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: token)
    done = attn_surgery(
        *("export", source, "--drop-attn", "0", "--output", tmp_path / "out"),
        *("--push-to-hub", repo, "--json"),
    )
    assert (done.code, done.stderr) == (1, text)
    assert done.json["exit_code"] == 1
    assert not any(tmp_path.iterdir())


def test_an_export_that_does_not_verify_is_not_measured(source: Path, tmp_path: Path) -> None:
    """Its source became another model meanwhile."""
    shutil.copytree(source, tmp_path / "base")
    request = ExportRequest.of(model=str(tmp_path / "base"), drop_attn="0", output=tmp_path / "out")
    open_export(request).run()
    config = tmp_path / "base" / "config.json"
    config.write_text(config.read_text().replace('"gelu"', '"relu"'))
    changed = find_model(str(tmp_path / "base"))
    wanted = MeasureRequest.of(command="evaluate", models=("out",), baseline="base")
    with pytest.raises(OutputError, match="does not verify: edit: the source is not one") as error:
        evaluate_exports(changed, Materials(wanted), [tmp_path / "out"])
    assert "make it again" in str(error.value)
    assert not (tmp_path / "out" / "report.json").exists()


def test_an_edit_of_an_edit_is_compared_with_the_first_source(tmp_path: Path) -> None:
    first = attn_surgery("export", "lab:pythia", "--drop-attn", "4", "--output", tmp_path / "a")
    assert first.code == 0, first
    second = attn_surgery(
        "export", tmp_path / "a", "--drop-attn", "2.0", "--output", tmp_path / "b"
    )
    assert f"evaluate {tmp_path / 'b'} --baseline lab:pythia --attack default\n" in second.stderr


def test_results_are_chosen_on_half_and_judged_on_the_other(source: Path, tmp_path: Path) -> None:
    """Of the passages that test: the best of several looks better than it is where it was chosen.
    Each report says on how many it rests."""
    write_rows(tmp_path / "samples.jsonl", recited_rows(tiny_model(), 24))
    (tmp_path / "heldout.txt").write_text(TEXT * 30)
    outputs = [tmp_path / name for name in ("one", "two")]
    for at, output in enumerate(outputs):
        open_export(ExportRequest.of(model=str(source), drop_attn=str(at), output=output)).run()
    request = MeasureRequest.of(
        command="evaluate", models=("one",), baseline=str(source), attack=("greedy",),
        samples=str(tmp_path / "samples.jsonl"), heldout=(tmp_path / "heldout.txt",),
        prefix_length=6, suffix_length=5, max={"greedy": 0.5}, device="cpu", suite="none",
    )  # fmt: skip
    choosing, judged = evaluate_exports(
        find_model(str(source)), open_materials(request), outputs, choose=0
    )
    flags = [found.left.passages for found in (choosing, judged)]
    assert [int(some.sum()) for some in flags] == [12, 12]
    assert not (flags[0] & flags[1]).any()
    for found in (choosing, judged):
        assert [limit.n for limit in found.report.limits] == [12, 12]
    assert [edit.chose["passages"] for edit in judged.report.edits] == [12, 12]
    (said,) = (one for one in judged.report.edits[0].warnings if "chose one of 2" in one)
    assert said.startswith("12 passages chose one of 2 results, and the other 12 judge it")
    written = Report.model_validate_json((outputs[0] / "report.json").read_text())
    assert [limit.n for limit in written.limits] == [12]
