"""An audit for people: one row per attack, base, edited model and control side by side."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from cli.tables import console, with_interval


def print_audit(result: dict[str, Any]) -> None:
    """Prints the object of `audit --json` as a table, with 95 % intervals in brackets."""
    from evals.memorization.recovery import SHORTEST_CUT

    control = result["control"]
    table = Table(
        title=f"What an attacker gets of {result['n']} passages ({result['prefix_length']} tokens "
        f"given, {result['suffix_length']} asked for); 95 % intervals in brackets"
    )
    table.add_column("attack")
    never = f"never trained on (n = {control['n']})"
    for name in ("base", "edited", never, "seconds"):
        table.add_column(name, justify="right")
    out, areas = console(), None
    for attack in result["attacks"]:
        if attack["name"] == "membership":
            areas = attack
            continue
        rates = [_rate(attack[key]) for key in ("base", "edited", "control")]
        table.add_row(attack["name"], *rates, f"{attack['seconds']:.1f}")
    if table.row_count:
        out.print(table)
    names = [attack["name"] for attack in result["attacks"]]
    if "prefix" in names and result["suffix_length"] <= SHORTEST_CUT:
        out.print(f"prefix is the same as greedy here: it needs more than {SHORTEST_CUT} tokens")
    for attack in result["attacks"]:
        curve = (attack.get("curve") or {}).get("edited", {"stages": []})
        for i, steps in enumerate(curve["stages"]):
            shares = ", ".join(f"{key} {curve[key][i]:.1%}" for key in curve if key != "stages")
            out.print(f"{attack['name']}, {steps} steps: {shares}")
    if areas is not None and areas["edited"] is not None:
        for score, area in areas["edited"].items():
            before = areas["base"][score]["auc"]
            after = with_interval(area["auc"], area["ci95"], "{:.3f}")
            out.print(f"membership, {score}: AUC {before:.3f} → {after}")
    elif areas is not None:
        out.print("membership: not measured, since no passage is known to be no member")


def _rate(value: dict[str, Any] | None) -> str:
    return "" if value is None else with_interval(value["rate"], value["ci95"])
