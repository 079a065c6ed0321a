"""An audit for people: one row per attack, base, edited model and control side by side."""

from __future__ import annotations

from typing import Any

from cli.tables import print_table, with_interval
from cli.terminal import echo, note


def print_audit(result: dict[str, Any]) -> None:
    """Prints the object of `audit --json` as a table, with 95 % intervals in brackets."""
    from evals.memorization.recovery import SHORTEST_CUT

    rated = [attack for attack in result["attacks"] if "paired" in attack]
    if rated:
        echo(
            f"What an attacker gets of {result['n']} passages ({result['prefix_length']} tokens "
            f"given, {result['suffix_length']} asked for); 95 % intervals in brackets"
        )
        every = result.get("all_passages")
        if every:
            chose = result["chose"]["passages"]
            echo(
                f"A search chose the edit on {chose} of {every['n']}; the figures are of the rest."
            )
        _print_rates(rated, result["control"]["n"], every)
    names = [attack["name"] for attack in rated]
    if "prefix" in names and result["suffix_length"] <= SHORTEST_CUT:
        echo(f"prefix is the same as greedy here: it needs more than {SHORTEST_CUT} tokens")
    for attack in rated:
        curve = (attack.get("curve") or {}).get("edited", {"stages": []})
        for i, steps in enumerate(curve["stages"]):
            shares = ", ".join(f"{key} {curve[key][i]:.1%}" for key in curve if key != "stages")
            echo(f"{attack['name']}, {steps} steps: {shares}")
    for areas in [attack for attack in result["attacks"] if attack not in rated]:
        if areas["edited"] is None:
            echo("membership: not measured, since no passage is known to be no member")
            continue
        for score, area in areas["edited"].items():
            before = areas["base"][score]["auc"]
            after = with_interval(area["auc"], area["ci95"], "{:.3f}")
            echo(f"membership, {score}: AUC {before:.3f} → {after}")


def _print_rates(rated: list[dict[str, Any]], controls: int, every: dict[str, Any] | None) -> None:
    """`every`: the rates of all passages, where some of them chose the edit."""
    headings = ["attack", "base", "edited", f"never trained on (n = {controls})", "seconds"]
    rows = []
    for one in rated:
        rates = [_rate(one[key]) for key in ("base", "edited", "control")]
        rows.append([one["name"], *rates, f"{one['seconds']:.1f}"])
    if every:
        headings.insert(3, f"edited, all {every['n']}")
        for row in rows:
            row.insert(3, _rate(every["recovered"][row[0]]["edited"]))
    print_table(headings, rows)


def note_limits(result: dict[str, Any]) -> bool:
    """Names every limit that is missed or inconclusive, on stderr. Returns whether all hold."""
    for limit in result["limits"]:
        name, value, most, n = (limit[key] for key in ("name", "value", "limit", "n"))
        low, high = limit["ci95"]
        if not limit["ok"]:
            note(f"limit missed: {name} recovers {value:.3g} of {n:,} passages, above {most:g}")
        elif not limit["conclusive"]:
            note(f"limit inconclusive (n = {n:,}): {name}: its interval is {low:.3g} to {high:.3g}")
    return all(limit["ok"] for limit in result["limits"])


def _rate(value: dict[str, Any] | None) -> str:
    return "" if value is None else with_interval(value["rate"], value["ci95"])
