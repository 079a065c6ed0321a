"""Contract: struck at any moment, a command leaves nothing, the old result or the new one.

A few trials of `benchmarks.faults` (docs/robustness.md has the figures of many), and that it sees
what must not be.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ROOT

from benchmarks.faults.checking import Reference, files_at
from benchmarks.faults.commands import COMMANDS
from cli.main import COMMANDS as KNOWN


def test_the_table_names_commands() -> None:
    for name, command in COMMANDS.items():
        assert name in KNOWN
        assert command.line.startswith(f"{name} ")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["export", "collect", "push"])
def test_a_few_faults(name: str) -> None:
    command = ["-m", "benchmarks.faults", "--kills", "6", "--faults", "1", "--seed", "7"]
    done = subprocess.run(
        [sys.executable, *command, "--command", name], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert ", 0 failures, " in done.stdout
    assert f"| `{name}` | 6 | " in done.stdout


NOT_WHOLE = """
import os, signal, sys
sys.path[:0] = [os.getcwd(), "tests"]
from benchmarks.faults import __main__ as faults, trial
from surgery import output

at_random, to_be_struck = trial.run, False

def run(*arguments, moment=None, **options):  # struck where `publish` stops, and nowhere else
    global to_be_struck
    to_be_struck = moment is not None
    return at_random(*arguments, moment=moment and trial.Moment(step=10**9), **options)

def publish(partial, target):  # a folder appears first, then what is in it
    target.mkdir(exist_ok=True)
    for path in sorted(partial.iterdir()):
        path.replace(target / path.name)
        if to_be_struck:
            os.kill(os.getpid(), signal.SIGSTOP)

trial.run, output.publish = run, publish
faults.main(["--kills", "1", "--faults", "0", "--command", "export"])
"""


@pytest.mark.slow
def test_what_must_not_be_is_seen() -> None:
    done = subprocess.run(
        [sys.executable, "-c", NOT_WHOLE], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "under the final name is neither old nor new: " in done.stderr


def test_a_result_is_compared_by_bytes_or_where_it_holds_times_by_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"took 1.5 s")
    found = files_at(tmp_path)
    assert found == {"file": b"took 1.5 s"}
    exact = Reference(found, found)
    assert exact.different({"file": b"took 1.6 s"}) == ["file"]
    timed = Reference(found, {"file": b"took 1.7 s"})
    assert timed.different({"file": b"took 1.6 s"}) == []
    assert timed.different({"file": b"took 1.6"}) == ["file"]
    assert timed.different({"other": b""}) == ["file", "other"]
    assert files_at(tmp_path / "none") is None
