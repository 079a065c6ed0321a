"""attn-surgery audit"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from cli import options
from cli.requests import request_command
from cli.tables import format_figure, format_interval, print_choice, print_table
from cli.terminal import echo, note, print_json
from evals.jobs.auditing import AuditRequest

_MOST_IDS = 20


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
    """Measure what an attacker recovers from MODEL and, with --baseline, from BASE.

    Without --baseline, this shows which of your passages come out of MODEL, by their ids. A limit
    can then be missed, but not kept: nothing shows that an attack works.

    An exact match is brittle: a passage with one wrong token counts as forgotten. The attacks test
    whether it really is. docs/threat-model.md says what each of them assumes. The same attacks run
    on text that the models were not trained on, for comparison. The exit code is 3 if a limit is
    missed. Otherwise, it is 4 if one is not decided.

    If a search chose the edit on some of the passages, or it was taught some, the figures are for
    the others, and those of the taught ones stand apart. Results hold no text; --rows names
    passages by their ids. With --output, run the same command again to continue after an
    interruption.
    """
    from evals.jobs.auditing import audit

    found = audit(request, output, rows=rows, overwrite=overwrite)
    if found is None:
        return
    result = found.to_dict()
    if as_json:
        print_json(result)
    else:
        print_audit(result, found.given_away)
    note_limits(result)
    options.end_with(found.state, allow_undecided=allow_undecided)


def print_audit(result: dict[str, Any], given_away: Mapping[str, Sequence[str]]) -> None:
    """Prints the object of `audit --json` as a table, with 95 % intervals in brackets.

    `given_away`: of one model alone, passage → the attacks that recover it.
    """
    from evals.data import say_lengths
    from evals.measure.memorization.recovery import SHORTEST_CUT

    rated = [attack for attack in result["attacks"] if "paired" in attack]
    if rated:
        keys = ("prefix_length", "suffix_length", "secrets")
        lengths = say_lengths(*(result[key] for key in keys))
        echo(
            f"What an attacker recovers of {result['n']} passages ({lengths}), with 95 % intervals"
        )
        every = result.get("all_passages")
        print_choice(result)
        _print_rates(rated, result["control"]["n"], every)
        for part, which in (("taught", "that were taught"), ("unlisted", "that nobody listed")):
            if rest := result.get(part):
                echo(f"recovered of {rest['n']} passages {which}:")
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
        number = len(result["not_tried"])
        kinds = "1 kind of attack was" if number == 1 else f"{number} kinds of attack were"
        echo(f"{kinds} not tried; `not_tried` in the JSON object names them")
    for areas in [attack for attack in result["attacks"] if attack not in rated]:
        if areas["edited"] is None:
            why = "not measured, because no passage is known to be a non-member (column member)"
            echo(f"{areas['name']}: {why}")
            continue
        for score, area in areas["edited"].items():
            before = f"{areas['base'][score]['auc']:.3f} → " if areas["base"] else ""
            after = format_interval(area["auc"], area["ci95"], "{:.3f}")
            echo(f"{areas['name']}, {score}: AUC {before}{after}")
    if rated and rated[0]["base"] is None:
        _print_given_away(given_away, len(rated))
    echo(f"verdict: {result['verdict']}")


def _print_given_away(given_away: Mapping[str, Sequence[str]], attacks: int) -> None:
    """Names the passages that come out, those first that most of the attacks recover."""
    ids = sorted(given_away, key=lambda name: -len(given_away[name]))
    if ids:
        echo(f"recovered, and by how many of the {attacks} attacks:")
    for name in ids[:_MOST_IDS]:
        echo(f"  {name}: {len(given_away[name])}")
    if (more := len(ids) - _MOST_IDS) > 0:
        echo(f"  and {more:,} more; --rows FILE names all of them, and the attacks")


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
    columns = {"base": "base", "edited": "edited", "control": f"never trained on (n ≤ {controls})"}
    if rated[0]["base"] is None:
        columns = {"edited": "recovered", "control": columns["control"]}
    if not controls:
        del columns["control"]
    headings, rows = ["attack", "n", *columns.values(), "seconds"], []
    for one in rated:
        rates = [format_figure(one[key]) for key in columns]
        rows.append([one["name"], f"{one['edited']['n']:,}", *rates, f"{one['seconds']:.1f}"])
    if every:
        place = 3 + list(columns).index("edited")
        headings.insert(place, f"{columns['edited']}, all {every['n']}")
        for row in rows:
            row.insert(place, format_figure(every["recovered"][row[0]]["edited"]))
    if rated[0].get("twin"):
        headings += ["twin", "edited − twin, points", "of the way to it"]
        for one, row in zip(rated, rows, strict=True):
            above, way = one["above_twin"], one["toward_twin"]
            ends = [100 * end for end in above["ci95"] or ()]
            difference = format_interval(100 * above["difference"], ends, "{:+.1f}")
            row += [format_figure(one["twin"]), difference, "" if way is None else f"{way:.0%}"]
    print_table(headings, rows)


def note_limits(result: dict[str, Any]) -> None:
    """Prints every limit that is not shown to be kept."""
    from surgery.card.measurements import WORDS

    for limit in result["limits"]:
        if not limit["ok"]:
            note(f"limit {WORDS[limit['state']].lower()}: {limit['name']}: {limit['description']}")
