"""Estimates for a sweep: which heads and blocks, on which rows, and the figures as plain JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedModel

from evals.response.engine import DRAWS, respond
from evals.response.responses import Responses
from evals.response.texts import heldout_text, passages_text
from evals.running.processes import Processes
from evals.samples import Samples, Tokens
from evals.sweep.edits import Kind, left_out, swept
from surgery.editing.in_memory import Editable
from surgery.fitting.fitter import Fitter
from surgery.selection import Part, Selection, format_selection

_MOST_ROWS = 256
"""Passages that are read; windows are no more either. More hardly move an estimate."""


def estimable(
    editable: Editable, variants: Sequence[str]
) -> tuple[tuple[Part, ...], dict[str, str]]:
    """Every whole block and every head that a layout holds; for variants that none does for: why.

    Raises `UnsupportedError` where whole blocks cannot be edited.
    """
    size = editable.inventory.dimensions
    single = swept(size.num_blocks, size.num_heads, variants, last=False, heads=True)
    alike: dict[Selection, Kind]
    alike = {(u,): kind for (u,), kind in single.items() if kind == "block" or u.heads == (0,)}
    reasons = left_out(editable, alike)  # of one block no head is held better than another
    held = {(unit.block, unit.variant, kind) for (unit,), kind in alike.items()}
    return tuple(u for (u,), k in single.items() if (u.block, u.variant, k) in held), reasons


@dataclass(frozen=True)
class Estimates:
    """Responses to every head and block on both texts: what edits cost, and what they move."""

    cost: Responses
    moved: Responses

    def figures(self, selection: Selection) -> dict[str, float]:
        """`kl`, nats per token, and `margin`, nats² per suffix token, with standard errors."""
        kl, margin = self.cost.of(selection), self.moved.of(selection)
        return {
            "kl": kl.value,
            "kl_error": kl.error,
            "margin": margin.value,
            "margin_error": margin.error,
        }


def estimate(
    model: PreTrainedModel,
    samples: Samples,
    windows: Tokens,
    variants: Sequence[str],
    fitter: Fitter | None,
    *,
    processes: Processes,
    advance: Callable[[int], None] = lambda done: None,
) -> Estimates:
    """Runs both texts. Of `samples` members are read, where membership is known.

    `fitter`: for variants that are fitted; others as for `evals.response.respond`.
    """
    blocks = range(int(model.config.num_hidden_layers))
    fits = {} if fitter is None else fitter.fits_alone(blocks, variants)
    texts = heldout_text(windows), passages_text(samples.spread(samples.trained_on, _MOST_ROWS))
    cost, moved = (
        respond(model, text, variants, fits, processes=processes, advance=advance) for text in texts
    )
    return Estimates(cost, moved)


def with_estimates(
    result: dict[str, Any],
    measured: Iterable[Selection],
    estimates: Estimates,
    parts: Iterable[Part],
) -> dict[str, Any]:
    """A sweep's result with `estimates` of `parts`, and those of the edits that were `measured`.

    `measured`: the selections of the result's base and edits, in order.
    """
    heads = estimates.cost.units.dimensions.num_heads

    def extended(record: dict[str, Any], selection: Selection) -> dict[str, Any]:
        figures = estimates.figures(selection)
        return record | {f"estimated_{name}": value for name, value in figures.items()}

    listed = [
        {
            "spec": format_selection((part,), heads),
            "kind": "block" if len(part.heads) == heads else "head",
            "block": part.block,
            "variant": part.variant,
            **estimates.figures((part,)),
        }
        for part in parts
    ]
    base, *edits = map(extended, [result["base"], *result["edits"]], measured)
    return {
        **result,
        "base": base,
        "edits": edits,
        "estimates": listed,
        "estimated_on": {
            "windows": estimates.cost.values.shape[-1],
            "passages": estimates.moved.values.shape[-1],
            "draws": DRAWS,
        },
    }


def front_of(estimates: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those that move margins more than any that costs no more, cheapest first."""
    front: list[dict[str, Any]] = []
    for one in sorted(estimates, key=lambda e: (e["kl"], -e["margin"], e["spec"], e["variant"])):
        if not front or one["margin"] > front[-1]["margin"]:
            front.append(one)
    return front
