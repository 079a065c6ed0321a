"""Compares the figures that two versions of attn-surgery print, command by command.

    python benchmarks/compare_versions.py FIRST LAST      # two checkouts
    python benchmarks/compare_versions.py FIRST LAST --model lab:pythia --model DEEP

It needs Python 3.11 or newer.

Each command runs in its own process, once with the code of each version, on the lab models, or on
the models that you name: folders, with records.jsonl, heldout.txt, and calibration.txt beside the
weights. The script compares the JSON that each command prints, and the weights that it writes,
without times, speeds, seeds, paths, and package versions. A figure has the same name in all
versions (`benchmarks/earlier_results.py`); what only one version prints is listed apart. Exit code
1 where a figure differs.
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
from earlier_results import READERS, Row

COMMANDS = (
    "export {model} --drop-attn last:2 --layout compact --output edited --json",
    "inspect edited --json",
    "verify edited --source {model} --json",
    "extract edited --baseline {model} {samples} --metrics full --json",
    "evaluate edited --baseline {model} {samples} {control} --suite lab "
    "--max-extraction 0.01 --max-drop lab_copy=0.05 --attack greedy --output evaluation --json",
    "audit edited --baseline {model} {samples} {control} --attack cheap --attack near "
    "--max any=0.05 --json",
    "sweep {model} {samples} {corpus} --variant zero --variant mean --no-last {fits} --json",
    "search {model} {samples} {corpus} --grain blocks --variant identity --variant mean {fits} "
    "--max-extraction 0.01 --output found --json",
)
"""Later ones use what earlier ones wrote."""
VARYING = {
    "versions", "created", "seconds", "tokens_per_second", "seed", "settings", "provenance",
    "config", "plan", "output", "report", "speed", "next",
}  # fmt: skip
REST = {
    "verdict", "state", "chose", "not_tried", "skipped", "warnings", "map", "units", "evaluations",
    "exhaustive", "passed_over", "num_blocks", "num_heads", "family",
    "calibration",
}  # fmt: skip
"""What results hold beside figures, in the same place in all versions."""
LABS = ("lab:pythia", "lab:gpt-neo")
IN_TEXT = re.compile(r"/\S+/(?=[^/\s]+)|(?<=seed )\d+")
FOLDER = click.Path(exists=True, file_okay=False, resolve_path=True)


def list_leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every figure of a JSON value with its path. The first of `edits` has the path of a result
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


def list_figures(command: str, result: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """What a command found: `NAME, MODEL, PASSAGES:.FIELD` → value; and the rest, by its path."""
    if command not in READERS:
        yield from list_leaves(result)
        return
    rows = list_rows(result) if "names" in result else READERS[command](result)
    for row in rows:
        at = ", ".join(row.pop(key) for key in ("name", "of", "on"))
        yield from list_leaves(row | row.pop("details", {}), f"{at}:")
    rest = take_rest(result)
    if command in ("extract", "audit"):
        rest["edits"] = [take_rest(edit) for edit in result.get("edits", [])]
    elif command == "evaluate":
        rest["edits"] = result["edits"]
    yield from list_leaves(rest)


def take_rest(result: dict[str, Any]) -> dict[str, Any]:
    return {key: one for key, one in result.items() if key in REST}


def list_rows(result: dict[str, Any]) -> Iterator[Row]:
    """The rows of a result, and its limits; the passages of a model's first row are the main
    ones."""
    found = result["figures"] + [
        one | {"name": f"limit {one['name']}", "figure": one["name"]} for one in result["limits"]
    ]
    main: dict[tuple[str, str], str | None] = {}
    for row in found:
        main.setdefault((row["name"], row["of"]), row["on"])
    roles = list_roles(result)
    for row in found:
        first = main[row.pop("figure", row["name"]), row["of"]]
        on = "main" if row["on"] in (None, first) else row["on"]
        for role in roles.get(row["of"], [row["of"]]):
            yield row | {"on": on, "of": role}


def list_roles(result: dict[str, Any]) -> dict[str, list[str]]:
    """Edit of a grid → what it is called in every version."""
    roles: dict[str, list[str]] = {}
    if result["command"] == "sweep":
        for kind, prefix in (("edits", ""), ("estimates", "unit ")):
            for edit in result[kind]:
                roles[edit["of"]] = [f"{prefix}{edit['spec']} {edit['variant']}"]
    elif result["command"] == "search":
        measured = [edit["of"] for edit in result["edits"] if edit["of"].count("-") == 1]
        measured = [of for of in measured if of != result["deep_blocks"]]
        named = [(key, result[key]) for key in ("selected", "nearest", "deep_blocks")]
        for key, each in (("front", result["front"]), ("measured", measured)):
            named += [(f"{key} {place}", of) for place, of in enumerate(each, 1)]
        for role, of in named:
            roles.setdefault(of, []).append(role)
    return roles


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
        if done.returncode in (0, 3, 4):  # done, whatever the limits
            told = list_figures(words[0], json.loads(done.stdout))
            found |= {f"{name}: {path}": value for path, value in told}
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
    both = before.keys() & after.keys()
    differing = sorted(key for key in both if before[key] != after[key])
    shared = {key.partition(":.")[0] for key in both}
    for name, found in (("FIRST", before), ("LAST", after)):
        for figure in sorted({key.partition(":.")[0] for key in found} - shared):
            click.echo(f"only in {name}: {figure}")
    for key in differing:
        click.echo(f"{key}: {str(before[key])[:60]} -> {str(after[key])[:60]}")
    click.echo(f"{len(both)} shared figures; {len(differing)} differ")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
