"""Whether two versions of the tool print the same figures: every command, on the embedded models.

    python benchmarks/same_figures.py FIRST LAST     # two commits of this repository

Each command runs in a process of its own, once with the code of either commit, in a fresh folder.
Its JSON and the files that it writes (JSON, CSV, weights) are compared value by value. Times (also
in the names of lm-eval's files), speeds, memory, random seeds, where the code lies and the versions
of packages are left out. Exit code 1 where anything differs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

COMMANDS = {
    "export": "export lab:pythia --drop-attn 4-5 --output edited --json",
    "export, one head, compact": "export lab:gpt-neo --drop-attn 3.1,4 --variant linear --layout "
    "compact --output linear --json",
    "export, shards": "export lab:pythia --drop-attn -1 --variant mean --max-shard-size 1MB "
    "--output mean --json",
    "inspect": "inspect edited --json",
    "verify": "verify edited --source lab:pythia --json",
    "verify, compact": "verify linear --source lab:gpt-neo --json",
    "extract": "extract edited --baseline lab:pythia --samples lab:pythia --metrics full --rows "
    "rows.jsonl --json",
    "collect": "collect lab:pythia --corpus text.txt --output found.jsonl --json",
    "evaluate": "evaluate edited --baseline lab:pythia --limit 40 --output evaluation --json",
    "sweep": "sweep lab:gpt-neo --samples lab:gpt-neo --variant zero --variant mean --output swept "
    "--json",
    "sweep, estimates and bounds": "sweep lab:pythia --samples lab:pythia --variant identity "
    "--estimate --bounds --json",
    "search": "search lab:pythia --samples lab:pythia --variant identity --grain blocks "
    "--max-extraction 0.01 --output found --json",
    "bench": "bench lab:pythia edited --rounds 3 --json",
    "reproduce": "reproduce edited --json",
    "demo": "demo --output story --json",
}
"""Later ones use what earlier ones wrote."""
LEFT_OUT = {
    "versions", "created", "seconds", "tokens_per_second", "prefill_tokens_per_second",
    "decode_tokens_per_second", "peak_memory_bytes", "speed", "seed", "manifest_sha256",
    "date", "start_time", "end_time", "total_evaluation_time_seconds",
}  # fmt: skip

VARYING = re.compile(r"_\d{4}-\d\d-\d\dT[\d.-]+(?=\.json)|(?<=seed )\d+|/\S+/(?=code/)")


def values(record: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a JSON value with its path, what differs from run to run left out."""
    if isinstance(record, dict):
        for key in sorted(record.keys() - LEFT_OUT):
            yield from values(record[key], f"{path}.{key}")
    elif isinstance(record, list):
        for index, item in enumerate(record):
            yield from values(item, f"{path}[{index}]")
    elif isinstance(record, str):
        yield path, VARYING.sub("", record)
    else:
        yield path, record


def figures(code: Path, work: Path) -> dict[str, Any]:
    """Everything that the commands print and write with the code of a folder."""
    (work / "text.txt").write_text("\n".join(map(str, range(3000))) + "\n")
    environment = {**os.environ, "PYTHONPATH": str(code), "OMP_NUM_THREADS": "1"}
    environment["ATTN_SURGERY_CACHE"] = str(work / "cache")
    found: dict[str, Any] = {}
    for name, line in COMMANDS.items():
        run = subprocess.run(
            [sys.executable, "-P", "-m", "cli.main", *line.split()],
            cwd=work, env=environment, capture_output=True, text=True,
        )  # fmt: skip
        found[f"{name}: exit code"] = run.returncode
        if run.returncode not in (0, 3):
            found[f"{name}: error"] = run.stderr.strip().splitlines()[-1:]
            continue
        for path, value in values(json.loads(run.stdout)):
            found[f"{name}: {path}"] = value
    for file in sorted(work.rglob("*")):
        where = VARYING.sub("", str(file.relative_to(work)))
        if file.suffix == ".safetensors":
            found[where] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.suffix in (".json", ".jsonl") and "cache" not in where:
            for number, line in enumerate(
                file.read_text().splitlines() if file.suffix == ".jsonl" else [file.read_text()]
            ):
                found.update((f"{where}:{number}{p}", v) for p, v in values(json.loads(line)))
        elif file.suffix == ".csv":
            found[where] = file.read_text()
    return found


@click.command()
@click.argument("first")
@click.argument("last")
def main(first: str, last: str) -> None:
    """Compare the figures of every command at two commits."""
    with tempfile.TemporaryDirectory() as temporary:
        places = []
        for name, commit in (("first", first), ("last", last)):
            code, work = Path(temporary, name, "code"), Path(temporary, name, "work")
            work.mkdir(parents=True)
            code.mkdir()
            archive = subprocess.run(["git", "archive", commit], check=True, capture_output=True)
            subprocess.run(["tar", "-x", "-C", str(code)], input=archive.stdout, check=True)
            places.append((code, work))
        with ThreadPoolExecutor(len(places)) as pool:
            before, after = pool.map(lambda place: figures(*place), places)
    different = {key for key in before.keys() & after.keys() if before[key] != after[key]}
    for title, keys in (
        ("different", different),
        ("only in the first", before.keys() - after.keys()),
        ("only in the last", after.keys() - before.keys()),
    ):
        click.echo(f"{title}: {len(keys)}")
        for where, number in sorted(Counter(key.partition(":")[0] for key in keys).items()):
            click.echo(f"  {number:6} of {where}")
        for key in sorted(keys)[:40]:
            click.echo(f"  {key}: {before.get(key)!r} -> {after.get(key)!r}")
    click.echo(f"the same: {len(before.keys() & after.keys()) - len(different)}")
    sys.exit(1 if before != after else 0)


if __name__ == "__main__":
    main()
