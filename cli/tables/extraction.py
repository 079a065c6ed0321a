"""The memorization test's figures for people: the baseline's beside the edited model's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def print_extraction(result: dict[str, Any]) -> None:
    """Prints the object of `extract --json` as a table, with 95 % intervals in brackets."""
    from rich.table import Table

    from cli.tables import console

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
    difference = paired["exact_match_difference"]
    low, high = difference["ci95"]
    out.print(
        f"{paired['forgotten']} forgotten, {paired['newly_extracted']} newly extracted "
        f"(exact McNemar p = {paired['p_value']:.2g}); difference {difference['value']:+.1%} "
        f"[{low:+.1%}, {high:+.1%}]"
    )
    if "selectivity" in paired:
        value, (low, high) = paired["selectivity"]["value"], paired["selectivity"]["ci95"]
        out.print(f"selectivity {value:+.3f} [{low:+.3f}, {high:+.3f}] nats/token")


def _lines(columns: list[dict[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    yield "exact match", [_rate(c["exact_match"]) for c in columns]
    yield "memorization score", [_mean(c["memorization_score"], "{:.1%}") for c in columns]
    yield "suffix NLL (nats/token)", [_mean(c["suffix_nll"], "{:.3f}") for c in columns]
    if "free_running_score" in columns[0]:
        yield "free-running score", [_mean(c["free_running_score"], "{:.1%}") for c in columns]
        for kind, name in (("levenshtein", "edit"), ("bleu", "BLEU")):
            yield f"near match ({name})", [_rate(c["near_match"][kind]) for c in columns]
        yield "completion entropy", [_mean(c["completion_entropy"], "{:.3f}") for c in columns]
    if "control" in columns[0]:
        kind = columns[0]["control"]["kind"]
        yield f"control NLL ({kind})", [_mean(c["control"]["nll"], "{:.3f}") for c in columns]
    strata = [column.get("by_count", []) for column in columns]
    for parts in zip(*strata, strict=True):
        yield f"exact, count {parts[0]['count']}", [_rate(part["exact_match"]) for part in parts]


def _rate(value: dict[str, Any]) -> str:
    low, high = value["ci95"]
    return f"{value['rate']:.1%} [{low:.1%}, {high:.1%}]"


def _mean(value: dict[str, Any], form: str) -> str:
    mean, low, high = (form.format(number) for number in (value["mean"], *value["ci95"]))
    return f"{mean} [{low}, {high}]"
