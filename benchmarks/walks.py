"""Through how many files does a command walk?

    python -m benchmarks.walks                        # an export, an audit, and a mitigation
    python -m benchmarks.walks export --files         # each file, and what is called in it
    python -m benchmarks.walks --checkout OLDER       # the same commands of another version

Runs each command on lab:pythia in a process of its own, and counts calls of functions in surgery/,
evals/, and cli/, in all threads: how many files they enter, and how often a call enters another
file than that of the nearest caller in these folders. A generator that goes on is a call, too. What
an import runs does not count.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("surgery", "evals", "cli")
PASSAGES = 120
"""Of the lab's records: enough for a search to hold back a half."""
_CUT = ("export", "lab:pythia", "--drop-attn", "1", "--output", "cut")
_SAMPLES = ("--samples", "samples.jsonl", "--device", "cpu")
_ATTACK = ("--attack", "greedy")
WALKS: dict[str, tuple[str, ...]] = {
    "export": _CUT,
    "audit": ("audit", "cut", "--baseline", "lab:pythia", *_SAMPLES, *_ATTACK),
    "mitigate": (
        *("mitigate", "lab:pythia", *_SAMPLES, *_ATTACK, "--grain", "blocks"),
        *(
            "--config",
            "{max-evaluations: 4}",
            "--no-benchmarks",
            "--allow-undecided",
            "--output",
            "out",
        ),
    ),
}
"""What is counted → the words after `attn-surgery`."""
_FIRST = {"audit": _CUT}
"""What has to be there, and is not counted."""
_IMPORT = "_call_with_frames_removed"  # runs a module, in importlib
ENDS = (0, 3, 4)
"""Exit codes of a command that did its work: a limit may be missed."""
COUNTED = "counted.json"
_CHILD = "import runpy, sys; runpy.run_path(sys.argv[1])['walk'](*sys.argv[2:])"


class Walk:
    """Counts calls. `entered`: file → function → how often a call came from another file."""

    def __init__(self, root: Path) -> None:
        self.entered: dict[str, Counter[str]] = {}
        self._root = f"{root}{os.sep}"
        self._known: dict[CodeType, str | None] = {}

    def __enter__(self) -> Walk:
        threading.setprofile(self._look)
        sys.setprofile(self._look)
        return self

    def __exit__(self, *raised: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _look(self, frame: FrameType, event: str, argument: Any) -> None:
        if event != "call" or (file := self._locate(frame.f_code)) is None:
            return
        if self._find_caller(frame) not in (file, _IMPORT):
            self.entered.setdefault(file, Counter())[frame.f_code.co_name] += 1

    def _find_caller(self, frame: FrameType) -> str | None:
        """The nearest file of ours above; None where there is none; `_IMPORT` while one runs."""
        nearest, above = None, frame.f_back
        while above is not None:
            if above.f_code.co_name == _IMPORT:
                return _IMPORT
            nearest = nearest or self._locate(above.f_code)
            above = above.f_back
        return nearest

    def _locate(self, code: CodeType) -> str | None:
        """The file of a function of ours, relative to the checkout."""
        if code not in self._known:
            name = code.co_filename.removeprefix(self._root)
            ours = name != code.co_filename and Path(name).parts[0] in PACKAGES
            is_function = code.co_flags & inspect.CO_OPTIMIZED  # neither a module nor a class
            self._known[code] = name if ours and is_function else None
        return self._known[code]


def walk(checkout: str, words: str) -> None:
    """Runs the command of these words (a JSON list) in this process, with modules of the checkout,
    and writes what it entered to `COUNTED`."""
    from cli.main import run

    code: Any = 0
    with Walk(Path(checkout)) as found:
        try:
            run(json.loads(words))
        except SystemExit as end:
            code = end.code
    Path(COUNTED).write_text(json.dumps(found.entered))
    sys.exit(code)


def count(name: str, checkout: Path) -> dict[str, dict[str, int]]:
    """File → function → how often a call entered it from another file, in one of `WALKS`."""
    with tempfile.TemporaryDirectory() as folder:
        records = (ROOT / "evals/lab/records.jsonl").read_text().splitlines(keepends=True)
        Path(folder, "samples.jsonl").write_text("".join(records[:: len(records) // PASSAGES]))
        own = {"PYTHONPATH": str(checkout), "HF_HUB_OFFLINE": "1", "ATTN_SURGERY_CACHE": folder}
        for words in (*([_FIRST[name]] if name in _FIRST else []), WALKS[name]):
            done = subprocess.run(
                [sys.executable, "-c", _CHILD, __file__, str(checkout), json.dumps(words)],
                cwd=folder,
                env={**os.environ, **own},
                capture_output=True,
                text=True,
            )
            if done.returncode not in ENDS:
                raise click.ClickException(f"{' '.join(words)}: {done.stderr[-2000:]}")
        found: dict[str, dict[str, int]] = json.loads(Path(folder, COUNTED).read_text())
    return found


def print_walk(name: str, entered: dict[str, dict[str, int]], *, files: bool) -> None:
    calls = {file: sum(functions.values()) for file, functions in entered.items()}
    rooms = Counter(file.split("/")[0] for file in calls)
    parts = ", ".join(f"{rooms[package]} of {package}" for package in PACKAGES)
    click.echo(f"{name:9} {len(calls):4} files ({parts}), {sum(calls.values()):7,} calls")
    for file in sorted(calls, key=lambda file: -calls[file]) if files else ():
        often = sorted(entered[file], key=lambda function: -entered[file][function])
        click.echo(f"{calls[file]:12,}  {file:42} {', '.join(often[:5])}")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(list(WALKS)))
@click.option("--checkout", default=ROOT, type=click.Path(exists=True, path_type=Path))
@click.option("--files", is_flag=True, help="Also print each file, with its calls.")
@click.option("--json", "as_json", is_flag=True, help="Print file → function → calls.")
def main(names: tuple[str, ...], checkout: Path, files: bool, as_json: bool) -> None:
    """Count the files that commands enter."""
    found = {name: count(name, checkout.resolve()) for name in names or WALKS}
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    for name, entered in found.items():
        print_walk(name, entered, files=files)


if __name__ == "__main__":
    main()
