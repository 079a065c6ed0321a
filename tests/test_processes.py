"""Launchers start as many processes as were asked for, and where they do not, that is said."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import pytest
import torch
from command_line import ACCELERATE, TORCHRUN, finish, start
from threads import by_threads

from cli.terminal import note
from evals.run.models import find_device
from surgery.errors import OutputError
from surgery.output import check_output, create_folder, write_text
from surgery.processes import (
    ALONE,
    Processes,
    current_processes,
    join_launch,
    use_processes,
)

SCRIPT = """
import atexit, sys
from cli.terminal import note
from surgery.processes import current_processes, join_launch
from torch.distributed import is_initialized
atexit.register(lambda: note(f"connected at the end: {is_initialized()}"))
join_launch(note)
processes = current_processes()
note(f"seen once by {processes.count}")
note(f"seen of {processes.rank}", anywhere=True)
ranks = processes.gather([processes.rank])
if processes.is_main:
    print(ranks)
"""
ONE = ("-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2")


def launch(program, folder):
    (folder / "script.py").write_text(SCRIPT)
    done = finish(start(folder / "script.py", program=program), timeout=120)
    assert done.code == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("program", [ACCELERATE, TORCHRUN], ids=["accelerate", "torchrun"])
def test_two_processes_share_work_and_the_first_of_them_speaks(program, tmp_path):
    done = launch(program, tmp_path)
    assert done.stdout == "[0, 1]\n"
    assert done.stderr.count("seen once by 2") == 1
    assert "connected at the end: False" in done.stderr  # else some abort as they end
    assert done.stderr.count("seen of 0") == done.stderr.count("seen of 1") == 1


@pytest.mark.slow
def test_accelerate_that_starts_one_of_two_is_told_on(tmp_path):
    done = launch(ONE, tmp_path)
    assert done.stdout == "[0]\n"
    assert "warning: accelerate was asked for several processes and started one" in done.stderr
    assert "it needs its option multi_gpu" in done.stderr


def test_one_process_that_was_asked_for_is_not_told_on(monkeypatch):
    for name in ("WORLD_SIZE", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # accelerate launch --num_processes 1
    lines: list[str] = []
    join_launch(lines.append)
    assert current_processes() == ALONE
    assert lines == []


@pytest.mark.slow
@pytest.mark.parametrize("program", [ACCELERATE, TORCHRUN], ids=["accelerate", "torchrun"])
def test_an_error_in_one_process_ends_the_others(program, tmp_path) -> None:
    """The launcher ends them, however long they would wait for it."""
    lines = ["import sys, time", "from surgery.processes import current_processes, join_launch"]
    lines += ["join_launch()", "if current_processes().rank == 1:", "    sys.exit(1)"]
    (tmp_path / "script.py").write_text("\n".join([*lines, "time.sleep(3600)"]))
    done = finish(start(tmp_path / "script.py", program=program), timeout=240)
    assert done.code != 0


@pytest.mark.parametrize(("asked", "index"), [("cpu", 0), (None, 0), ("meta", None)])
def test_a_process_has_its_own_of_several_devices(asked: str | None, index: int | None) -> None:
    """`--device cuda` would put all of them on the first GPU."""
    with use_processes(Processes(0, 1, torch.device("cpu", 0))):
        assert find_device(asked).index == index


def test_others_than_the_first_are_quiet(monkeypatch, capfd):
    monkeypatch.setenv("RANK", "1")
    note("a warning")
    note("error: mine alone", anywhere=True)
    assert capfd.readouterr().err == "error: mine alone\n"


def test_work_that_is_shared_may_call_work_that_is_shared() -> None:
    """The processes have different shares of the outer work, so each does the inner alone."""

    def double(numbers: list[int]) -> list[int]:
        return current_processes().map_in_order(lambda number: 2 * number, numbers)

    def outer(rank: int) -> object:
        processes = current_processes()
        mapped = processes.map_in_order(lambda n: double(list(range(n))), [1, 2, 3])
        return mapped, processes.once(lambda: double([5, rank]))

    assert by_threads(2, outer) == 2 * [([[0], [0, 2], [0, 2, 4]], [10, 0])]


def test_one_writes_and_all_read_what_is_written(tmp_path: Path) -> None:
    """The main process begins when no other still reads what was there before."""
    target = tmp_path / "text"
    target.write_text("old")

    def write_and_read(rank: int) -> list[str]:
        if rank:
            time.sleep(0.1)
        seen = [target.read_text()]
        write_text(target, f"by {rank}", overwrite=True)
        seen.append(target.read_text())
        with create_folder(tmp_path / "folder", lambda _: ()) as folder:
            write_text(folder / "inner", f"by {rank}")
            seen.append((folder / "inner").read_text())
        return [*seen, (tmp_path / "folder" / "inner").read_text()]

    assert by_threads(2, write_and_read) == [
        ["old", "by 0", f"by {rank}", "by 0"] for rank in range(2)
    ]
    assert {path.name for path in tmp_path.iterdir()} == {"text", "folder"}


def test_all_raise_what_the_one_that_writes_raises(tmp_path: Path) -> None:
    """None of the others waits for it."""
    (tmp_path / "there").write_text("")

    def fail(rank: int) -> list[str]:
        told = []
        for write in (partial(check_output, owned=lambda _: ()), partial(write_text, text="")):
            with pytest.raises(OutputError) as caught:
                write(tmp_path / "there")
            told.append(str(caught.value))
        return told

    first, second = by_threads(2, fail)
    assert first == second
    assert all("there: already exists" in line for line in first)
