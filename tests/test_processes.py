"""Launchers start as many processes as were asked for, and where they do not, that is said."""

from __future__ import annotations

import pytest
from command_line import ACCELERATE, TORCHRUN, finish, start

from cli.terminal import note
from evals.running.processes import Processes

SCRIPT = """
import atexit
from cli.terminal import note
from evals.running.processes import Processes
from torch.distributed import is_initialized
atexit.register(lambda: note(f"connected at the end: {is_initialized()}"))
processes = Processes.launched(say=note)
note(f"seen once by {processes.count}")
note(f"seen of {processes.rank}", anywhere=True)
ranks = processes.gather([processes.rank])
if processes.is_main:
    print(ranks)
"""
ONE = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")


def launched(program, folder):
    (folder / "script.py").write_text(SCRIPT)
    done = finish(start(folder / "script.py", program=program), timeout=120)
    assert done.code == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("program", [ACCELERATE, TORCHRUN], ids=["accelerate", "torchrun"])
def test_two_processes_share_work_and_the_first_of_them_speaks(program, tmp_path):
    done = launched(program, tmp_path)
    assert done.stdout == "[0, 1]\n"
    assert done.stderr.count("seen once by 2") == 1
    assert "connected at the end: False" in done.stderr  # else some abort as they end
    assert done.stderr.count("seen of 0") == done.stderr.count("seen of 1") == 1


@pytest.mark.slow
def test_accelerate_that_starts_one_of_two_is_told_on(tmp_path):
    done = launched(ONE, tmp_path)
    assert done.stdout == "[0]\n"
    assert "warning: accelerate was asked for several processes and started one" in done.stderr
    assert "it needs its option multi_gpu" in done.stderr


def test_one_process_that_was_asked_for_is_not_told_on(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # accelerate launch --num_processes 1
    lines: list[str] = []
    assert Processes.launched(say=lines.append) == Processes()
    assert lines == []


def test_others_than_the_first_are_quiet(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    note("a warning")
    note("error: mine alone", anywhere=True)
    assert capfd.readouterr().err == "error: mine alone\n"
