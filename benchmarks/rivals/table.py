"""Prints what `__main__.py` measured as a Markdown table: one run, or the same with several seeds.

    python -m benchmarks.rivals.table RIVALS-0 RIVALS-1 RIVALS-2

Shares are in percent. Of several runs, a cell has the median, and the least and the most where they
differ. †: of the half that chose, fine-tuning brings more back than the limit (in so many runs).
The settings stand below.
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
from benchmarks.rivals.methods import LIMITS, METHODS, UNCHANGED
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
    form: Callable[[float], str]


def read_runs(output: Path) -> dict[str, dict[str, Any]]:
    """Method → what was found. Empty before anything was."""
    files = {name: output / RUNS / f"{name}.json" for name in METHODS}
    return {name: json.loads(file.read_text()) for name, file in files.items() if file.exists()}


def list_columns(several: Sequence[Runs]) -> list[Column]:
    """The columns of which at least one method has a value."""

    def plain(key: str, title: str, form: Callable[[float], str]) -> Column:
        return Column(title, lambda run, base: run.get(key), form)

    def points(task: str) -> Column:
        return Column(task, lambda run, base: 100 * (run[task] - base[task]), "{:+.1f}".format)

    trained = {"relearn": "`relearn`", "relearn-benign": "benign"}
    trained |= {"revive": "`revive`", "graft": "`graft`"}
    known = {"seconds", "setting", "code", "left", "any alone", "by", "membership", "never trained"}
    known |= {"no training", "any, seen", "any, not seen", *trained, *MEASURES}
    tasks = [key for key in several[0]["not edited"] if key not in known]
    columns = [
        plain("no training", "no training", _percent),
        *(plain(key, title, _percent) for key, title in trained.items()),
        plain("membership", "AUC", "{:.2f}".format),
        plain("never trained", "never trained", "{:+.2f}".format),
        *(plain(cost, f"`{cost}`", "{:.3f}".format) for cost in MEASURES),
        *(points(task) for task in tasks),
        plain("any alone", "`any` alone", "{:.3f}".format),
    ]
    finished = [
        (run, runs["not edited"]) for runs in several for run in runs.values() if is_finished(run)
    ]
    return [one for one in columns if any(one.pick(*pair) is not None for pair in finished)]


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


def is_finished(run: Run) -> bool:
    return "no training" in run


def make_rows(several: Sequence[Runs]) -> Iterator[list[str]]:
    """The head, and a row for each method. A method that is not finished has no figures."""
    columns = list_columns(several)
    yield ["", *(column.title for column in columns), "seconds"]
    yield ["---"] * (len(columns) + 2)
    for name, runs in _group(several):
        done = [pair for pair in runs if is_finished(pair[0])]
        cells = [_format([column.pick(*pair) for pair in done], column.form) for column in columns]
        worst = [f"`{run['by']}`" for run, _ in done if run["no training"] > 0]
        cells[0] += f" ({', '.join(dict.fromkeys(worst))})" if worst else ""
        cells[0] = cells[0] if done else "not finished"
        lefts = [run["left"] for run, _ in done if name not in UNCHANGED]
        missed = sum(left > LIMITS[1] for left in lefts)
        marks = [f"`{name}`", "†" if missed else ""]
        if len(several) > 1:
            marks += [f"{missed} of {len(done)}"] if missed else []
            marks += [f"({len(done)} of {len(several)} finished)"] if len(done) < len(runs) else []
            marks += [f"({len(runs)} of {len(several)} ran)"] if len(runs) < len(several) else []
        times = _format([run["seconds"] for run, _ in runs], "{:.0f}".format)
        yield [" ".join(filter(None, marks)), *cells, times]


def list_settings(several: Sequence[Runs]) -> Iterator[str]:
    """A line for each method: what was chosen, and what comes back of the half that chose."""
    for name, runs in _group(several):
        if said := " / ".join(dict.fromkeys(_describe(run) for run, _ in runs)):
            yield f"- `{name}`: {said}"


def _group(several: Sequence[Runs]) -> Iterator[tuple[str, list[tuple[Run, Run]]]]:
    """Method → its runs, each with that of the base."""
    for name in METHODS:
        if runs := [(one[name], one["not edited"]) for one in several if name in one]:
            yield name, runs


def _describe(run: Run) -> str:
    parts = [run["setting"]]
    if run.get("left") is not None:
        parts.append(f"of the half that chose, relearn {_percent(run['left'])} %")
        parts[-1] += f", any {_percent(run['any, seen'])} %" if "any, seen" in run else ""
    if "any, not seen" in run:
        parts.append(f"of the other, any {_percent(run['any, not seen'])} %")
    return "; ".join(filter(None, parts))


def _format(values: Sequence[float | None], form: Callable[[float], str]) -> str:
    """The median, and the range if there is one. Empty for what was not measured."""
    known = [value for value in values if value is not None]
    if not known:
        return ""
    middle, least, most = (form(value) for value in (median(known), min(known), max(known)))
    return middle if least == most else f"{middle} ({least} to {most})"


def print_table(several: Sequence[Runs]) -> None:
    for row in make_rows(several):
        click.echo("| " + " | ".join(row) + " |")
    click.echo()
    for line in list_settings(several):
        click.echo(line)
    codes = {run.get("code") for runs in several for run in runs.values()}
    if len(codes) > 1:
        click.echo("these rows come from several versions of the comparison", err=True)


def check_alike(outputs: Sequence[Path]) -> None:
    """Raises `UsageError` unless the runs differ in their seeds alone, and all differ in that."""
    asked = [json.loads((output / "asked.json").read_text()) for output in outputs]
    seeds = [one.pop("seed") for one in asked]
    for output, one in zip(outputs, asked, strict=True):
        if different := find_different(asked[0], one):
            what = f"{output} does not go with {outputs[0]}"
            raise click.UsageError(f"{what}, which holds a run with {different}")
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
