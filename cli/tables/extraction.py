"""The memorization test for people, with the baseline beside the edited model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cli.tables import format_figure, print_choice, print_table
from cli.terminal import echo


def print_extraction(result: dict[str, Any]) -> None:
    """Prints the object of `extract --json` as a table, with 95 % intervals in brackets."""
    before, paired = result.get("baseline"), result.get("paired")
    n, prefix, suffix = (result[key] for key in ("n", "prefix_length", "suffix_length"))
    echo(f"{n} passages, {prefix} tokens of prefix, {suffix} of suffix; 95 % intervals in brackets")
    every = result.get("all_passages")
    print_choice(result)
    if before is None:
        print_table(("", "model"), _make_rows([result]))
    else:
        print_table(("", "baseline", "edited"), _make_rows([before, result]))
    if every:
        recited = [one for one in every["recited"].values() if one is not None]
        shares = ", ".join(f"{one['count']} of {one['n']}" for one in recited)
        echo(
            f"of all passages, recited by {'base and ' if len(recited) > 1 else ''}edited: {shares}"
        )
    if paired is None:
        return
    echo(
        f"{paired['forgotten']} forgotten, {paired['newly_extracted']} newly extracted "
        f"(exact McNemar p = {paired['p_value']:.2g}); difference "
        f"{format_figure(paired['exact_match_difference'], '{:+.1%}')}"
    )
    if "selectivity" in paired:
        echo(f"selectivity {format_figure(paired['selectivity'], '{:+.3f}')} nats/token")


def _make_rows(columns: list[dict[str, Any]]) -> Iterator[tuple[str, ...]]:
    from evals.memorization.measures import MEASURES

    for one in MEASURES:
        figures = [_look_up(column, one.path) for column in columns]
        if one.label and all(figures):
            yield one.label, *(format_figure(figure, one.form) for figure in figures)
    if "control" in columns[0]:
        kind = columns[0]["control"]["kind"]
        yield (
            f"control NLL ({kind})",
            *(format_figure(c["control"]["nll"], "{:.3f}") for c in columns),
        )
    strata = [column.get("by_count", []) for column in columns]
    for parts in zip(*strata, strict=True):
        yield (
            f"exact, count {parts[0]['count']}",
            *(format_figure(part["exact_match"]) for part in parts),
        )


def _look_up(figures: Any, path: Iterable[str]) -> Any:
    for part in path:
        figures = figures.get(part, {})
    return figures
