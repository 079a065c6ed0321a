"""The text that a model is healed on, which must hold none of the passages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evals.inputs import Progress, read_lab_text, show_nothing
from surgery.errors import SamplesError
from surgery.hub.embedded import find_lab

if TYPE_CHECKING:
    from evals.samples import Samples
    from surgery.exporting import Export
    from surgery.fitting.calibration import Calibration, Text
    from surgery.healing.training import Schedule

SHARED = 16
"""Tokens in a row that a passage and the text may not share; fewer for a shorter passage."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


def find_healing_text(named: Sequence[str]) -> Text:
    """The text that `--heal` names: files, folders, data sets, or a lab model for the lab's.

    Needs no model, so that mistakes show early. Raises `SamplesError`.
    """
    from surgery.fitting.calibration import open_calibration

    return read_lab_text() if find_lab(*named) else open_calibration(named)


def check_apart(samples: Samples, text: Calibration) -> None:
    """Raises `SamplesError`, with the counts, if a passage shares `SHARED` tokens with the text."""
    passages = samples.select(samples.trained_on)
    size = min(SHARED, passages.tokens.shape[1])
    within = np.isin(_hash_runs(passages.tokens, size), _hash_runs(text.windows, size)).any(axis=1)
    if within.any():
        raise SamplesError(
            f"{within.sum():,} of {len(passages):,} passages share {size} tokens in a row with the "
            "text to heal on, so healing would teach them again",
            where=", ".join(source.name for source in text.sources),
            got=f"the first is {passages.ids[int(within.argmax())]!r}",
            fix="leave out the files that hold them, or give other text",
        )


def _hash_runs(tokens: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.uint64]:
    """Hashes every `size` tokens in a row: [N, T] → [N, T - size + 1]."""
    powers = np.cumprod(np.full(size, _BASE), dtype=np.uint64)
    length = max(tokens.shape[1] - size + 1, 0)
    found = np.zeros((len(tokens), length), dtype=np.uint64)
    for place, power in enumerate(powers):
        found += tokens[:, place : place + length].astype(np.uint64) * power
    return found


def heal_export(
    cut: Export,
    output: Path,
    text: Calibration,
    schedule: Schedule,
    *,
    passages: str | None = None,
    overwrite: bool = False,
    progress: Progress = show_nothing,
) -> Export:
    """Heals an exported cut into `output`. Arguments and errors: `surgery.healing.healing.heal`."""
    from surgery.healing.healing import heal

    with progress("heal", schedule.steps) as advance:
        return heal(
            cut,
            output,
            text,
            schedule,
            passages=passages,
            overwrite=overwrite,
            advance=advance,
        )
