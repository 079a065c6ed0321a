"""The inputs of a sweep: a loaded model, its edits, and the text to measure them on.

Its edits are every block alone, the last k together, every range, group, and head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evals.choose.grid import Kind
from evals.choose.sweep.request import SweepRequest
from evals.choose.sweep.scoring import choose_batch_sizes
from evals.choose.units import Grain, kind_of, list_units, open_units
from evals.data import Samples, Tokens
from evals.data.inputs import (
    find_calibration_text,
    make_fitter,
    open_passages,
    require_heldout_texts,
    tokenize_passages,
)
from evals.data.windows import cut_documents
from evals.measure.edits.engine import Engine
from evals.run.batching import keep_rows_per_batch
from evals.run.console import show_progress
from evals.run.groups import list_variants
from evals.run.keep import Store
from evals.run.models import LoadedModel, open_model
from surgery.fitting.fitter import Fitter
from surgery.hub.finding import find_outline
from surgery.lab import find_lab
from surgery.selection import EditedHeads, Selection
from surgery.variants import Fit

if TYPE_CHECKING:
    from evals.run.lm_eval.running import Benchmarks


def list_edits(
    num_blocks: int,
    num_heads: int,
    variants: Sequence[str],
    request: SweepRequest,
    num_groups: int | None = None,
) -> dict[Selection, Kind]:
    """Lists edits in the order of a report, each under the first kind it belongs to.

    Every block alone; with `last` the last 2, 3, … of them; with `ranges` every contiguous range;
    with `heads` every query head, and where several share one of `num_groups` key/value heads every
    such group. Each in every variant.
    """
    every, whole = range(num_blocks), tuple(range(num_heads))
    spans: list[tuple[Kind, range]] = [("block", every[block : block + 1]) for block in every]
    if request.last:
        spans += [("last", every[first:]) for first in reversed(every)]
    if request.ranges:
        spans += [("range", every[first : end + 1]) for first in every for end in every[first:]]
    found: dict[Selection, Kind] = {}
    for kind, blocks in spans:
        for variant in variants:
            found.setdefault(tuple(EditedHeads(block, whole, variant) for block in blocks), kind)
    if request.heads:
        for unit in list_units(num_blocks, num_heads, "heads", variants, num_groups):
            found.setdefault((unit,), kind_of(unit, num_heads))
    return found


@dataclass(frozen=True)
class OpenedSweep:
    """A request with its inputs opened.

    - `heldout`: int32 [M, T] windows.
    - `edits`: in the order of the report. `units`: the blocks and heads to estimate.
    - `fitter`: None if no variant needs one. `warnings`: which heads are left out, and why.
    - `benchmarks`: None without tasks. `sizes`: task → rows at a time. `store`: of work on the
      model, with the fits of `fitter`.
    """

    request: SweepRequest
    loaded: LoadedModel
    samples: Samples
    heldout: Tokens
    edits: dict[Selection, Kind]
    units: tuple[EditedHeads, ...]
    engine: Engine
    fitter: Fitter | None
    benchmarks: Benchmarks | None
    sizes: dict[str, int]
    warnings: tuple[str, ...]
    store: Store

    def fit_alone(self) -> dict[int, Fit]:
        """Block → its fit where it is edited alone; none without a fitter."""
        if self.fitter is None:
            return {}
        blocks = range(self.loaded.dimensions.num_blocks)
        return self.fitter.fit_alone(blocks, {unit.variant for unit in self.units})


def open_sweep(request: SweepRequest) -> OpenedSweep:
    """Opens the inputs of a request: texts first, then tasks, then the model.

    Raises `SurgeryError` for inputs that it cannot use.
    """
    model = request.model
    fits = bool(request.texts.calibration) or (request.estimate and find_lab(model) is not None)
    variants = list_variants(request.variant, fits=fits)
    passages = open_passages(request.passages, find_lab(model))
    texts = require_heldout_texts(request.texts.heldout, model)
    calibrated = find_calibration_text(request.texts.calibration, model, variants)
    benchmarks = _load_tasks(request)
    loaded = open_model(model, revision=request.revision, **request.run.running)
    rows = tokenize_passages(passages, loaded.tokenizer)
    heldout, documents = cut_documents(texts, loaded.tokenizer, rows.tokens.shape[1])
    editable, size = loaded.editable, loaded.dimensions
    grain: Grain = "mixed" if request.heads or request.estimate else "blocks"
    units, warnings = open_units(loaded, grain, variants)
    edits = list_edits(size.num_blocks, size.num_heads, variants, request, size.num_groups)
    edits = {edit: kind for edit, kind in edits.items() if editable.find_refusal(edit) is None}
    fitter = make_fitter([editable.plan(edit) for edit in edits], calibrated, loaded)
    store, sizes = loaded.narrow(request.run.store), {}
    if benchmarks is not None:
        sizes = choose_batch_sizes(benchmarks, loaded, request.run.batch_size, store)
    rows_at_once = request.run.batch_size or keep_rows_per_batch(
        store, loaded.model, rows.tokens.shape[1]
    )
    store = store.narrow(fitter)
    engine = Engine(
        loaded.model,
        rows,
        heldout,
        batch_size=rows_at_once,
        fit=fitter.fit if fitter else None,
        editable=editable,
        store=store,
        documents=documents,
    )
    return OpenedSweep(
        request, loaded, rows, heldout, edits, units, engine, fitter, benchmarks, sizes, warnings,
        store,
    )  # fmt: skip


def _load_tasks(request: SweepRequest) -> Benchmarks | None:
    """Loads the tasks, if there are any. Looks up the model first: tasks may take long to load."""
    asked = request.benchmarks
    if not asked.names:
        return None
    find_outline(request.model, request.revision)
    with show_progress("loading tasks", None):
        from evals.run.lm_eval.running import Benchmarks

        return Benchmarks.load(asked.names, include_paths=asked.include_path, limit=asked.limit)
