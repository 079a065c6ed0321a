"""attn-surgery audit"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.requests import request_command
from cli.tables import format_figure, format_interval, print_choice, print_table
from cli.terminal import echo, note, print_json
from evals.jobs.auditing import AuditRequest


@request_command("audit", AuditRequest)
@click.argument("model")
@options.allow_undecided
@options.option(
    "--rows",
    "FILE",
    "Also write one JSON line for each passage to this file: which attack recovers it.",
    options.FILE,
    group="output",
)
@options.output("Folder to create, with audit.json and pictures.")
@options.overwrite
@options.json
def command(
    request: AuditRequest,
    rows: Path | None,
    output: Path | None,
    overwrite: bool,
    allow_undecided: bool,
    as_json: bool,
) -> None:
    """Measure what an attacker recovers from MODEL and from BASE.

    An exact match is brittle: a passage with one wrong token counts as forgotten. The attacks test
    whether it really is. docs/threat-model.md says what each of them assumes. The same attacks run
    on text that the models were not trained on, for comparison. The exit code is 3 if a limit is
    missed. Otherwise, it is 4 if one is not decided.

    If a search chose the edit on some of the passages, the figures are for the others. Results hold
    no text; --rows names passages by their ids. With --output, run the same command again to
    continue after an interruption.
    """
    from evals.jobs.auditing import audit

    found = audit(request, output, rows=rows, overwrite=overwrite)
    if found is None:
        return
    result = found.to_dict()
    (print_json if as_json else print_audit)(result)
    note_limits(result)
    options.end_with(found.state, allow_undecided=allow_undecided)


def print_audit(result: dict[str, Any]) -> None:
    """Prints the object of `audit --json` as a table, with 95 % intervals in brackets."""
    from evals.measure.memorization.recovery import SHORTEST_CUT

    rated = [attack for attack in result["attacks"] if "paired" in attack]
    if rated:
        echo(
            f"What an attacker recovers of {result['n']} passages ({result['prefix_length']} "
            f"tokens of prefix, {result['suffix_length']} of suffix), with 95 % intervals"
        )
        every = result.get("all_passages")
        print_choice(result)
        _print_rates(rated, result["control"]["n"], every)
        if rest := result.get("unlisted"):
            echo(f"recovered of {rest['n']} passages that nobody listed:")
            for key, one in rest["recovered"].items():
                echo(f"  {key}: {format_figure(one['edited'])} (n = {one['edited']['n']:,})")
    names = [attack["name"] for attack in rated]
    if "prefix" in names and result["suffix_length"] <= SHORTEST_CUT:
        echo(f"prefix equals greedy here: it needs a suffix of more than {SHORTEST_CUT} tokens")
    for attack in rated:
        curve = (attack.get("curve") or {}).get("edited", {"stages": []})
        for i, steps in enumerate(curve["stages"]):
            shares = ", ".join(f"{key} {curve[key][i]:.1%}" for key in ("any", "near"))
            echo(f"{attack['name']}, {steps} steps (one run, n = {curve['n']:,}): {shares}")
        for one in attack.get("trainings", ()):
            echo(f"{attack['name']}, {_describe_training(one)}")
    for attack in rated:
        if draws := attack["edited"]["draws"]:
            how = f"the mean of {draws} runs" if draws > 1 else "one run"
            echo(f"{attack['name']}: {how}")
    if result["not_tried"]:
        echo(f"not tried: {', '.join(result['not_tried'])}")
    for areas in [attack for attack in result["attacks"] if attack not in rated]:
        if areas["edited"] is None:
            why = "not measured, because no passage is known to be a non-member (column member)"
            echo(f"{areas['name']}: {why}")
            continue
        for score, area in areas["edited"].items():
            before = areas["base"][score]["auc"]
            after = format_interval(area["auc"], area["ci95"], "{:.3f}")
            echo(f"{areas['name']}, {score}: AUC {before:.3f} → {after}")
    echo(f"verdict: {result['verdict']}")


def _describe_training(one: dict[str, Any]) -> str:
    """What a training gives, and what it leaves the base."""
    said = f"{one['learned']} at {one['learning_rate']:g}: {one['edited']:.1%} at best"
    if one["base"] is not None:
        said += f"; from the base, {one['base']:.1%} at best"
    if one["base_left"] is not None:
        said += f", and {one['base_left']:.0%} of what it gave is left after the last step"
    return said


def _print_rates(rated: list[dict[str, Any]], controls: int, every: dict[str, Any] | None) -> None:
    """`every`: the rates for all passages, if a search used some of them."""
    headings = ["attack", "n", "base", "edited", f"never trained on (n ≤ {controls})", "seconds"]
    rows = []
    for one in rated:
        rates = [format_figure(one[key]) for key in ("base", "edited", "control")]
        rows.append([one["name"], f"{one['edited']['n']:,}", *rates, f"{one['seconds']:.1f}"])
    if every:
        headings.insert(4, f"edited, all {every['n']}")
        for row in rows:
            row.insert(4, format_figure(every["recovered"][row[0]]["edited"]))
    if rated[0].get("twin"):
        headings += ["twin", "edited − twin, points", "of the way to it"]
        for one, row in zip(rated, rows, strict=True):
            above, way = one["above_twin"], one["toward_twin"]
            ends = [100 * end for end in above["ci95"]]
            difference = format_interval(100 * above["difference"], ends, "{:+.1f}")
            row += [format_figure(one["twin"]), difference, "" if way is None else f"{way:.0%}"]
    print_table(headings, rows)


def note_limits(result: dict[str, Any]) -> None:
    """Prints every limit that is not shown to be kept."""
    from surgery.card.measurements import WORDS

    for limit in result["limits"]:
        if not limit["ok"]:
            note(f"limit {WORDS[limit['state']].lower()}: {limit['name']}: {limit['description']}")
