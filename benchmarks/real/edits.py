"""Measures chosen edits of the model that learned: their cost, and what they leave to attackers."""

from __future__ import annotations

import time
from pathlib import Path

from evals.data import load_samples
from evals.data.inputs import find_calibration_text, make_fitter, read_heldout_texts
from evals.data.windows import cut_windows
from evals.measure.edits.engine import BASE, Engine, MeasuredEdit
from evals.measure.memorization.recovery import make_recovery
from evals.run.models import open_model
from surgery.selection import Selection, parse_selection

COLUMNS = ("greedy", "any", "hints:4")


def measure_edits(folder: Path, edits: tuple[str, ...], dtype: str) -> None:
    """Print a row for each edit. An edit reads VARIANT:SPEC, or several of these with `+` between.

    On all passages, and on all of the held-out text. `folder` is what `learn` made.
    """
    loaded = open_model(str(folder / "model"), dtype=dtype)
    size = loaded.dimensions

    def read(edit: str) -> Selection:
        parts = [part.partition(":")[::2] for part in edit.split("+")]
        sizes = (size.num_blocks, size.num_heads, size.num_groups)
        return tuple(sorted(p for name, spec in parts for p in parse_selection(spec, name, *sizes)))

    selections = [read(edit) for edit in edits]
    text = find_calibration_text([str(folder / "calibration.txt")], str(folder), ["mean"])
    samples = load_samples(str(folder / "records.jsonl"), tokenizer=loaded.tokenizer)
    samples = samples.select(samples.trained_on)
    texts = read_heldout_texts([folder / "heldout.txt"])
    windows = cut_windows(texts, loaded.tokenizer, samples.tokens.shape[1])
    plans = [loaded.editable.plan(selection) for selection in selections]
    fitter = make_fitter(plans, text, loaded)
    fit = fitter.fit if fitter else None
    engine = Engine(loaded.model, samples, windows, fit=fit, editable=loaded.editable)
    started = time.monotonic()
    base, *measured = engine.measure([BASE, *selections])
    seconds = time.monotonic() - started
    print(f"{len(samples)} passages, {windows.size:,} held-out tokens, {loaded.dtype}")
    print(f"{seconds / (1 + len(edits)):.0f} seconds an edit")
    print(f"| edit | held-out loss | KL | {' | '.join(COLUMNS)} |")
    for name, one in zip(("none", *edits), (base, *measured), strict=True):
        _print_row(name, one, base)


def _print_row(edit: str, measured: MeasuredEdit, base: MeasuredEdit) -> None:
    cost = measured.heldout_nll.mean() - base.heldout_nll.mean()
    flags = (make_recovery(name).recovered(measured.evidence) for name in COLUMNS)
    shares = " | ".join(f"{one.mean():.1%}" for one in flags)
    kl = measured.heldout_kl.mean()
    print(f"| {edit} | {cost:+.3f} | {kl:.3f} | {shares} |", flush=True)
