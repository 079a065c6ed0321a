"""Prints what `__main__.py` measured as a Markdown table: one run, or the same with several seeds.

    python -m benchmarks.rivals.table RIVALS-0 RIVALS-1 RIVALS-2

Of several runs, a cell has the median, and the least and the most where they differ. "Limit
missed": of the half that chose, fine-tuning brings more back than the limit.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import click

from benchmarks.asked import find_different
from benchmarks.rivals.measuring import RELEARNED
from benchmarks.rivals.methods import LIMITS, METHODS, TWIN
from evals.measure.edits.costs import MEASURES

RUNS = "runs"
"""The folder of what was measured, with a file for each method."""
Run = Mapping[str, Any]
"""What was measured of a method."""
Runs = Mapping[str, Run]
"""Method → what was measured of it. One that is not finished has its seconds and setting alone."""


@dataclass(frozen=True)
class Column:
    """`pick`: the value, of a run and of the base's; None: it was not measured. `form`: as text."""

    title: str
    pick: Callable[[Run, Run], float | None]
    form: str


def read_runs(output: Path) -> dict[str, dict[str, Any]]:
    """Method → what was found. Empty before anything was."""
    files = {name: output / RUNS / f"{name}.json" for name in METHODS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def list_columns(several: Sequence[Runs]) -> list[Column]:
    """The columns of which at least one method has a value."""

    def plain(key: str, title: str, form: str) -> Column:
        return Column(title, lambda run, base: run.get(key), form)

    def points(task: str) -> Column:
        return Column(task, lambda run, base: 100 * (run[task] - base[task]), "{:+.1f}")

    trained = [*(f"relearn {rate:g}" for rate in RELEARNED), "relearn-benign", "revive", "graft"]
    shares = ["no training", *trained, "any, seen", "any, not seen"]
    known = {"seconds", "setting", "code", "left", "any alone", "by", "membership", "never trained"}
    known |= {*shares, *MEASURES}
    tasks = [key for key in several[0]["not edited"] if key not in known]
    columns = [
        *(plain(share, share, "{:.1%}") for share in shares),
        plain("membership", "membership", "{:.2f}"),
        plain("never trained", "never trained, nats", "{:+.2f}"),
        *(plain(cost, cost, "{:.3f}") for cost in MEASURES),
        plain("any alone", "cheapest under any alone", "{:.3f}"),
        *(points(task) for task in tasks),
    ]
    finished = [
        (run, runs["not edited"]) for runs in several for run in runs.values() if is_finished(run)
    ]
    return [one for one in columns if any(one.pick(*pair) is not None for pair in finished)]


def is_finished(run: Run) -> bool:
    return "no training" in run


def make_rows(several: Sequence[Runs]) -> Iterator[list[str]]:
    """The head, and a row for each method. A method that is not finished has no figures."""
    columns = list_columns(several)
    yield ["", *(column.title for column in columns), "seconds", "setting"]
    yield ["---"] * (len(columns) + 3)
    for name in METHODS:
        runs = [(one[name], one["not edited"]) for one in several if name in one]
        if not runs:
            continue
        done = [pair for pair in runs if is_finished(pair[0])]
        cells = [_format([column.pick(*pair) for pair in done], column.form) for column in columns]
        if done:
            cells[0] += f" ({', '.join(dict.fromkeys(run['by'] for run, _ in done))})"
        settings = " / ".join(dict.fromkeys(_describe(run) for run, _ in runs))
        if 0 < len(done) < len(several):
            settings = f"finished in {len(done)} of {len(several)}: {settings}"
        lefts = [run["left"] for run, _ in done if name not in ("not edited", TWIN)]
        missed = sum(left > LIMITS[1] for left in lefts)
        mark = "" if len(several) == 1 else f" in {missed} of {len(done)}"
        yield [
            f"`{name}`{f' (limit missed{mark})' if missed else ''}",
            *cells,
            _format([run["seconds"] for run, _ in runs], "{:.0f}"),
            settings,
        ]


def _describe(run: Run) -> str:
    left = f"relearn {run['left']:.1%} of the half that chose" if "left" in run else ""
    return "; ".join(part for part in (run["setting"], left) if part)


def _format(values: Sequence[float | None], form: str) -> str:
    """The median, and the range if there is one. Empty for what was not measured."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    middle, least, most = (form.format(value) for value in (median(known), min(known), max(known)))
    return middle if least == most else f"{middle} ({least} to {most})"


def print_table(several: Sequence[Runs]) -> None:
    for row in make_rows(several):
        click.echo("| " + " | ".join(row) + " |")
    codes = {run.get("code") for runs in several for run in runs.values()}
    if len(codes) > 1:
        click.echo("these rows come from several versions of the comparison", err=True)


def check_alike(outputs: Sequence[Path]) -> None:
    """Raises `UsageError` unless the runs differ in their seeds alone, and all differ in that."""
    asked = [json.loads((output / "asked.json").read_text()) for output in outputs]
    seeds = [one.pop("seed") for one in asked]
    for output, one in zip(outputs, asked, strict=True):
        if different := find_different(asked[0], one):
            what = f"{outputs[0]} has {different} than {output}"
            raise click.UsageError(f"{what}: such runs make no table together")
    if len(set(seeds)) < len(seeds):
        raise click.UsageError("the same seed twice: give a run of each seed")


@click.command()
@click.argument("outputs", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
def main(outputs: tuple[Path, ...]) -> None:
    """Print the table of one or more OUTPUTS of `benchmarks.rivals`."""
    several = [read_runs(output) for output in outputs]
    for output, runs in zip(outputs, several, strict=True):
        if "not edited" not in runs:
            raise click.UsageError(f"{output} holds no run of benchmarks.rivals")
    check_alike(outputs)
    print_table(several)


if __name__ == "__main__":
    main()
