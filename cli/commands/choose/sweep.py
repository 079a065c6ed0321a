"""attn-surgery sweep"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cli import options
from cli.requests import request_command
from cli.tables import print_table
from cli.terminal import echo, print_json
from evals.choose.sweep.request import SweepRequest

_COLUMNS = (
    ("exact", "exact_match", "{:.1%}"),
    ("held-out loss", "heldout_loss", "{:.3f}"),
    ("KL", "heldout_kl", "{:.3f}"),
    ("next token", "next_token_accuracy", "{:.1%}"),
    ("suffix NLL", "suffix_nll", "{:.3f}"),
    ("entropy", "completion_entropy", "{:.3f}"),
    ("perplexity", "heldout_perplexity", "{:.4g}"),
    ("est. KL", "estimated_kl", "{:.3f}"),
    ("est. margin", "estimated_margin", "{:.3f}"),
)
_BEFORE_TASKS = 3
_MOST = 12


@request_command("sweep", SweepRequest)
@click.argument("model")
@options.output(
    "Folder to create, with sweep.json, sweep.csv, and pictures. After an interruption, run the "
    "same command again to continue."
)
@options.overwrite
@options.json
def command(request: SweepRequest, output: Path | None, overwrite: bool, as_json: bool) -> None:
    """Measure how editing each block of MODEL changes what it recites and its held-out loss.

    Edits every block alone and the last k blocks together, in each variant (--variant). MODEL and
    SAMPLES are as for extract. With --tasks or --suite, every edit also runs on lm-eval's
    benchmarks. Nothing is exported. The figures equal those of extract and lm_eval for the exported
    models. A line names the edit with the least loss of those that leave at most 1 % recited, or
    else the one that leaves the fewest. sweep.json has intervals.
    """
    from evals.jobs.sweeping import sweep

    result = sweep(request, output, overwrite=overwrite)
    if result is None:
        return
    (print_json if as_json else print_sweep)(result)


def print_sweep(result: dict[str, Any]) -> None:
    """Prints the table of a report. Figures that were not measured have no column."""
    edits = [result["base"], *sorted(result["edits"], key=_order_by_block)]
    tasks = result.get("tasks", {})
    columns = [*_COLUMNS[:_BEFORE_TASKS], *((k, k, "{:.3f}") for k in tasks)]
    columns += _COLUMNS[_BEFORE_TASKS:]
    values = [e | {k: task["value"] for k, task in e.get("tasks", {}).items()} for e in edits]
    columns = [one for one in columns if any(e.get(one[1]) is not None for e in values)]
    rows = [
        (
            edit["spec"] or "none",
            edit["variant"] or "",
            *("-" if edit.get(key) is None else form.format(edit[key]) for _, key, form in columns),
        )
        for edit in values
    ]
    from evals.data import say_lengths

    lengths = say_lengths(*(result[key] for key in ("prefix_length", "suffix_length", "secrets")))
    echo(f"{result['model']}: {result['n']} passages, {lengths}; losses and KL in nats per token")
    print_table(
        ("edit", "variant", *(name for name, _, _ in columns)),
        rows,
        labels=2,
    )
    if tasks:
        asked = (f"{k} ({t['metric']}, n = {t['n']:,})" for k, t in tasks.items())
        echo(f"tasks: {', '.join(asked)}")
    if result["base"]["exact_count"]:
        _print_best(result, edits[1:])
    if "estimates" in result:
        _print_estimates(result)


def _print_best(result: dict[str, Any], edits: list[dict[str, Any]]) -> None:
    """Prints the edits that recite least, of equal ones the one that costs least."""
    from evals.report.sweep import find_best_edits

    base = result["base"]
    best, *others = find_best_edits({**result, "edits": edits})
    change = f"{base['exact_match']:.1%} to {best['exact_match']:.1%}"
    if result["exact_only"]:
        named = [f"{edit['spec']} {edit['variant']}" for edit in (best, *others)]
        more = f"; and {len(named) - _MOST} more" if len(named) > _MOST else ""
        echo(f"fewest recited ({change}): {'; '.join(named[:_MOST])}{more}")
        echo("The cost of these edits was not measured. To choose one, sweep without --exact-only.")
    else:
        rise = best["heldout_loss"] - base["heldout_loss"]
        echo(
            f"best: --drop-attn {best['spec']} --variant {best['variant']}: exact match {change} "
            f"at {rise:+.3f} nats per held-out token (KL {best['heldout_kl']:.3f})"
        )


def _print_estimates(result: dict[str, Any]) -> None:
    """Prints the heads and blocks that no other beats in both estimates."""
    from evals.report.sweep import find_front

    tokens = "recited tokens" if result["base"]["exact_count"] else "the passages' tokens"
    echo(
        f"estimates of {len(result['estimates'])} heads and blocks. These move the margins of "
        f"{tokens} most for their cost:"
    )
    for one in find_front(result["estimates"])[-_MOST:]:
        echo(
            f"  {one['spec']} {one['variant']}: KL {one['kl']:.4f} nats, "
            f"margins {one['margin']:.3f} nats²"
        )


def _order_by_block(edit: dict[str, Any]) -> tuple[Any, ...]:
    return edit["blocks"], sorted(edit.get("heads", {}).items()), edit["variant"]
