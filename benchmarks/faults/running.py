"""Runs a command in a forked process, and stops it before a chosen step.

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
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE = 120  # seconds after which a run hangs
STEPS = ("open", "os.", "fcntl.", "shutil.", "socket.connect")


@dataclass(frozen=True)
class Ended:
    """How a run ended. `code` is negative for a signal; `struck`: it reached the step; `steps` and
    `modules` (what it imported) are those of a run that was not to be struck."""

    code: int
    stderr: str
    struck: bool
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
    act: Act = kill,
    prepare: Callable[[], object] = lambda: None,
) -> Ended:
    """Runs `attn-surgery LINE` in the folder `place`. Its process calls `prepare` first."""
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
    _, status = os.waitpid(pid, os.WUNTRACED)
    struck = os.WIFSTOPPED(status)
    if struck:
        act(pid)
        os.kill(pid, signal.SIGCONT)
        _, status = os.waitpid(pid, 0)
    end = json.loads(told.read_text()) if told.exists() else {"steps": 0, "modules": []}
    code, errors = os.waitstatus_to_exitcode(status), (logs / "stderr").read_text()
    return Ended(code, errors, struck, end["steps"], tuple(end["modules"]))


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
    from cli.main import run as run_command

    prepare()
    code: Any = 70
    try:
        run_command(line.split())
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
