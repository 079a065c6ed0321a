"""The inputs of a sweep: a loaded model, its edits, and the text to measure them on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.edits.engine import Engine
from evals.inputs import (
    Progress,
    Say,
    find_calibration_text,
    look_up,
    make_fitter,
    open_model,
    open_passages,
    require_heldout_texts,
    tokenize_passages,
)
from evals.models import LoadedModel
from evals.samples import Samples, Tokens
from evals.samples.windows import cut_windows
from evals.search.units import PLURALS, keep_possible, list_units
from evals.sweep.edits import Kind, drop_refused, list_edits
from evals.sweep.request import SweepRequest
from surgery.fitting.fitter import Fitter
from surgery.hub.embedded import find_lab
from surgery.processes import join_launch
from surgery.selection import Part, Selection

if TYPE_CHECKING:
    from evals.benchmarks.running import Benchmarks


@dataclass(frozen=True)
class SweepTask:
    """A request with its inputs opened.

    - `heldout`: int32 [M, T] windows; None if none are measured.
    - `edits`: in the order of the report. `units`: what to estimate beside them.
    - `fitter`: None if no variant needs one. `warnings`: which heads are left out, and why.
    - `benchmarks`: None without tasks. `sizes`: task → rows at a time.
    """

    request: SweepRequest
    loaded: LoadedModel
    samples: Samples
    heldout: Tokens | None
    edits: dict[Selection, Kind]
    units: tuple[Part, ...]
    engine: Engine
    fitter: Fitter | None
    benchmarks: Benchmarks | None
    sizes: dict[str, int]
    warnings: tuple[str, ...]


def open_sweep(request: SweepRequest, say: Say, progress: Progress) -> SweepTask:
    """Opens the inputs of a request: texts first, then tasks, then the model.

    `say` gets warnings. Raises `SurgeryError` for inputs that it cannot use.
    """
    model = request.model
    fits = bool(request.calibration) or (request.estimate and find_lab(model) is not None)
    variants = request.list_variants(fits=fits)
    passages = open_passages(request.samples, request)
    texts = [] if request.exact_only else require_heldout_texts(request.corpus, model)
    calibrated = find_calibration_text(request.calibration, model, variants)
    join_launch(say)
    benchmarks = _load_tasks(request, progress)
    loaded = open_model(model, request, request.revision, say=say)
    rows, heldout = tokenize_passages(passages, loaded, say), None
    if not request.exact_only:
        heldout = cut_windows(texts, loaded.tokenizer, rows.tokens.shape[1])
    editable, size = loaded.editable, loaded.dimensions
    edits = list_edits(size.num_blocks, size.num_heads, variants, request, size.num_groups)
    refused = drop_refused(editable, edits)
    every: tuple[Part, ...] = ()
    if request.estimate:
        some = list_units(size.num_blocks, size.num_heads, "mixed", variants, size.num_groups)
        every, reasons = keep_possible(some, size.num_heads, editable.find_refusal)
        refused = {key: str(why) for key, why in reasons.items()} | refused
    warnings = [
        f"{PLURALS[kind]} with {name} are left out: {why}" for (kind, name), why in refused.items()
    ]
    for warning in warnings:
        say(f"warning: {warning}")
    plans = [editable.plan(edit) for edit in edits]
    fitter = make_fitter(plans, calibrated, loaded, progress=progress)
    sizes = {}
    if benchmarks is not None:
        from evals.sweep.tasks import choose_batch_sizes

        sizes = choose_batch_sizes(benchmarks, loaded, request.batch_size)
    engine = Engine(
        loaded.model,
        rows,
        heldout,
        exact_only=request.exact_only,
        batch_size=request.batch_size,
        fitter=fitter,
        editable=editable,
    )
    return SweepTask(
        request, loaded, rows, heldout, edits, every, engine, fitter, benchmarks, sizes,
        tuple(warnings),
    )  # fmt: skip


def _load_tasks(request: SweepRequest, progress: Progress) -> Benchmarks | None:
    """Loads the tasks, if there are any. Looks up the model first: tasks may take long to load."""
    if not request.task_names:
        return None
    look_up(request.model, request.revision)
    with progress("loading tasks", None):
        from evals.benchmarks.running import Benchmarks

        return Benchmarks.load(
            request.task_names, include_paths=request.include_path, limit=request.limit
        )
