"""Runs commands against a server of the Hub's protocol, with a cache of their own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from packaging.version import Version

TOKEN = "hf_secretsecretsecretsecretsecret"
TAKES_UP = Version(version("huggingface_hub")) >= Version("1.27")
"""Whether the client tries again after a connection was cut. Older ones may say that it failed."""

# Runs commands one after another in one process, as `attn-surgery` would each of them.
DRIVER = """
import contextlib, io, json, os, sys, time
from cli.main import run
for line in sys.stdin:
    arguments, token, folder = json.loads(line)
    os.chdir(folder)
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    out, err, start = io.StringIO(), io.StringIO(), time.monotonic()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            run(arguments)
        except SystemExit as ending:
            code = ending.code
    seconds = time.monotonic() - start
    print(json.dumps([code, out.getvalue(), err.getvalue(), seconds]), flush=True)
"""


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str
    seconds: float


Commands = Callable[..., list[Result]]


def environment_of(folder: Path, endpoint: str, **environment: str) -> dict[str, str]:
    """Variables for a process that takes the server for the Hub, with a cache in `folder`."""
    kept = {
        key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))
    }
    return {
        **kept,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(folder / "cache"),
        "HF_HUB_DISABLE_XET": "1",
        **environment,
    }


@contextmanager
def session(folder: Path, endpoint: str, **environment: str) -> Iterator[Commands]:
    """A runner of commands in one process, in `folder` or another that a call names, with a cache
    of its own in `folder`."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            cwd=folder,  # where modules are found
            env=environment_of(folder, endpoint, PYTHONWARNINGS="error", **environment),
        )
        assert process.stdin is not None
        assert process.stdout is not None

        def run(*lines: str, token: str | None = None, at: Path = folder) -> list[Result]:
            results = []
            for line in lines:
                process.stdin.write(json.dumps((line.split(), token, str(at))) + "\n")
                process.stdin.flush()
                answer = process.stdout.readline()
                errors.seek(0)
                assert errors.read() == "", "nothing but what the commands print"
                assert TOKEN not in answer
                results.append(Result(*json.loads(answer)))
            return results

        try:
            yield run
        finally:
            process.stdin.close()
            process.stdout.close()
            process.wait(60)


def commands(folder: Path, endpoint: str, **environment: str) -> Commands:
    """As `session`, with a process for each call."""

    def run(*lines: str, token: str | None = None) -> list[Result]:
        with session(folder, endpoint, **environment) as run:
            return run(*lines, token=token)

    return run


def error(result: Result) -> str:
    """The one line of a command that failed."""
    assert result.code == 1
    assert result.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", result.err), result.err
    return result.err.removeprefix("error: ").rstrip("\n")
