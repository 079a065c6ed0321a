"""Contract: every command that a document shows is one that the program takes, word by word, and
those that can run here do run, in their order, in one folder for each document.

What cannot run here is listed with the reason, so that a new line is either run or listed. Models
that are named stand for the embedded ones, and work is cut to a few passages and documents.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import click
import numpy as np
import pytest
from command_line import attn_surgery
from documented import DOCUMENTS, ROOT, commands

from cli.main import COMMANDS, main
from evals.lab import heldout_texts, model_path, samples_path

ATTN_SURGERY = ("attn-surgery", ".venv/bin/attn-surgery")
PYTHON = ("python", "python3", ".venv/bin/python")
NOT_OURS = {"pip", ".venv/bin/pip", "awk", "head", "seq", "mkdir", "cd", "source", "."}

NOT_RUN = {
    r"\.venv/bin/attn-surgery demo": "tests/test_export_evaluate.py runs it",
    r"attn-surgery mitigate": "tests/test_mitigate.py runs it",
    r"attn-surgery (push|reproduce)": "tests/test_push.py and test_reproduce.py, on a local Hub",
    r"attn-surgery .*EleutherAI/(pythia-(2.8|6.9|12)b|gpt-neo-2.7B)": "a loop, run for one size",
    r"attn-surgery search .*FOUND-lab:(pythia|.*greedy)": "a loop, run for one turn",
    r"attn-surgery search .*pythia-(zero|mean|linear)": "a loop, run for one variant",
    r"attn-surgery (sweep .*--heads|(sweep|search) .*--calibration)": "test_sweep_command.py and "
    "test_search_command.py run such",
    r"attn-surgery (sweep|collect) EleutherAI": "run for an embedded model, or MODEL",
    r"attn-surgery audit .*(heads|relearn)": "tests/test_audit_command.py runs such",
    r"attn-surgery .*--revision": "revisions of the Hub",
    r"attn-surgery$": "tests/test_cli.py has a shell complete with it",
    r"attn-surgery bench": "tests/test_bench.py runs it",
    r"(accelerate|torchrun) ": "the tests called two_processes run such",
    r"lm_eval .*discoverable_extraction": "tests/test_extraction_task.py runs it",
    r"lm_eval .*(lambada_openai|TASKS)": "data of the Hub",
    r"make ": "the suite itself, minutes, or an installation",
    r"(\.venv/bin/)?python3? -m (venv|pytest)": "an installation; the suite itself",
    r"python (-m )?benchmarks": "minutes, a GPU, or other engines and versions",
    r"python -m hostile.fuzz": "half an hour; tests/hostile runs its readers",
    r"((\.venv/bin/)?pip|awk|head|seq|mkdir|cd|source|\.)( |$)": "not ours",
}
STAND_INS = {  # what is named: what is there in its place
    r"MODEL|BASE|EleutherAI/(pythia|gpt-neo)-.*": "model",
    r"20-23": "4-5",
    r"FOLDER|PILE": "corpus.jsonl",
    r"HELDOUT": "heldout.txt",
}
EXPORTS = {"OUT": "4-5", "OUT-A": "4-5", "OUT-B": "5"}
"""Made where a document goes on with one that it did not make: the blocks of each."""
FEW = {  # what is measured on less, where a document leaves it at the default
    "sweep": {"--corpus": "heldout.txt", "--variant": "identity"},
    "search": {"--corpus": "heldout.txt", "--max-evaluations": "8", "--variant": "identity"},
    "audit": {"--control": "heldout.txt", "--attack": "cheap"},
    "evaluate": {"--tasks": "lab_copy"},
}


def parse(arguments: Sequence[str], where: str) -> None:
    """As the command line does: the command and its options exist, none is missing or wrong."""
    if not arguments:  # to print how a shell completes
        return
    name, *rest = arguments
    assert name in COMMANDS, where
    command = main.get_command(click.Context(main), name)
    assert command is not None
    try:
        command.make_context(name, rest)
    except click.ClickException as error:
        pytest.fail(f"{where}: {error.format_message()}")


def parse_launched(program: str, arguments: list[str], where: str) -> None:
    """`accelerate launch … cli.main COMMAND …`, or the same by torchrun."""
    if program == "accelerate":
        from accelerate.commands.launch import launch_command_parser

        assert arguments.pop(0) == "launch", where
        parsed = launch_command_parser().parse_args(arguments)
        assert parsed.module, where
    else:
        from torch.distributed.run import get_args_parser

        numbered = ["0" if argument == "R" else argument for argument in arguments]
        parsed = get_args_parser().parse_args(numbered)
    assert parsed.training_script == "cli.main", where
    parse(parsed.training_script_args, where)


def parse_python(arguments: Sequence[str], where: str) -> None:
    """A script or module of the repository: it is there, and its source names the options.

    Not asked with --help: some need engines that are not installed.
    """
    if arguments[:2] in (["-m", "venv"], ["-m", "pytest"]):
        return
    script = ROOT / arguments[0]
    if arguments[0] == "-m":
        inside = arguments[1].replace(".", "/")
        names = (f"{inside}.py", f"{inside}/__main__.py", f"tests/{inside}.py")
        script = next((ROOT / name for name in names if (ROOT / name).is_file()), ROOT / names[0])
    source = script.read_text()
    assert '__name__ == "__main__"' in source, where
    for option in filter(re.compile("--").match, arguments):
        assert f'"{option}"' in source, f"{where}: {option}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_are_as_the_programs_take_them(
    document: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for program, *arguments in commands(document):
        where = f"{document}: {program} {' '.join(arguments)}"
        if program in ATTN_SURGERY:
            parse(arguments, where)
        elif program in ("accelerate", "torchrun"):
            parse_launched(program, arguments, where)
        elif program == "lm_eval":
            from lm_eval._cli.harness import HarnessCLI

            monkeypatch.setattr(sys, "argv", ["lm_eval", *arguments])
            assert HarnessCLI().parse_args().tasks, where
        elif program == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(), re.M), where
        elif program in PYTHON:
            parse_python(arguments, where)
        else:
            assert program in NOT_OURS, where


@pytest.mark.parametrize("document", DOCUMENTS)
def test_options_in_the_text_exist(document: str) -> None:
    """Such as `sweep --estimate`, `attn-surgery export … --evaluate`."""
    text = (ROOT / document).read_text()
    for name, rest in re.findall(
        rf"`(?:attn-surgery )?({'|'.join(COMMANDS)}) ([^`]*--[^`]*)`", text
    ):
        command = main.get_command(click.Context(main), name)
        assert command is not None
        known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
        assert {*re.findall(r"--[a-z-]+", rest)} <= known | {"--help"}, f"{name} {rest}"


def test_what_is_not_run_is_shown_somewhere() -> None:
    """No reason outlives the command that it was given for."""
    shown = [" ".join(command) for document in DOCUMENTS for command in commands(document)]
    for pattern in NOT_RUN:
        assert any(re.match(pattern, line) for line in shown), pattern


def as_it_runs_here(arguments: Sequence[str]) -> list[str]:
    """A command of attn-surgery, on stand-ins and on few passages, texts and documents."""
    found = list[str]()
    for word in arguments:
        for pattern, there in STAND_INS.items():
            word = there if re.fullmatch(pattern, word) else word
        if found and found[-1] == "--samples" and not Path(word.split(",")[0]).is_file():
            word = "few.jsonl"
        if found and found[-1] in ("--suite", "--tasks"):
            found[-1], word = "--tasks", "lab_copy"
        if found and found[-1] == "--limit":
            word = "2"
        found.append(word)
    few = dict(FEW.get(found[0], {}))
    if "--tasks" in (*found, *few):
        few["--limit"] = "2"
    for option, value in few.items():
        if option not in found and (option != "--corpus" or "--exact-only" not in found):
            found += [option, value]
    return found


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: models, passages and texts under the names that documents use."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "cache"))
    records = samples_path("pythia").read_text().splitlines()[::40]
    tokens = np.array([json.loads(line)["tokens"] for line in records], dtype=np.int32)
    np.save("train_prefix.npy", tokens[:, :32])
    np.save("train_suffix.npy", tokens[:, 32:])
    text = "\n".join(heldout_texts())
    for model in ("model", "DEEP"):
        shutil.copytree(model_path("pythia"), model)
    for name in ("few.jsonl", "some.jsonl", "DEEP/records.jsonl", "corpus.jsonl"):
        Path(name).write_text("\n".join(records))
    for name in ("texts", "heldout", "calibration"):
        Path(name).mkdir()
    for name in ("heldout.txt", "HELDOUT.txt", "some.txt", "heldout/a.txt", "DEEP/heldout.txt"):
        Path(name).write_text(text[:3_000])
    for name in ("texts/a.txt", "calibration/a.txt", "DEEP/calibration.txt"):
        Path(name).write_text(text[3_000:20_000])
    return tmp_path


@pytest.mark.slow
@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_run(document: str) -> None:
    for command in commands(document):
        if any(re.match(pattern, " ".join(command)) for pattern in NOT_RUN):
            continue
        assert command[0] == "attn-surgery", command
        for option, name in pairwise(command):
            if name in EXPORTS and option != "--output" and not Path(name).exists():
                made = ("export", "model", "--drop-attn", EXPORTS[name], "--output", name)
                assert attn_surgery(*made).code == 0
        done = attn_surgery(*as_it_runs_here(command[1:]))
        gated = any(word.startswith("--max") for word in command)
        assert done.code in ({0, 3} if gated else {0}), (command, done)
