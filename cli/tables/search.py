"""A search for people: the unedited model, the deepest blocks, and the choice, on both halves."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli.tables import format_figure, format_interval, print_table
from cli.terminal import echo
from surgery.card.command import write_export_command

if TYPE_CHECKING:
    from evals.choose.search.request import SearchRequest

HALVES = ("held back", "chosen on")


def print_search(result: dict[str, Any]) -> None:
    """Prints the table of a report, and what the held-back passages says of each limit."""
    from evals.measure.attacks.names import TRAINING
    from evals.measure.verdicts import say_percent

    base, deep, selected = (result[key] for key in ("base", "deep_blocks", "selected"))
    rows = [("unedited", base, base["held_back"])]
    if deep is not None:
        rows.append((f"deep blocks: {deep['spec']} identity", deep, deep["held_back"]))
    rows.append(("chosen", selected, result["held_back"]))
    measure = result["measure"]
    what = "recited" if measure == "greedy" else f"recovered ({measure})"
    echo(
        f"{result['model']}: chosen on {result['n']} passages, {result['n_held_back']} held back. "
        "loss: the rise on held-out text; KL: how far predictions moved there; both in nats per "
        "token"
    )
    echo(f"chosen: {_describe_edit(selected, result['num_heads'])}")
    print_table(
        ("edit", *(f"{half}: {name}" for half in HALVES for name in (what, "loss", "KL"))),
        [
            (
                label,
                *_make_cells(there, base["held_back"], measure),
                *_make_cells(here, base, measure),
            )
            for label, here, there in rows
        ],
    )
    there = result["held_back"]
    offered = f"built from {result['units']['offered']} units (a block or a head, in one variant)"
    every = "all that these options allow" if result["exhaustive"] else offered
    echo(
        f"{result['evaluations']} edits measured, {every}. Of the held-back passages, {what}: "
        + format_interval(there["recovered"][measure], there["recovered_ci95"])
    )
    _explain_choice(result)
    echo(f"KL on held-back text, in nats: {_describe_costs(there)}")
    for one in there["limits"]:
        if one["name"].startswith("max-drop "):
            echo(f"On the held-back half of the documents, the {one['description']}.")
        elif one["name"] != measure or there["healed_rise"] is not None:
            which = "held-back passages"
            if one["n"] < result["n_held_back"]:
                which += " that the attacker did not hold, in one run"
            echo(
                f"{one['name']} of the {which} (n = {one['n']:,}): "
                f"{format_figure(one)}, limit {say_percent(one['limit'])}"
            )
    if not any(one["name"] in TRAINING for one in there["limits"]):
        echo(
            "No attack that trains the model has a limit, and training may bring back what the "
            "edit only hides. To search for an edit that resists, add --max relearn=0.05."
        )
    if (rise := there["healed_rise"]) is not None:
        echo(
            f"Limits are those of the healed edit, which costs {rise:+.3f} nats per token relative "
            "to the unedited model. The table shows the cut."
        )
    echo(_describe_held_back(result))


def _describe_costs(figures: dict[str, Any]) -> str:
    """Every measure of the cost; the one that is worst for what it usually is comes first."""
    worst, costs = figures["worst"], figures["costs"]
    order = sorted(costs, key=lambda name: name != worst)
    return ", ".join(f"{name} {costs[name]:.3f}{' (worst)' * (name == worst)}" for name in order)


def _describe_held_back(result: dict[str, Any]) -> str:
    """The verdict on the held-back passages, and what to do about it."""
    state, limits = result["held_back_state"], result["held_back"]["limits"]
    if state == "kept":
        return "On the held-back passages: kept."
    if state == "missed":
        return "On the held-back passages: missed. Search with a stricter limit than you need."
    lacks = dict.fromkeys(one["lacks"] for one in limits if one["lacks"])
    why = "; ".join(lacks) or "there are too few passages, or windows of held-out text"
    return f"On the held-back passages: not decided. {why[0].upper()}{why[1:]}."


def _explain_choice(result: dict[str, Any]) -> None:
    """Says why edits that meet the goal, and cost less or leave less, are not the choice."""
    deep, selected = result["deep_blocks"], result["selected"]
    limited = "max_extraction" in result["goal"]
    better, chosen = (
        edit and (edit["cost"] if limited else edit["recovered"][result["measure"]])
        for edit in (deep, selected)
    )
    if deep and deep["meets_goal"] and not deep["offered"] and better < chosen:
        echo(
            "The deep blocks meet the goal and are better, but were not on offer. To let the "
            "search choose them, add --variant identity, with --grain blocks or mixed and "
            "--layout auto."
        )
    for key, why in (
        ("doubtful", "they may miss the goal on other passages"),
        (
            "untried",
            "an attack with a limit was not tried on them: judging by the edits on which it was, "
            "it would recover too much",
        ),
    ):
        if number := result["passed_over"][key]:
            edits = "1 edit that costs" if number == 1 else f"{number} edits that cost"
            echo(f"Passed over: {edits} less by what was measured, because {why}.")


_GUARD = {
    *("samples", "prefix_length", "suffix_length", "secret"),
    *("leave_out", "skip_short", "id_column"),
}
"""What names the passages that healing keeps from coming back."""


def write_next_command(result: dict[str, Any], request: SearchRequest, plan: Path) -> str:
    """The command that makes the chosen edit."""
    words = write_export_command(
        request.model,
        revision=request.revision,
        plan=plan,
        calibration=request.calibration if result["calibration"] else (),
        heal=request.heal,
        heal_steps=request.heal_steps if request.heal and request.heal_steps != 80 else None,
        **(request.model_dump(include=_GUARD) if request.heal else {}),
    )
    return shlex.join(words)


def _describe_edit(edit: dict[str, Any], num_heads: int) -> str:
    from surgery.selection import Part, by_variant, format_selection

    if edit["variant"] != "mixed":
        return f"{edit['spec']} {edit['variant']}"
    parts = (Part(part["block"], tuple(part["heads"]), part["variant"]) for part in edit["parts"])
    return "; ".join(
        f"{format_selection(some, num_heads)} {variant}"
        for variant, some in by_variant(parts).items()
    )


def _make_cells(figures: dict[str, Any], base: dict[str, Any], measure: str) -> list[str]:
    rise = figures["heldout_loss"] - base["heldout_loss"]
    return [f"{figures['recovered'][measure]:.1%}", f"{rise:+.3f}", f"{figures['heldout_kl']:.3f}"]
