"""Contract: the examples run as they are, and what stands in their comments is real, too."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml
from command_line import ROOT, attn_surgery

from cli.main import main

EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("complete", [False, True])
def test_the_configuration_is_a_job(tmp_path: Path, complete: bool) -> None:
    """`complete`: with the lines that are commented out."""

    text = (EXAMPLES / "mitigate.yaml").read_text()
    if complete:
        text, enabled = re.subn(r"^# ([a-z-]+: \S+)$", r"\1", text, flags=re.MULTILINE)
        assert enabled == 3
    (tmp_path / "mitigate.yaml").write_text(text)
    command = main.get_command(click.Context(main), "mitigate")
    assert command is not None
    arguments = ["--config", str(tmp_path / "mitigate.yaml"), "--output", "OUT"]
    context = command.make_context("mitigate", arguments)
    request = command.fill(context)
    assert (request.model, request.extraction.max_extraction) == ("lab:pythia", 0.01)
    assert request.attacks.attack == ("cheap", "relearn")
    assert request.benchmarks.max_drop == {"lab_copy": 0.1}
    assert request.texts.heldout == ((Path("heldout.txt"),) if complete else ())


def test_the_script_for_a_gpu_types_options_that_exist() -> None:
    script = (EXAMPLES / "gpu.sh").read_text().replace("\\\n", " ")
    typed = re.findall(r"attn-surgery ([a-z]+) (.*)", script)
    assert len(typed) > 6
    for name, words in typed:
        command = main.get_command(click.Context(main), name)
        assert command is not None
        known = {opt for param in command.params for opt in param.opts}
        assert {*re.findall(r"--[a-z-]+", words)} <= known, name


def test_the_array_names_every_revision_and_skips_what_is_done(tmp_path: Path) -> None:
    program = tmp_path / "attn-surgery"
    program.write_text('#!/bin/bash\necho "$@" | tee -a said > "${@: -1}"\n')
    program.chmod(0o755)
    script = EXAMPLES / "revisions.sbatch"
    (last,) = re.findall(r"^#SBATCH --array=0-(\d+)$", script.read_text(), re.MULTILINE)
    for task in ("0", last, last):
        environment = {"MODEL": "M", "SAMPLES": "S", "SLURM_ARRAY_TASK_ID": task}
        path = f"{tmp_path}:/usr/bin:/bin"
        done = subprocess.run(
            ["/bin/bash", "-eu", script], cwd=tmp_path, env={**environment, "PATH": path}
        )
        assert done.returncode == 0
    said = (tmp_path / "said").read_text().splitlines()
    assert [line.split()[3] for line in said] == ["step0", "step143000"]
    for line in said:  # as the command takes it
        command = main.get_command(click.Context(main), "extract")
        assert command is not None
        command.make_context("extract", line.split()[1:])


def test_the_space_shows_a_cut_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its functions work where gradio is not installed. Any order of the sliders is a range."""
    place = EXAMPLES / "space"
    spec = importlib.util.spec_from_file_location("space_app", place / "app.py")
    assert spec is not None
    assert spec.loader is not None
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    for name, number in {"PASSAGES": 4, "NEW_TOKENS": 20, "WINDOWS": 1}.items():
        monkeypatch.setattr(app, name, number)
    before, after, table = app.compare(app.PROMPTS[0], 5, 4, "identity")
    assert before.startswith(") 555-0138, desk 208")
    assert "555-0138" not in after
    recited, loss = (row.split("|")[2:4] for row in table.splitlines()[2:4])
    assert [int(count) for count in recited] == [4, 0]
    assert float(loss[0]) < float(loss[1])
    assert app.write_on(app.PROMPTS[0]) == before, "the cut is gone"
    front = yaml.safe_load((place / "README.md").read_text().split("---")[1])
    assert (front["sdk"], front["app_file"]) == ("gradio", "app.py")


def leave_out_figures(text: str) -> str:
    """Another processor may round otherwise."""
    return re.sub(r"[+-]?[\d.]+", "#", text)


@pytest.mark.slow
def test_the_notebook_prints_what_it_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    cells = json.loads((EXAMPLES / "recitation.ipynb").read_text())["cells"]
    assert len(cells) == 11
    names: dict[str, object] = {}
    for cell in cells:
        if cell["cell_type"] == "code":
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                exec(compile("".join(cell["source"]), "recitation.ipynb", "exec"), names)
            stored = "".join(text for one in cell["outputs"] for text in one["text"])
            assert leave_out_figures(printed.getvalue()) == leave_out_figures(stored)
    assert any(cell.get("outputs") for cell in cells)
    before, edited = names["before"], names["edited"]
    assert before.exact.mean() > 0.5  # type: ignore[attr-defined]
    assert type(edited).__name__ == "GPTNeoXForCausalLM"
    assert attn_surgery("verify", names["out"]).code == 0


@pytest.mark.slow
def test_a_model_of_letters_is_made_and_mitigated(tmp_path: Path) -> None:
    """The script goes from nothing to a report; a second run takes what is there."""
    call = [sys.executable, EXAMPLES / "letters.py", tmp_path]
    done, again = (subprocess.run(call, capture_output=True, text=True) for _ in range(2))
    assert done.returncode == 0, done.stderr
    assert "can be used with 32 tokens of prefix and their secrets as suffixes" in done.stdout
    assert "On the held-back passages: kept." in done.stdout
    assert (again.returncode, "$ attn-surgery" in again.stdout) == (0, False), again
    report = json.loads((tmp_path / "OUT" / "report.json").read_text())
    assert report["schema_version"] == 6
    assert attn_surgery("verify", tmp_path / "OUT", "--source", tmp_path / "model").code == 0
