"""The text that a model is healed on, which must hold none of the passages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from evals.data.inputs import read_lab_text, tokenize_passages
from evals.run.console import show_progress
from surgery.errors import SamplesError
from surgery.hub.embedded import LAB_TEXT, find_lab

if TYPE_CHECKING:
    from evals.data import Passages, Samples
    from evals.run.models import LoadedModel
    from surgery.exporting import Export
    from surgery.families import Dimensions
    from surgery.fitting.calibration import Calibration, Text
    from surgery.healing.training import Flags, Schedule
    from surgery.hub.resolved import ResolvedModel
    from surgery.record.manifest import HealingRecord, TextRecord

SHARED = 16
"""Tokens in a row that a passage and the text may not share; fewer for a shorter passage."""
_BASE = np.uint64(0x9E3779B97F4A7C15)


def find_healing_text(named: Sequence[str]) -> Text:
    """The text that `--heal` names: files, folders, data sets, or a lab model for the lab's.

    Needs no model, so that mistakes show early. Raises `SamplesError`.
    """
    from surgery.fitting.calibration import open_calibration

    return read_lab_text() if find_lab(*named) else open_calibration(named)


def read_healing_text(
    text: Text, schedule: Schedule, model: ResolvedModel, passages: Passages | None
) -> tuple[Calibration, str | None]:
    """The text in a model's tokens, and the SHA-256 of the passages.

    Warns of rows left out or merged. Raises `SamplesError` for too little text, and for text that
    holds passages.
    """
    from surgery.editing.loading import load_tokenizer

    tokenizer = load_tokenizer(model.folder)
    tokens = schedule.tokenize(text, tokenizer, model.inventory.dimensions)
    if passages is None:
        return tokens, None
    samples = tokenize_passages(passages, tokenizer)
    check_apart(samples, tokens)
    return tokens, samples.sha256


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
            got=f"the first is {passages.ids[int(np.argmax(within))]!r}",
            fix="leave out the files that hold them, or give other text",
        )


def _hash_runs(tokens: npt.NDArray[np.int32], size: int) -> npt.NDArray[np.uint64]:
    """Hashes every `size` tokens in a row: [N, T] → [N, T - size + 1]."""
    powers = np.cumprod(np.full(size, _BASE), dtype=np.uint64)
    runs = np.lib.stride_tricks.sliding_window_view(tokens.astype(np.uint64), size, axis=1)
    return np.asarray(runs @ powers)


def check_recorded_text(text: Text, record: HealingRecord, model: ResolvedModel) -> None:
    """Raises `SamplesError`, before any work, unless `text` in a model's tokens is the recorded."""
    from surgery.editing.loading import load_tokenizer

    _read_again(record, text, load_tokenizer(model.folder), model.inventory.dimensions)


def heal_loaded(loaded: LoadedModel, text: Text, record: HealingRecord) -> None:
    """Heals a loaded model in place, as `record` says, and rounds its weights as an export would.

    Raises `SamplesError` if `text` is not the recorded one.
    """
    schedule, tokens = _read_again(record, text, loaded.tokenizer, loaded.dimensions)
    with show_progress(f"heal {loaded.name}", schedule.steps) as advance:
        heal_model(loaded.model, tokens, schedule, loaded.found.inventory.dtype, advance=advance)


def heal_model(
    model: Any,
    text: Calibration,
    schedule: Schedule,
    stored: str,
    *,
    constants: Mapping[str, Flags] | None = None,
    advance: Callable[[int], None] = lambda steps: None,
) -> None:
    """Heals a model in place and rounds its weights to the dtype `stored`, such as F16.

    `constants`: as for `surgery.healing.training.train`.
    """
    from surgery.checkpoint.torch_tensors import TAGS
    from surgery.healing.training import train

    runs, rounded = model.dtype, next(one for one, tag in TAGS.items() if tag == stored)
    train(model.float(), text.windows, schedule, constants=constants, advance=advance)
    for parameter in model.parameters():  # not the buffers: no checkpoint rounds frequencies
        parameter.data = parameter.data.to(rounded).to(runs)


def _read_again(
    recorded: HealingRecord, text: Text, tokenizer: Any, dimensions: Dimensions
) -> tuple[Schedule, Calibration]:
    """How and on which tokens a model was healed. Raises `SamplesError` for other text."""
    from surgery.healing.training import Schedule

    schedule = Schedule(recorded.steps, recorded.seed, recorded.rank)
    named = ", ".join(map(str, recorded.sources))
    found = schedule.tokenize(
        text, tokenizer, dimensions, lambda windows: f"give the recorded text, {named}"
    )
    now = found.record_text()
    if now.sha256 != recorded.sha256:
        raise SamplesError(
            "is not the text that the model was healed on",
            where=", ".join(source.name for source in now.sources),
            expected=f"{named}, tokens of SHA-256 {recorded.sha256[:12]}",
            got=now.sha256[:12],
        )
    return schedule, found


def find_recorded_text(named: Sequence[str], record: TextRecord, model: str, option: str) -> Text:
    """The recorded text, which `option` names, or which is the lab's.

    Raises `SamplesError` if no text is `named`; whoever reads the text compares its tokens.
    """
    if named:
        return find_healing_text(named)
    if {source.name for source in record.sources} == {LAB_TEXT}:
        return read_lab_text()
    raise SamplesError(
        "needs the text that it was made with",
        where=model,
        expected=", ".join(map(str, record.sources)),
        fix=f"give each file with `{option}`",
    )


def heal_on(text: Text, record: HealingRecord, overwrite: bool) -> Callable[[Export, Path], Export]:
    """Returns what heals a cut again: `(cut, output)`. It raises `SamplesError` for other text."""

    def heal_again(cut: Export, output: Path) -> Export:
        from surgery.editing.loading import load_tokenizer
        from surgery.healing.healing import heal

        tokenizer, size = load_tokenizer(cut.output), cut.plan.inventory.dimensions
        schedule, tokens = _read_again(record, text, tokenizer, size)
        given = (tokens, schedule, record.passages)
        with show_progress("heal", schedule.steps) as advance:
            return heal(cut, output, *given, overwrite=overwrite, advance=advance)

    return heal_again
