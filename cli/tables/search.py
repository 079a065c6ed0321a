"""Prints a search: the unedited model, the deepest blocks, and the choice, on both halves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cli.tables import print_table, with_interval
from cli.terminal import echo

HALVES = ("held back", "chosen on")


def print_search(result: dict[str, Any], export: str) -> None:
    """Prints the table of a report, and the command that makes the chosen edit."""
    base, deep, selected = (result[key] for key in ("base", "deep_blocks", "selected"))
    rows = [("unedited", base, base["held_back"])]
    if deep is not None:
        rows.append((f"deep blocks: {deep['spec']} identity", deep, deep["held_back"]))
    rows.append(("chosen", selected, result["held_back"]))
    measure = result["measure"]
    what = "recited" if measure == "greedy" else "recovered"
    echo(
        f"{result['model']}: chosen on {result['n']} passages, {result['n_held_back']} held back; "
        "loss: its rise on held-out text, in nats per token"
    )
    echo(f"chosen: {_named(selected, result['num_heads'])}")
    print_table(
        ("edit", *(f"{half}: {name}" for half in HALVES for name in (what, "loss", "KL"))),
        [
            (label, *_cells(there, base["held_back"], measure), *_cells(here, base, measure))
            for label, here, there in rows
        ],
    )
    there = result["held_back"]
    every = (
        "all possible ones"
        if result["exhaustive"]
        else f"out of {result['units']['offered']} units"
    )
    echo(
        f"{result['evaluations']} edits measured, {every}; {what} of the held-back half: "
        + with_interval(there["recovered"][measure], there["recovered_ci95"])
    )
    if not result["held_back_conclusive"]:
        what = "the limit" if "max_extraction" in result["goal"] else "the unedited model's"
        echo(f"inconclusive (n = {result['n_held_back']:,}): the interval holds {what}")
    if not result["held_back_meets_goal"]:
        echo("The held-back half misses the goal. Ask for a stricter limit than you need.")
    echo(f"export it: {export}")


def export_command(
    model: str, revision: str | None, plan: Path, calibration: tuple[str, ...]
) -> str:
    """What to type to make the chosen edit."""
    import shlex

    words = ["attn-surgery", "export", model, "--plan", str(plan)]
    words += ["--revision", revision] if revision else []
    for file in calibration:
        words += ["--calibration", file]
    return shlex.join(words)


def _named(edit: dict[str, Any], num_heads: int) -> str:
    from surgery.selection import Part, by_variant, format_selection

    if edit["variant"] != "mixed":
        return f"{edit['spec']} {edit['variant']}"
    parts = (Part(part["block"], tuple(part["heads"]), part["variant"]) for part in edit["parts"])
    return "; ".join(
        f"{format_selection(some, num_heads)} {variant}"
        for variant, some in by_variant(parts).items()
    )


def _cells(figures: dict[str, Any], base: dict[str, Any], measure: str) -> list[str]:
    rise = figures["heldout_loss"] - base["heldout_loss"]
    return [f"{figures['recovered'][measure]:.1%}", f"{rise:+.3f}", f"{figures['heldout_kl']:.3f}"]
