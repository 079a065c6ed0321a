"""A command in a forked process, struck at a moment. What it imports was imported before, once.

A moment is an amount of the processor's time, or a step: what the interpreter is about to do to a
file of the place or to a connection. Steps come again at the same place with the same seed; times
meet what lies between, and a busy machine does not move them.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PATIENCE = 120  # seconds after which a run hangs
STEPS = ("open", "os.", "fcntl.", "shutil.", "socket.connect")
_CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_OVERRIDES = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH: root reads and writes anything


@dataclass(frozen=True)
class Moment:
    """After so many seconds of the processor's time, or before a step, counted from 0."""

    seconds: float | None = None
    step: int | None = None

    def __str__(self) -> str:
        return f"step {self.step}" if self.seconds is None else f"{self.seconds:.3f} s"


@dataclass(frozen=True)
class Ran:
    """How a run ended. `code` is negative for a signal; `seconds` are the processor's; `struck`: it
    was still there to be struck;
    `steps` and `modules` are those of a run that came to its end."""

    code: int
    stderr: str
    seconds: float
    struck: bool
    steps: int
    modules: tuple[str, ...]


Act = Callable[[int], None]
"""What happens at the moment, to the process of this number."""


def kill(pid: int) -> None:
    os.killpg(pid, signal.SIGKILL)


def run(
    line: str,
    place: Path,
    *,
    moment: Moment | None = None,
    act: Act = kill,
    logs: Path,
    prepare: Callable[[], None] = lambda: None,
) -> Ran:
    """Runs `attn-surgery LINE` in the folder `place`; `prepare` is called in its process first.

    What it prints goes to the folder `logs`, which must have room.
    """
    told = logs / "told.json"
    told.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        try:
            _child(line, place, logs, moment, prepare)
        except BaseException:  # must not come back into the harness
            traceback.print_exc()
        finally:
            os._exit(70)
    struck = False
    with contextlib.suppress(ProcessLookupError):
        os.setpgid(pid, pid)
    if moment is not None and moment.seconds is not None:
        child = psutil.Process(pid)
        while struck := os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            if sum(child.cpu_times()[:2]) >= moment.seconds:
                act(pid)
                break
            time.sleep(0.001)
    _, status, used = os.wait4(pid, os.WUNTRACED)
    if os.WIFSTOPPED(status):
        struck = True
        act(pid)
        os.kill(pid, signal.SIGCONT)
        _, status, used = os.wait4(pid, 0)
    seconds = used.ru_utime + used.ru_stime
    end = json.loads(told.read_text()) if told.exists() else {"steps": 0, "modules": []}
    errors = (logs / "stderr").read_text()
    code = os.waitstatus_to_exitcode(status)
    return Ran(code, errors, seconds, struck, end["steps"], tuple(end["modules"]))


def import_all(modules: tuple[str, ...]) -> None:
    """Imports what a run has imported, so that the next ones need not."""
    for name in modules:
        with contextlib.suppress(Exception):  # made while running, or for another system
            importlib.import_module(name)


def without_overrides() -> None:
    """For `prepare`: permissions hold for this process even where it runs as root."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITIES, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable: low words, then high
    if libc.capget(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~_OVERRIDES
    sets[1] &= ~_OVERRIDES
    if libc.capset(header, sets) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _child(
    line: str, place: Path, logs: Path, moment: Moment | None, prepare: Callable[[], None]
) -> None:
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    signal.alarm(PATIENCE)
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(logs / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, number)
        os.close(file)
    os.environ["PATH"] = "/nonexistent"  # lm-eval asks other programs about the machine, for long
    os.chdir(place)
    before = set(sys.modules)
    steps = _count_steps(place, None if moment is None else moment.step)
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
    if moment is None:
        modules = [name for name in sys.modules if name not in before]
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
            if not (path.startswith(here) or not path.startswith("/")):
                return
        if steps[0] == stop:
            steps[0] += 1
            os.kill(os.getpid(), signal.SIGSTOP)
            return
        steps[0] += 1

    sys.addaudithook(hook)
    return steps
