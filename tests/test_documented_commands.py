"""Contract: the program takes every command that a document shows, word by word, and those of the
README run in their order.

Models that are named stand for an embedded one, and work is cut to a few passages and documents.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest
from command_line import attn_surgery
from documented import DOCUMENTS, ROOT, commands

from cli.main import COMMANDS, main
from evals.lab import heldout_texts, model_path, samples_path

ATTN_SURGERY = ("attn-surgery", ".venv/bin/attn-surgery")
PYTHON = ("python", "python3", ".venv/bin/python")
NOT_OURS = {"pip", ".venv/bin/pip", "awk", "head", "seq", "mkdir", "cd", "source", "."}

RUN = ("export", "inspect", "verify", "collect", "extract", "evaluate", "sweep", "search", "audit")
"""Of the README's commands; the others have tests of their own."""


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


def shorten(arguments: Sequence[str]) -> list[str]:
    """A command of attn-surgery on the models, passages, texts, and tasks that are here."""
    found = list[str]()
    for word in arguments:
        before = found[-1] if found else ""
        if re.match("MODEL|BASE|EleutherAI/", word):
            word = "model"
        elif before == "--samples":
            word = "few.jsonl"
        elif before in ("--corpus", "--control", "--calibration"):
            word = "text.txt"
        elif before == "--drop-attn":
            word = "4-5"
        elif before not in ("--suite", "--tasks", "--limit"):
            found.append(word)
            continue
        else:
            found.pop()
            continue
        found.append(word)
    if found[0] == "evaluate":
        found += ["--tasks", "lab_copy", "--limit", "2", "--control", "text.txt"]
    return found


@pytest.mark.slow
def test_commands_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "cache"))
    shutil.copytree(model_path("pythia"), "model")
    Path("few.jsonl").write_text("\n".join(samples_path("pythia").read_text().splitlines()[::40]))
    Path("text.txt").write_text("\n".join(heldout_texts())[:20_000])
    for program, *arguments in commands("README.md"):
        if program not in ATTN_SURGERY or not arguments or arguments[0] not in RUN:
            continue
        done = attn_surgery(*shorten(arguments))
        gated = any(word.startswith("--max") for word in arguments)
        assert done.code in ({0, 3} if gated else {0}), (arguments, done)
