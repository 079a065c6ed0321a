"""What version 0.4 was to reach, beside what the best way of each case reached.

    python -m benchmarks.wanted

Reads the rows of `benchmarks.attackers` in benchmarks/results/, and writes wanted.json: for each
case the most that was wanted, and below it what was measured, with what missed it and what too few
passages leave open. Losses and KL have no interval here: their values decide.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import click

from benchmarks.pictures import read_number
from benchmarks.results import Cell, Column, list_results, write_results
from evals.run.statistics import bound_share
from evals.table.limits import judge
from surgery.record.measured import State

COLUMNS = [
    Column(key="on", heading="model"),
    Column(key="way", heading="way"),
    Column(key="strength", heading="steps of erasing", unit="count"),
    Column(key="above", heading="best attack, above the twin", unit="points"),
    Column(key="any", heading="`any`", unit="share"),
    Column(key="hints:8", heading="`hints:8`", unit="share"),
    Column(key="relearn-strongest", heading="tuned training", unit="share"),
    Column(key="cost", heading="KL", unit="nats"),
    Column(key="loss", heading="loss", unit="rise"),
    Column(key="form", heading="form", unit="rise", digits=2),
    Column(key="missed", heading="missed"),
    Column(key="open", heading="not decided"),
]


class Case(NamedTuple):
    """What was wanted, and the rows that came closest: name of the results, way, and how the page
    calls the model. Of equal ways, those count that were healed longest, and that no other one
    beats."""

    called: str
    most: Mapping[str, float]
    closest: tuple[tuple[str, str, str], ...]


WITH_PUBLIC = Case(
    "wanted, with a public model",
    {"above": 0.01, "cost": 0.06, "form": 0.05},
    (
        ("attackers-private", "erased by the public base", "lab:pythia, fine-tuned"),
        ("attackers-private", "erased by the public base, cut, healed", "lab:pythia, fine-tuned"),
        ("attackers-480", "erased by the public base", "SmolLM2, 480 passages"),
        ("attackers-480", "erased by the public base, cut, healed", "SmolLM2, 480 passages"),
    ),
)
ALONE = Case(
    "wanted, without one",
    {"any": 0.01, "hints:8": 0.01, "relearn-strongest": 0.05, "loss": 0.03, "form": 0.5},
    (
        ("attackers-neo", "erased by context:8, cut, healed", "lab:gpt-neo"),
        ("ways-healed", "erased by context:8, hardened, cut, healed", "lab:pythia, `--never`"),
        ("ways-healed", "erased by context:8, hardened, cut, healed", "lab:gpt-neo, `--never`"),
    ),
)


def decide(row: Mapping[str, Any], most: Mapping[str, float]) -> dict[State, str]:
    """State → what is in it: every number of a row that has a limit."""
    headings = {column.key: column.heading for column in COLUMNS}
    found: dict[State, list[str]] = {"kept": [], "missed": [], "undecided": []}
    for key in most.keys() & row.keys():
        cell, value = row[key], read_number(row, key) or 0.0
        bound, n = value, 1
        if isinstance(cell, Cell) and cell.n:
            n = cell.n
            bound = cell.ci95[1] if cell.ci95 else bound_share(value * n, n)
        found[judge(value, bound, most[key], n)].append(headings[key])
    return {state: ", ".join(sorted(names)) for state, names in found.items()}


def beats(one: Mapping[str, Any], other: Mapping[str, Any], most: Mapping[str, float]) -> bool:
    """Whether each number that has a limit is lower in one row than in the other. What was not
    measured in one of them is not lower."""
    numbers = [(read_number(one, key), read_number(other, key)) for key in most]
    return all(
        mine is not None and its is not None and mine < its
        for mine, its in numbers
        if (mine, its) != (None, None)
    )


def compare() -> Iterator[dict[str, Any]]:
    """The row of each case, and of what was to reach it."""
    known = list_results()
    for case in (WITH_PUBLIC, ALONE):
        yield {"on": case.called, **case.most}
        for name, way, called in case.closest:
            beds = called, called.partition(",")[0]
            rows = (row for row in known[name].rows if row["bed"] in beds)
            alike = [row for row in rows if str(row["way"]).removesuffix(", --never") == way]
            longest = max(read_number(row, "healing") or 0 for row in alike)
            alike = [row for row in alike if (read_number(row, "healing") or 0) == longest]
            for row in alike:
                if any(beats(other, row, case.most) for other in alike):
                    continue
                found = decide(row, case.most)
                measured = {key: row[key] for key in ("strength", *case.most) if key in row}
                told = {"missed": found["missed"], "open": found["undecided"]}
                yield {"on": called, "way": way, **measured, **told}


@click.command()
def main() -> None:
    """Compare what was measured with what was to be reached."""
    rows = list(compare())
    named = dict.fromkeys(name for case in (WITH_PUBLIC, ALONE) for name, *_ in case.closest)
    measures = ["benchmarks/wanted.py", *(f"benchmarks/results/{name}.json" for name in named)]
    for row in rows:
        click.echo({key: getattr(cell, "value", cell) for key, cell in row.items()})
    click.echo(
        write_results("wanted", "python -m benchmarks.wanted", COLUMNS, rows, measures=measures)
    )


if __name__ == "__main__":
    main()
