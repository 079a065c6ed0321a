"""Runs a command in a forked process, and stops it before a chosen step, or kills it after a time.

A step is what the interpreter is about to do to a file of the place, or to a connection: an audit
hook counts them. What a command imports was imported before the fork, once.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 300  # seconds after which a run hangs
STEPS = ("open", "os.", "fcntl.", "shutil.", "socket.connect")


@dataclass(frozen=True)
class Ended:
    """How a run ended. `code` is negative for a signal; `struck`: it reached the step, or the time;
    `steps` and `modules` (what it imported) are those of a run that was not to be struck."""

    code: int
    stderr: str
    struck: bool
    seconds: float
    steps: int
    modules: tuple[str, ...]


Act = Callable[[int], object]
"""What happens at the step, to the process of this number."""


def kill(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


def run(
    line: str,
    place: Path,
    *,
    logs: Path,
    step: int | None = None,
    seconds: float | None = None,
    act: Act = kill,
    prepare: Callable[[], object] = lambda: None,
) -> Ended:
    """Runs `attn-surgery LINE` in the folder `place`. Its process calls `prepare` first, and is
    killed after `seconds`."""
    begun = time.monotonic()
    told = logs / "told.json"
    told.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            _run_in_child(line, place, logs, step, prepare)
        except BaseException:  # must not come back into the harness
            traceback.print_exc()
        finally:
            os._exit(70)
    with contextlib.suppress(OSError):  # it does so, too; who comes first is chance
        os.setpgid(pid, pid)
    status = _wait(pid, seconds)
    struck = status is None or os.WIFSTOPPED(status)
    if status is None:
        kill(pid)
        _, status = os.waitpid(pid, 0)
    elif struck:
        act(pid)
        os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
    end = json.loads(told.read_text()) if told.exists() else {"steps": 0, "modules": []}
    code, errors = os.waitstatus_to_exitcode(status), (logs / "stderr").read_text()
    took = time.monotonic() - begun
    return Ended(code, errors, struck, took, end["steps"], tuple(end["modules"]))


def _wait(pid: int, seconds: float | None) -> int | None:
    """The status of a process that has ended or stopped; None after `seconds`."""
    if seconds is None:
        return os.waitpid(pid, os.WUNTRACED)[1]
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(pid, os.WUNTRACED | os.WNOHANG)
        if found:
            return status
        time.sleep(0.002)
    return None


def import_all(modules: Iterable[str]) -> None:
    """Imports what a run has imported, so that the next ones need not."""
    for name in modules:
        with contextlib.suppress(Exception):  # made while running, or for another system
            importlib.import_module(name)


def _run_in_child(
    line: str, place: Path, logs: Path, step: int | None, prepare: Callable[[], object]
) -> None:
    os.setpgid(0, 0)
    signal.alarm(PATIENCE)
    for number, name in ((1, "stdout"), (2, "stderr")):
        os.dup2(os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ["PATH"] = "/nonexistent"  # lm-eval asks other programs about the machine, for long
    os.chdir(place)
    before = set(sys.modules)
    steps = _count_steps(place, step)
    from benchmarks.settling import settle
    from cli.main import run as run_command

    prepare()
    code: Any = 70
    try:
        run_command(settle(*line.split()))
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    signal.alarm(0)
    if step is None:
        modules = [name for name in sys.modules if name not in before]
        with contextlib.suppress(OSError):  # where files may not be large
            (logs / "told.json").write_text(json.dumps({"steps": steps[0], "modules": modules}))
    os._exit(code)


def _count_steps(place: Path, stop: int | None) -> list[int]:
    """Counts from here on, and stops this process before step `stop`."""
    steps, here = [0], str(place)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not event.startswith(STEPS):
            return
        if not event.startswith(("socket", "fcntl")):
            path = arguments[0] if arguments else None
            if not isinstance(path, str | bytes):
                return
            path = os.fsdecode(path)
            if path.startswith("/") and not path.startswith(here):
                return
        steps[0] += 1
        if steps[0] - 1 == stop:
            os.kill(os.getpid(), signal.SIGSTOP)

    sys.addaudithook(hook)
    return steps
