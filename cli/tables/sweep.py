"""A sweep for people: a line for each edit, ordered by block, and the best one."""

from __future__ import annotations

from typing import Any

from cli.tables import print_table
from cli.terminal import echo

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
    ("mixing", "mixing_measured", "{:.2f}"),
    ("bound", "mixing_bound", "{:.2f}"),
)
_BEFORE_TASKS = 3
_MOST = 12


def print_sweep(result: dict[str, Any]) -> None:
    """Prints the table of a report. Figures that were not measured have no column."""
    from evals.sweep.report import find_best_edits

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
    echo(
        f"{result['model']}: {result['n']} passages, {result['prefix_length']} tokens of prefix, "
        f"{result['suffix_length']} of suffix; losses and KL in nats per token"
    )
    print_table(
        ("edit", "variant", *(name for name, _, _ in columns)),
        rows,
        labels=2,
        rest="To see them, use a wider terminal, a pipe, or --output.",
    )
    if tasks:
        asked = (f"{k} ({t['metric']}, n = {t['n']:,})" for k, t in tasks.items())
        echo(f"tasks: {', '.join(asked)}")
    base = result["base"]
    if not base["exact_count"]:
        return
    best, *others = find_best_edits({**result, "edits": edits[1:]})
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
    if "estimates" in result:
        _print_estimates(result)


def _print_estimates(result: dict[str, Any]) -> None:
    """Prints the heads and blocks that no other beats in both estimates."""
    from evals.sweep.report import find_front

    echo(
        f"estimates of {len(result['estimates'])} heads and blocks. These move the margins of "
        "recited tokens most for their cost:"
    )
    for one in find_front(result["estimates"])[-_MOST:]:
        echo(
            f"  {one['spec']} {one['variant']}: KL {one['kl']:.4f} nats, "
            f"margins {one['margin']:.3f} nats²"
        )


def _order_by_block(edit: dict[str, Any]) -> tuple[Any, ...]:
    return edit["blocks"], sorted(edit.get("heads", {}).items()), edit["variant"]
