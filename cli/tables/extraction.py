"""The memorization test's figures for people: the baseline's beside the edited model's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rich.table import Table

from cli.tables import console, with_interval


def print_extraction(result: dict[str, Any]) -> None:
    """Prints the object of `extract --json` as a table, with 95 % intervals in brackets."""
    before, paired = result.get("baseline"), result.get("paired")
    n, prefix, suffix = (result[key] for key in ("n", "prefix_length", "suffix_length"))
    table = Table(
        title=f"{n} passages, {prefix} tokens given, {suffix} asked for; 95 % intervals in brackets"
    )
    table.add_column("")
    columns = [result] if before is None else [before, result]
    for name in ["model"] if before is None else ["baseline", "edited"]:
        table.add_column(name)
    for label, cells in _lines(columns):
        table.add_row(label, *cells)
    out = console()
    out.print(table)
    if paired is None:
        return
    out.print(
        f"{paired['forgotten']} forgotten, {paired['newly_extracted']} newly extracted "
        f"(exact McNemar p = {paired['p_value']:.2g}); difference "
        f"{_shown(paired['exact_match_difference'], '{:+.1%}')}"
    )
    if "selectivity" in paired:
        out.print(f"selectivity {_shown(paired['selectivity'], '{:+.3f}')} nats/token")


def _lines(columns: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    from evals.memorization.measures import MEASURES

    for one in MEASURES:
        figures = [_at(column, one.path) for column in columns]
        if one.label and all(figures):
            yield one.label, [_shown(figure, one.form) for figure in figures]
    if "control" in columns[0]:
        kind = columns[0]["control"]["kind"]
        yield f"control NLL ({kind})", [_shown(c["control"]["nll"], "{:.3f}") for c in columns]
    strata = [column.get("by_count", []) for column in columns]
    for parts in zip(*strata, strict=True):
        yield f"exact, count {parts[0]['count']}", [_shown(part["exact_match"]) for part in parts]


def _at(figures: Any, path: Iterable[str]) -> Any:
    for part in path:
        figures = figures.get(part, {})
    return figures


def _shown(value: dict[str, Any], form: str = "{:.1%}") -> str:
    middle = next(value[key] for key in ("rate", "mean", "value") if key in value)
    return with_interval(middle, value["ci95"], form)
