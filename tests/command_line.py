"""Runs the command line: in this process, where imports are paid once, or in one of its own."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import pty
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import click

from benchmarks.settling import settle
from cli.main import main, run

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ("-m", "cli.main")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ACCELERATE = (  # with --cpu it starts one, however many are asked for
    *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--main_process_port", "0"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
)
TWO_PROCESSES = (*ACCELERATE, "--module", "cli.main")


@dataclass(frozen=True)
class Outcome:
    """What a user sees of a command."""

    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one JSON object on stdout; anything else there is an error."""
        return json.loads(self.stdout)

    def find_row(self, label: str, after: str = "\n") -> list[str]:
        """The cells of the one row of the printed tables that has this label.

        `after`: the title of the first table that counts.
        """
        _, _, tables = self.stdout.partition(after)
        rows = (re.split(r" {2,}", line.strip()) for line in tables.splitlines())
        (found,) = (row for row in rows if row[0] == label)
        return found

    def assert_error(self, *texts: str, notes: Sequence[str] = ()) -> None:
        """Exit code 1 and one line on stderr, which holds the texts. Nothing on stdout, or with
        --json one object that says the same.

        `notes`: how each line before it begins, where work was done first.
        """
        assert self.code == 1, self
        *said, error, end = self.stderr.split("\n")
        if self.stdout:
            parts = self.json
            assert parts.pop("exit_code") == 1
            assert set(parts) == {"error", "where", "expected", "got", "fix"}
            assert " ".join(parts["error"].split())[:900] in error
        assert (error.startswith("error: "), end) == (True, ""), self.stderr
        assert len(said) == len(notes), self.stderr
        assert all(map(str.startswith, said, notes)), self.stderr
        for text in texts:
            assert text in f"{error}\n", self.stderr


def attn_surgery(*arguments: object) -> Outcome:
    """Runs a command in this process. Settings that only a file has may be given like options."""
    return run_typed(*settle(*arguments))


def run_typed(*arguments: object) -> Outcome:
    """Runs a command in this process. Signals then do again what they did before."""
    out, err = io.StringIO(), io.StringIO()
    code: object = None
    before = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        finally:
            if threading.current_thread() is threading.main_thread():
                for one, handler in before.items():
                    signal.signal(one, handler)
    assert isinstance(code, int)
    return Outcome(code, out.getvalue(), err.getvalue())


def running(name: str) -> click.Context:
    """The context in which a command runs."""
    group = click.Context(main, info_name="attn-surgery")
    command = main.get_command(group, name)
    assert command is not None
    return click.Context(command, group, name)


def run_card(card: Path) -> list[tuple[str, Outcome]]:
    """Runs what a model card says to make the model again, line by line, in the current folder."""
    part = card.read_text().partition("## Make it again")[2].partition("<details>")[0]
    block = "\n".join(line[4:] for line in part.splitlines() if line.startswith("    "))
    done = []
    for line in block.replace("\\\n", "").splitlines():
        program, *arguments = shlex.split(line)
        if program == "attn-surgery":
            done.append((arguments[0], attn_surgery(*arguments)))
        else:
            subprocess.run(line, shell=True, check=True)
    return done


def on_terminal(columns: int, work: Callable[[], object]) -> str:
    """What work in this process prints on a pseudo-terminal of so many columns, as it stands."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    printed = list[bytes]()

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while content := os.read(ours, 65536):
                printed.append(content)

    reader, stdin = threading.Thread(target=read), os.dup(0)
    reader.start()
    environment = {"TERM": "xterm", "COLUMNS": "", "LINES": ""}
    os.dup2(theirs, 0)  # where rich looks for the size
    try:
        with (
            os.fdopen(theirs, "w") as terminal,
            contextlib.redirect_stdout(terminal),
            mock.patch.dict(os.environ, environment),
        ):
            work()
    finally:
        os.dup2(stdin, 0)
        os.close(stdin)
        reader.join()
        os.close(ours)
    return b"".join(printed).decode().replace("\r\n", "\n")


def start(
    *arguments: object, program: Sequence[str] = PROGRAM, **options: Any
) -> subprocess.Popen[str]:
    """Starts a command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, *program, *settle(*arguments)],
        stdout=options.pop("stdout", subprocess.PIPE),
        stderr=subprocess.PIPE,
        text=True,
        cwd=options.pop("cwd", ROOT),
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            **options.pop("env", {}),
        },
        **options,
    )


def finish(process: subprocess.Popen[str], *, timeout: float = 120) -> Outcome:
    out, err = process.communicate(timeout=timeout)
    return Outcome(process.returncode, out or "", err)


_SPY = """
import os, pathlib, sys

def look(event, arguments):
    if event == "open" and str(arguments[0]).endswith("model.safetensors"):
        frame = sys._getframe()
        while frame is not None and frame.f_code.co_name != "hash_file":
            frame = frame.f_back
        if frame is not None:
            pathlib.Path(__file__).with_name("by-" + os.environ.get("RANK", "0")).touch()

sys.addaudithook(look)
"""


def hashing_watched(folder: Path) -> dict[str, str]:
    """The environment in which every process that hashes weights leaves a file in the folder."""
    (folder / "sitecustomize.py").write_text(_SPY)
    return {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}


def hashed_by(folder: Path) -> list[str]:
    """`by-RANK` of those that did."""
    return sorted(path.name for path in folder.glob("by-*"))


@contextlib.contextmanager
def interrupted(owner: Any, at: int = 0, method: str = "measure") -> Iterator[list[Any]]:
    """Ctrl-C at the start of that call of `method`, from 1; 0: never. Yields the calls."""
    whole, calls = getattr(owner, method), list[Any]()

    def call(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == at:
            signal.raise_signal(signal.SIGINT)
        return whole(*arguments, **options)

    with mock.patch.object(owner, method, call):
        yield calls


@contextlib.contextmanager
def memory_below(limit: float) -> Iterator[None]:
    """Python allocates less than so many bytes at any time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below a folder, hidden ones included → SHA-256 of a file, or what else it is."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = "folder"
    return found
