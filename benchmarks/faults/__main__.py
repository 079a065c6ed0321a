"""Strikes commands that write, at random moments, and prints what became of it as a table.

    python -m benchmarks.faults                         # 500 kills, and the other faults
    python -m benchmarks.faults --kills 20 --faults 2 --command export --seed 3

The models are tiny and everything is imported once, so that a fault and the run that follows take a
second or two. A limit on the size of files stands for a full disk. Exit code 1 for any failure.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.faults.commands import CHAINS, COMMANDS  # noqa: E402
from benchmarks.faults.place import TOKEN, make_place, run_hub  # noqa: E402
from benchmarks.faults.trial import FAULTS, Ground, Outcome, Trials  # noqa: E402

ROWS = COMMANDS | CHAINS
AFTER = ("nothing", "old", "new", "changed", "begun")


def strike_all(
    commands: list[str], kills: int, faults: int, seed: int, ground: Ground
) -> dict[tuple[str, str], list[Outcome]]:
    """(Command, fault) → outcomes: `kills` of all commands together, `faults` of each other."""
    make_place(ground.pristine)
    ground.logs.mkdir()
    found: dict[tuple[str, str], list[Outcome]] = {}
    for number, name in enumerate(commands):
        trials = Trials(name, ROWS[name], ground)
        share = kills // len(commands) + (number < kills % len(commands))
        for fault in FAULTS:
            if fault == "source" and ROWS[name].source is None:
                continue
            chance = random.Random(f"{seed} {name} {fault}")
            times = share if fault == "kill" else faults
            found[name, fault] = []
            for _ in range(times):
                outcome = trials.strike(fault, chance)
                found[name, fault].append(outcome)
                for problem in outcome.problems:
                    click.echo(f"{name}, {fault} at {outcome.moment}: {problem}", err=True)
    return found


def render_table(found: dict[tuple[str, str], list[Outcome]]) -> str:
    """Markdown: for each command and fault what lay under the final name afterwards."""
    lines = [
        f"| command | fault | runs | done | {' | '.join(AFTER)} | failures |",
        "|---" * 10 + "|",
    ]
    for (name, fault), outcomes in found.items():
        after = Counter(outcome.after for outcome in outcomes)
        done = sum(outcome.code == 0 for outcome in outcomes)
        failures = sum(bool(outcome.problems) for outcome in outcomes)
        cells = [len(outcomes), done, *(after[state] for state in AFTER), failures]
        lines.append(f"| `{name}` | {FAULTS[fault]} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


@click.command()
@click.option("--kills", default=500, show_default=True, help="Of all commands together.")
@click.option("--faults", default=10, show_default=True, help="Of each other kind and command.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--command", "commands", multiple=True, type=click.Choice(list(ROWS)), help="[default: all]"
)
def main(kills: int, faults: int, seed: int, commands: tuple[str, ...]) -> None:
    """Strike every command at random moments, and check what is left."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as root, run_hub() as url:
        os.environ |= {
            "HF_ENDPOINT": url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": f"{root}/hub",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_DATASETS_OFFLINE": "1",
            "ATTN_SURGERY_CACHE": f"{root}/cache",
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        os.environ.pop("HF_HUB_OFFLINE", None)
        ground = Ground(Path(root), url)
        found = strike_all(list(commands or ROWS), kills, faults, seed, ground)
    outcomes = [outcome for some in found.values() for outcome in some]
    failures = sum(bool(outcome.problems) for outcome in outcomes)
    click.echo(render_table(found))
    seconds = time.monotonic() - begun
    click.echo(f"\n{len(outcomes)} faults, seed {seed}, {failures} failures, {seconds:,.0f} s")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
