"""attn-surgery check"""

from __future__ import annotations

from typing import Any

import click

from cli import options
from cli.requests import request_command
from cli.tables import print_table
from cli.tables.cuts import print_cuts
from cli.terminal import echo, note, print_json
from evals.jobs.checking import CheckRequest, check_inputs

_MOST = 8
"""Row numbers to list."""


@request_command("check", CheckRequest)
@click.argument("samples")
@options.json
def command(request: CheckRequest, as_json: bool) -> None:
    """Check which rows of SAMPLES you can use, before a long run.

    Counts rows that are too short or repeated, members, and non-members, and says which rows are
    left out. With --model, also tests which of up to 200 passages the model recites, and measures
    whether --heldout and --calibration hold enough text. Says how many passages you need, none of
    them recovered, to show that at most the share X is recovered, and which limits each of the two
    parts of a search can decide (--choose). With --model, also shows where three passages are cut;
    their text is shown only if you pass --show-text.

    Without --model, passages of text are counted but not cut into tokens.
    """
    result = check_inputs(request)
    (print_json if as_json else _print)(result)


def _print(result: dict[str, Any]) -> None:
    prefix, suffix = result["prefix_length"], f"{result['suffix_length']} of suffix"
    if result["secrets"]:
        suffix = "their secrets as suffixes"
    cut = f"to be cut into {prefix} tokens of prefix and {suffix}"
    echo(f"{result['n']:,} rows of {result['samples']}, {cut}")
    if (length := result["length"]) is not None:
        echo("length in tokens: {min:,} to {max:,}, median {median:,g}".format(**length))
    rows = [
        (label, f"{result[key]:,}")
        for label, key in (
            ("usable", "usable"),
            ("too short", "too_short"),
            ("duplicates", "duplicates"),
            ("overlapping, kept", "overlapping"),
            ("members", "members"),
            ("non-members", "non_members"),
        )
        if result[key] is not None
    ]
    print_table(("", "rows"), rows)
    reasons: dict[str, list[str]] = {}
    for row in result["left_out"]:
        reasons.setdefault(row["reason"], []).append(str(row["row"]))
    for reason, numbers in reasons.items():
        more = f" and {len(numbers) - _MOST:,} more" if len(numbers) > _MOST else ""
        echo(f"left out: {reason}: row {', '.join(numbers[:_MOST])}{more}")
    print_cuts(result["cuts"], result["given_numbers"] or 0)
    if (recited := result["recited"]) is not None:
        share, (low, high) = recited["value"], recited["ci95"]
        count = f"{recited['details']['count']} of {recited['n']} passages tested"
        echo(f"recited: {count}: {share:.1%} [{low:.1%}, {high:.1%}]")
    elif result["usable"] is None:
        note("give --model to cut the passages into tokens, and to test what it recites")
    for name, key, unit in (
        ("held-out text", "corpus", "windows"),
        ("calibration text", "calibration", "tokens"),
    ):
        if (found := result[key]) is not None and found[unit] is None:
            echo(f"{name}: {found['characters']:,} characters")
        elif found is not None:
            few = "" if found[unit] >= found["wanted"] else f"; {found['wanted']:,} are better"
            echo(f"{name}: {found[unit]:,} {unit}{few}")
    have = result["members"]
    for limit, n in result["needed"].items():
        share = f"{100 * float(limit):g}%"
        enough = "" if have is None else f"; you have {'enough' if have >= n else 'too few'}"
        echo(f"to show that at most {share} is recovered: {n:,} passages, none recovered{enough}")
    if result["splits"] is None:
        echo(
            "A search tests its choice on half of the passages, so it needs twice as many; "
            "--choose 0.25 tests it on three quarters."
        )
        return
    from evals.table.limits import say_split

    echo("a search chooses on some of the passages, and tests on the others, if none is recovered:")
    for split in result["splits"]:
        echo(f"  {say_split(split)}")
