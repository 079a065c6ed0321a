"""Strikes every command at random moments and prints what became of it, as two tables.

    python -m benchmarks.faults                         # 500 kills, and the other faults
    python -m benchmarks.faults --kills 20 --faults 2 --command export --seed 3

The models are tiny and everything is imported once, so that a kill and the run that follows take a
second or two. Where root may mount a file system, all takes place on a small one in memory; else
a limit on the size of files stands for a full disk. Exit code 1 where anything went wrong.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from benchmarks.faults.commands import COMMANDS  # noqa: E402
from benchmarks.faults.hub import hub  # noqa: E402
from benchmarks.faults.place import TOKEN, make_place  # noqa: E402
from benchmarks.faults.trial import ROOM, Ground, Outcome, Struck  # noqa: E402

FAULTS = {
    "full": "disk full",
    "permissions": "permissions removed",
    "source": "source changed",
}


def trials(
    commands: list[str], kills: int, faults: int, seed: int, root: Path
) -> dict[str, list[Outcome]]:
    """Command → outcomes. `kills` of all commands together, `faults` of each command and kind."""
    found: dict[str, list[Outcome]] = {}
    with ExitStack() as stack:
        url = stack.enter_context(hub())
        os.environ |= {
            "HF_ENDPOINT": url,
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(root / "hub"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_DATASETS_OFFLINE": "1",
            "ATTN_SURGERY_CACHE": str(root / "cache"),
            "TOKENIZERS_PARALLELISM": "false",
            "OMP_NUM_THREADS": "1",
            "MKL_NUM_THREADS": "1",
        }
        os.environ.pop("HF_HUB_OFFLINE", None)
        logs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ground = Ground(root, root / "pristine", url, logs, _mounted(root, stack))
        make_place(ground.pristine)
        for number, name in enumerate(commands):
            struck = Struck(name, COMMANDS[name], ground)
            share = kills // len(commands) + (number < kills % len(commands))
            for fault, times in (("kill", share), *((kind, faults) for kind in FAULTS)):
                chance = random.Random(f"{seed} {name} {fault}")
                for _ in range(times):
                    outcome = struck.strike(fault, chance)
                    found.setdefault(name, []).append(outcome)
                    for problem in outcome.problems:
                        click.echo(f"{name}, {fault} at {outcome.moment}: {problem}", err=True)
    return found


def _mounted(root: Path, stack: ExitStack) -> bool:
    """Makes `root` a small file system of its own where that may be done."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(root)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    stack.callback(subprocess.run, ["umount", "--lazy", str(root)], check=True)
    return True


def tables(found: dict[str, list[Outcome]]) -> str:
    """Of the kills, then of the other faults, in Markdown."""
    lines = [
        "| killed | runs | too late | left nothing | left the old | left the new | begun "
        "| failures |"
    ]
    lines.append("|---" * 8 + "|")
    for name, outcomes in found.items():
        kills = [outcome for outcome in outcomes if outcome.fault == "kill"]
        after = Counter(outcome.after for outcome in kills if outcome.struck)
        late = sum(not outcome.struck for outcome in kills)
        failures = sum(bool(outcome.problems) for outcome in kills)
        cells = [
            len(kills),
            late,
            after["nothing"],
            after["old"],
            after["new"],
            after["begun"],
            failures,
        ]
        lines.append(f"| `{name}` | " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| fault | runs | refused | done | failures |", "|---|---|---|---|---|"]
    for fault, title in FAULTS.items():
        of_kind = [o for outcomes in found.values() for o in outcomes if o.fault == fault]
        cells = [
            len(of_kind),
            sum(outcome.code == 1 for outcome in of_kind),
            sum(outcome.code == 0 for outcome in of_kind),
            sum(bool(outcome.problems) for outcome in of_kind),
        ]
        lines.append(f"| {title} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


@click.command()
@click.option("--kills", default=500, show_default=True, help="Of all commands together.")
@click.option("--faults", default=10, show_default=True, help="Of each other kind and command.")
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--command", "commands", multiple=True, type=click.Choice(list(COMMANDS)), help="[default: all]"
)
def main(kills: int, faults: int, seed: int, commands: tuple[str, ...]) -> None:
    """Strike every command at random moments, and check what is left."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as root:
        found = trials(list(commands or COMMANDS), kills, faults, seed, Path(root))
    outcomes = [outcome for of_one in found.values() for outcome in of_one]
    failures = sum(bool(outcome.problems) for outcome in outcomes)
    click.echo(tables(found))
    struck = sum(outcome.struck for outcome in outcomes if outcome.fault == "kill")
    click.echo(
        f"\n{struck} kills that met a running command, {len(outcomes)} faults, seed {seed}, "
        f"{failures} failures, {time.monotonic() - begun:,.0f} s"
    )
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
