"""Estimates of a search in the result of a sweep, as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from surgery.selection import Part, Selection, format_selection

Figures = Callable[[Selection], dict[str, float]]
"""`kl`, nats per token; `margin`, nats² per suffix token; `recited`, a share of the passages."""


def with_estimates(
    result: dict[str, Any],
    measured: Iterable[Selection],
    figures: Figures,
    parts: Iterable[Part],
    estimated_on: dict[str, int],
) -> dict[str, Any]:
    """A sweep's result with the `figures` of `parts`, and of the edits that were `measured`.

    `measured`: the selections of the result's base and edits, in order.
    """
    heads = result["num_heads"]

    def extended(record: dict[str, Any], selection: Selection) -> dict[str, Any]:
        return record | {f"estimated_{name}": value for name, value in figures(selection).items()}

    listed = [
        {
            "spec": format_selection((part,), heads),
            "kind": "block" if len(part.heads) == heads else "head",
            "block": part.block,
            "variant": part.variant,
            **figures((part,)),
        }
        for part in parts
    ]
    base, *edits = map(extended, [result["base"], *result["edits"]], measured)
    more = {"estimates": listed, "estimated_on": estimated_on}
    return {**result, "base": base, "edits": edits, **more}
