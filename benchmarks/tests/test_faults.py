"""Contract: struck at any moment, a command leaves nothing, the old result, or the new one.

A few trials of `benchmarks.faults` (docs/who-can-undo-it.md says what it strikes), and proof that
they see a result that is half written.
"""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from command_line import ROOT

from benchmarks.faults.commands import CHAINS, COMMANDS, UNSTRUCK
from benchmarks.faults.trial import find_differences
from cli.main import COMMANDS as KNOWN
from cli.main import main


def test_every_command_that_writes_is_struck_or_says_why_not() -> None:
    """Those that write have an option that names where."""
    context = click.Context(main)
    writing = {
        name
        for name in KNOWN
        if (found := main.get_command(context, name))
        and any("--output" in option.opts for option in found.params)
    }
    assert {*COMMANDS, *UNSTRUCK} == writing | {"push"}
    assert not COMMANDS.keys() & UNSTRUCK.keys()
    assert all(command.line.startswith(f"{name} ") for name, command in COMMANDS.items())
    assert {line.split()[0] for command in CHAINS.values() for line in command.lines} <= writing


def run_faults(*program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, text=True)


@pytest.mark.slow
def test_a_few_faults() -> None:
    names = [word for name in ("export", "collect", "push") for word in ("--command", name)]
    program = ("-m", "benchmarks.faults", "--kills", "6", "--faults", "1", "--seed", "7")
    done = run_faults(*program, *names)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "12 faults, seed 7, 0 failures, " in done.stdout


@pytest.mark.slow
def test_a_chain_of_steps_goes_on_where_it_was_killed() -> None:
    program = ("-m", "benchmarks.faults", "--kills", "4", "--faults", "0", "--command", "chain")
    done = run_faults(*program)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 faults, seed 0, 0 failures, " in done.stdout


NOT_WHOLE = """
import os, signal, sys
sys.path[:0] = [os.getcwd(), "tests"]
from benchmarks.faults import __main__ as faults, trial

run, rename, struck = trial.run, os.replace, False

def run_and_strike(*arguments, step=None, seconds=None, **options):  # only where `replace` stops
    global struck
    struck = step is not None or seconds is not None
    return run(*arguments, step=10**9 if struck else None, **options)

def replace(partial, target, **options):  # a folder appears first, then what is in it
    if not os.path.isdir(partial) or os.path.basename(target) != "out":
        return rename(partial, target, **options)
    os.mkdir(target)
    for name in sorted(os.listdir(partial)):
        rename(os.path.join(partial, name), os.path.join(target, name))
        if struck:
            os.kill(os.getpid(), signal.SIGSTOP)

trial.run, os.replace, os.rename = run_and_strike, replace, replace
faults.main(["--kills", "1", "--faults", "0", "--seed", "2", "--command", "export"])
"""


@pytest.mark.slow
def test_a_half_written_result_is_a_failure() -> None:
    done = run_faults("-c", NOT_WHOLE)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "under the final name is neither old nor new: " in done.stderr


def test_results_that_hold_times_are_compared_by_their_words() -> None:
    found = {"file": b"took 1.5 s"}
    other = {"file": b"took 1.6 s"}
    assert find_differences(other, (found, found)) == ["file"]
    assert find_differences(other, (found, {"file": b"took 1.7 s"})) == []
    assert find_differences({"other": b""}, (found, other)) == ["file", "other"]
    one, two = ({"log": took, "weights": b"1"} for took in (b"1.5 s", b"1.6 s"))
    assert find_differences({**two, "weights": b"2"}, (one, two)) == ["weights"]
