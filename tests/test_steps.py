"""Contract: a step is made in one way, whoever asks for it, and asks each question once.

The commands, the recipes of `mitigate`, and the demo open a step and run it. Only a replay makes
one from its record.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from command_line import attn_surgery, snapshot
from reciting import recited_rows, write_rows
from test_one_result import find_calls, parse
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from benchmarks.walks import Walk
from evals.jobs.exporting import ExportRequest, open_export

ROOT = Path(__file__).resolve().parent.parent
JOBS = "evals/jobs"
REPLAY = f"{JOBS}/reproducing.py"
STEPS = {"export": "OpenedExport", "erase": "OpenedErasing", "heal": "OpenedHealing"}
"""Step → what is opened. Each module of a step is named after it."""
ASKING = re.compile(
    r"\b(is_main|is_first_process|join_launch)\b|environ\b.*\bRANK\b|\.(once|agree|apart)\("
    r"|processes(\(\))?\.rank\b"
)
"""How a file asks which process it runs in."""


def find_users(name: str, module: str) -> set[str]:
    """The files outside `surgery/` that import a name from a module."""
    return {
        file
        for file, made in parse().items()
        for node in ast.walk(made)
        if isinstance(node, ast.ImportFrom) and node.module == module
        for alias in node.names
        if alias.name == name and not file.startswith("surgery/")
    }


def find_classes(base: str) -> set[str]:
    """The classes that stand on one of this name."""
    return {
        node.name
        for made in parse().values()
        for node in ast.walk(made)
        if isinstance(node, ast.ClassDef) and base in map(ast.unparse, node.bases)
    }


def test_one_flow_writes_what_steps_make() -> None:
    users = find_users("write", "surgery.exporting")
    assert users == {f"{JOBS}/stepping.py", REPLAY}
    assert find_classes("OpenedStep") == set(STEPS.values())
    flows = {
        node.name
        for made in parse().values()
        for node in ast.walk(made)
        if isinstance(node, ast.ClassDef) and node.name in {"OpenedStep", *STEPS.values()}
        for part in node.body
        if isinstance(part, ast.FunctionDef) and part.name == "run"
    }
    assert flows == {"OpenedStep"}


@pytest.mark.parametrize(
    ("trains", "module", "step"),
    [
        ("teach_to_forget", "surgery.training.erasing", "erasing"),
        ("heal_by_source", "surgery.training.healing", "healing"),
    ],
)
def test_one_flow_trains(trains: str, module: str, step: str) -> None:
    assert find_users(trains, module) == {f"{JOBS}/{step}.py", REPLAY}


@pytest.mark.parametrize("step", STEPS)
def test_whoever_makes_a_step_opens_it(step: str) -> None:
    (opens,) = find_calls(STEPS[step])
    module = opens.removesuffix(".py").replace("/", ".")
    users = find_users(f"open_{step}", module)
    assert {f"cli/commands/edit/{step}.py", f"{JOBS}/mitigating.py"} <= users
    assert find_calls(f"open_{step}") == users


def test_four_files_ask_which_process_they_run_in() -> None:
    """Where a command starts, prints, writes, and keeps finished work. Jobs and measures do not."""
    asking = {file for file in parse() if ASKING.search((ROOT / file).read_text(encoding="utf-8"))}
    assert asking - {"surgery/processes.py"} == {
        "cli/requests.py",
        "cli/terminal.py",
        "surgery/output.py",
        "surgery/store.py",
    }


@pytest.mark.parametrize("given", [{}, {"overwrite": True}, {"consume": True}], ids=str)
def test_an_export_asks_once(given: dict[str, bool], tmp_path: Path) -> None:
    """Whether the output may be written, and which model is meant."""
    model, output = tmp_path / "model", tmp_path / "cut"
    save_tiny(model, tiny_model())
    if given:  # there is something to replace
        request = ExportRequest.of(model=str(model), drop_attn="1", output=output)
        open_export(request).run()
    if "consume" in given:
        model, output = output, None
    request = ExportRequest.of(model=str(model), drop_attn="0", output=output, **given)
    with Walk(ROOT) as walk:
        open_export(request).run()
    assert walk.entered["surgery/output.py"]["check_output"] == 1
    assert walk.entered["surgery/hub/finding.py"]["find_model"] == 1


def test_a_step_that_others_followed_is_told_again(tmp_path: Path) -> None:
    """The folder that `erase` made is cut in place; the same `erase` then has nothing to do."""
    model, output = tiny_model(), tmp_path / "out"
    save_tiny(tmp_path / "model", model)
    write_rows(tmp_path / "passages.jsonl", recited_rows(model, 8))
    (tmp_path / "text.txt").write_text(TEXT)
    given = ("--samples", tmp_path / "passages.jsonl", "--prefix-length", 6, "--suffix-length", 5)
    given += ("--drop-attn", "0", "--text", tmp_path / "text.txt", "--steps", 1, "--json")
    erase = ("erase", tmp_path / "model", *given, "--device", "cpu", "--output", output)
    first = attn_surgery(*erase)
    assert attn_surgery("export", output, "--drop-attn", "1", "--consume").code == 0
    before = snapshot(output)
    again = attn_surgery(*erase)
    assert (first.code, again.code) == (0, 0), again
    assert "already holds this result" in again.stderr
    assert again.json["erasing"] == first.json["erasing"]
    assert snapshot(output) == before


def test_what_a_killed_export_left_beside_its_result_is_removed(tmp_path: Path) -> None:
    """It was killed between the last rename and its end."""
    save_tiny(tmp_path / "model", tiny_model())
    export = ("export", tmp_path / "model", "--drop-attn", "0", "--output", tmp_path / "cut")
    assert attn_surgery(*export).code == 0
    (tmp_path / ".cut.attn-surgery-lock").touch()
    (tmp_path / ".cut.attn-surgery-partial").mkdir()
    again = attn_surgery(*export)
    assert again.code == 0
    assert "already holds this result" in again.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"model", "cut"}


def test_no_request_lists_what_identifies_its_work() -> None:
    """Keys of the store are the things themselves, whose fields say what counts."""
    calls = [
        call
        for made in parse().values()
        for call in ast.walk(made)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr in ("get", "narrow", "find", "keep")
        and ast.unparse(call.func.value).endswith("store")
    ]
    assert len(calls) > 10
    for call in calls:
        listed = [node for key in call.args for node in ast.walk(key) if isinstance(node, ast.Dict)]
        assert not listed, ast.unparse(call)
