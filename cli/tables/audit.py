"""An audit for people: one row per attack, base, edited model and control side by side."""

from __future__ import annotations

from typing import Any

from cli.options import echo
from cli.tables import print_table, with_interval


def print_audit(result: dict[str, Any]) -> None:
    """Prints the object of `audit --json` as a table, with 95 % intervals in brackets."""
    from evals.memorization.recovery import SHORTEST_CUT

    control = result["control"]
    rated = [attack for attack in result["attacks"] if attack["name"] != "membership"]
    if rated:
        echo(
            f"What an attacker gets of {result['n']} passages ({result['prefix_length']} tokens "
            f"given, {result['suffix_length']} asked for); 95 % intervals in brackets"
        )
        never = f"never trained on (n = {control['n']})"
        print_table(
            ("attack", "base", "edited", never, "seconds"),
            [
                (
                    one["name"],
                    *(_rate(one[key]) for key in ("base", "edited", "control")),
                    f"{one['seconds']:.1f}",
                )
                for one in rated
            ],
        )
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


def _rate(value: dict[str, Any] | None) -> str:
    return "" if value is None else with_interval(value["rate"], value["ci95"])
