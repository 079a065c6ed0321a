"""Compares the figures that two versions of attn-surgery print, command by command.

    python benchmarks/compare_versions.py FIRST LAST      # two checkouts
    python benchmarks/compare_versions.py FIRST LAST --model lab:pythia --model DEEP

It needs Python 3.11 or newer.

Each command runs in its own process, once with the code of each version, on the lab models, or on
the models that you name: folders, with records.jsonl, heldout.txt, and calibration.txt beside the
weights. The script compares the JSON that each command prints, and the weights that it writes,
without times, speeds, seeds, paths, and package versions. Exit code 1 where a figure differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

COMMANDS = (
    "export {model} --drop-attn last:2 --layout compact --output edited --json",
    "inspect edited --json",
    "verify edited --source {model} --json",
    "extract edited --baseline {model} {samples} --metrics full --json",
    "evaluate edited --baseline {model} {samples} {control} --suite lab --limit 40 --no-cache "
    "--output evaluation --json",
    "audit edited --baseline {model} {samples} {control} --attack cheap --attack near --json",
    "sweep {model} {samples} {corpus} --variant zero --variant mean --no-last {fits} --json",
    "search {model} {samples} {corpus} --grain blocks --variant identity --variant mean {fits} "
    "--max-extraction 0.01 --output found --json",
)
"""Later ones use what earlier ones wrote."""
VARYING = {
    "versions", "created", "seconds", "tokens_per_second", "seed", "settings", "provenance",
    "config", "plan", "output", "report", "speed", "next",
}  # fmt: skip
LABS = ("lab:pythia", "lab:gpt-neo")
IN_TEXT = re.compile(r"/\S+/(?=[^/\s]+)|(?<=seed )\d+")
FOLDER = click.Path(exists=True, file_okay=False, resolve_path=True)


def list_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure of a JSON value with its path. The first of `edits` has the path of a report
    that knows one edit only."""
    if isinstance(value, dict):
        for key in sorted(value.keys() - VARYING):
            yield from list_leaves(value[key], f"{path}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            single = path == ".edits" and len(value) == 1
            yield from list_leaves(item, "" if single else f"{path}[{index}]")
    else:
        yield path, IN_TEXT.sub("", value) if isinstance(value, str) else value


def options_for(model: str) -> dict[str, str]:
    """What a command is told about a model. A lab model brings its own samples and texts."""
    text = "" if model in LABS else str(Path(model).resolve())
    return {
        "model": text or model,
        "samples": f"--samples {text}/records.jsonl" if text else f"--samples {model}",
        "control": text and f"--control {text}/heldout.txt",
        "corpus": text and f"--corpus {text}/heldout.txt",
        "fits": text and f"--calibration {text}/calibration.txt",
    }


def run_commands(code: str, model: str, work: Path) -> dict[str, Any]:
    """Figures that the code in a folder gives for a model: `COMMAND: PATH` → value."""
    work.mkdir(parents=True)
    environment = {**os.environ, "PYTHONPATH": code, "OMP_NUM_THREADS": "1"}
    environment["ATTN_SURGERY_CACHE"] = str(work / "cache")
    found: dict[str, Any] = {}
    for template in COMMANDS:
        words = template.format(**options_for(model)).split()
        program = [sys.executable, "-P", "-m", "cli.main", *words]
        done = subprocess.run(program, cwd=work, env=environment, capture_output=True, text=True)
        name = f"{Path(model).name} {words[0]}"
        found[f"{name}: exit code"] = done.returncode
        if done.returncode in (0, 3):
            found |= {f"{name}: {path}": v for path, v in list_leaves(json.loads(done.stdout))}
        else:
            found[f"{name}: error"] = done.stderr.strip().splitlines()[-1:]
    for file in sorted(work.glob("edited/*.safetensors")):
        found[f"{model} {file.name}: sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@click.command()
@click.argument("first", type=FOLDER)
@click.argument("last", type=FOLDER)
@click.option("--model", "models", multiple=True, default=LABS, show_default=True)
def main(first: str, last: str, models: tuple[str, ...]) -> None:
    """Print every figure that differs between the checkouts FIRST and LAST."""
    before, after = dict[str, Any](), dict[str, Any]()
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(2) as pool:
        for model in models:
            works = [Path(temporary, name, Path(model).name) for name in ("first", "last")]
            one, other = pool.map(run_commands, (first, last), [model] * 2, works)
            before |= one
            after |= other
    differing = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    for key in sorted(differing):
        values = [str(some.get(key, "absent")) for some in (before, after)]
        click.echo(f"{key}: {values[0][:60]} -> {values[1][:60]}")
    click.echo(f"{len(before.keys() & after.keys())} shared figures; {len(differing)} differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
