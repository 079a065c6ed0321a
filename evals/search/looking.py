"""Estimates for a loaded model: every unit is looked at, on the half that edits are chosen on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedModel

from evals.memorization.recovery import Recovery
from evals.response.engine import respond
from evals.response.margins import margins
from evals.response.responses import Responses
from evals.response.texts import heldout_text, margins_text
from evals.running.processes import Processes
from evals.search.estimates import Estimates
from evals.search.held_back import Half
from surgery.selection import Part
from surgery.variants import Fit

DRAWS = 4
"""Of tokens for each window: sets are chosen by these numbers, and too few can be fitted to."""
MOST_PASSAGES = 256
"""That are looked at; each takes a pass back for every suffix token."""


def look(
    model: PreTrainedModel,
    half: Half,
    recovered: npt.NDArray[np.bool_],
    units: Sequence[Part],
    pools: Sequence[frozenset[Part]],
    measure: Recovery,
    fits: Mapping[int, Fit],
    *,
    processes: Processes,
    advance: Callable[[int], None] = lambda done: None,
) -> Estimates:
    """Responses of `units` from passes over held-out windows and over passages.

    **Arguments:** `recovered`: the passages that the unedited model gives away, bool [N];
    `pools`: units that one layout holds together; `fits`: of the unedited model, by block.
    """
    passages = half.samples.spread(recovered, MOST_PASSAGES)
    variants = tuple(dict.fromkeys(unit.variant for unit in units))

    def of_units(responses: Responses) -> npt.NDArray[np.float32]:
        sums = [responses.values[responses.units.of((unit,))].sum(axis=0) for unit in units]
        return np.stack([*sums, np.zeros_like(sums[0])])  # [U + 1, D, N]

    ask = partial(
        respond, model, variants=variants, fits=fits, processes=processes, advance=advance
    )
    cost = ask(heldout_text(half.windows), draws=DRAWS)
    moved = ask(margins_text(passages), draws=passages.suffix_length)
    return Estimates(
        units=tuple(units),
        pools=tuple(pools),
        cost=of_units(cost).reshape(len(units) + 1, -1) * np.float32(cost.scale**0.5),
        moved=of_units(moved).transpose(0, 2, 1).copy(),
        margins=margins(model, passages),
        passages=round(len(recovered) * len(passages) / int(recovered.sum())),
        measure=measure,
        processes=processes,
    )
