"""The results of a mitigation side by side, for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cli.tables import print_table


def print_front(front: Sequence[Mapping[str, Any]]) -> None:
    """Prints what `evals.jobs.keeping.list_front` gives."""
    cost = "held-out loss, nats"
    headings = ("name", "result", "limits", cost, "recited", "strongest attack", "benchmarks")
    rows = [tuple(_make_cells(one)) for one in front]
    unused = {at for at in range(2, len(headings)) if not any(row[at] for row in rows)}
    kept = [at for at in range(len(headings)) if at not in unused]
    print_table([headings[at] for at in kept], [[row[at] for at in kept] for row in rows], labels=2)


def _make_cells(one: Mapping[str, Any]) -> Iterator[str]:
    from surgery.card.measurements import WORDS

    worst, tasks = one["strongest"], one["tasks"]
    yield one["name"]
    yield one["what"]
    yield "" if one["state"] is None else WORDS[one["state"]]
    yield "" if one["loss_increase"] is None else f"{one['loss_increase']:+.3f}"
    yield "" if one["recited"] is None else f"{one['recited']:.1%}"
    yield "" if worst is None else _describe_strongest(worst, one["auc"])
    unclear = f", {tasks['unclear']} inconclusive" if tasks["unclear"] else ""
    yield f"{tasks['lost']} of {tasks['n']} lose{unclear}" if tasks["n"] else ""


def _describe_strongest(worst: Mapping[str, Any], auc: float | None) -> str:
    """Where none recovers any, also what a membership score tells."""
    if worst["recovered"]:
        return f"{worst['attack']} {worst['recovered']:.1%}"
    return f"none recovers any; {'membership not tried' if auc is None else f'AUC {auc:.2f}'}"
