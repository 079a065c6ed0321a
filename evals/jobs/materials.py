"""Finds and opens what a measurement needs besides the models: tasks, passages, texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evals.choose.search.report import SearchResult
from evals.data import PassageSource
from evals.data.inputs import (
    names_lab,
    open_never,
    open_passages,
    read_heldout_texts,
    require_heldout_texts,
)
from evals.jobs.asking import MeasureRequest
from evals.measure.attacks.sibling import find_sibling
from evals.run.console import show_progress
from evals.run.finding import find_recorded_commit
from evals.run.keep import KEEP_NOTHING, Store
from evals.run.lm_eval.running import Benchmarks
from evals.table.limits import check_limited_tasks
from surgery.checkpoint import hash_file
from surgery.errors import MeasurementError
from surgery.hub.finding import find_outline
from surgery.hub.resolved import ResolvedModel
from surgery.lab import find_lab
from surgery.reading.corpus import open_corpus
from surgery.reading.passages import read_texts
from surgery.record.manifest import TextSource
from surgery.record.measured import Measured
from surgery.record.report import FrontPoint, Named
from surgery.untrusted import parse_json, read_bytes, reraise_as


@dataclass(frozen=True)
class Front:
    """The edits of a search that no other beats, their figures, and what these are called."""

    points: Sequence[FrontPoint]
    figures: Sequence[Measured]
    names: Mapping[str, Named]


@dataclass(frozen=True)
class Materials:
    """What `request` names, opened. `never`: records of the passages' form, and `heldout`: texts,
    that no model was trained on; `controls`: the files of the texts; `sibling`: what attention may
    be copied from; `store`: keeps finished work."""

    request: MeasureRequest
    benchmarks: Benchmarks | None = None
    passages: PassageSource | None = None
    never: PassageSource | None = None
    heldout: Sequence[str] = ()
    controls: Sequence[TextSource] = ()
    sibling: ResolvedModel | None = None
    front: Front | None = None
    store: Store = KEEP_NOTHING

    def with_search(self, path: Path) -> Materials:
        """These, with what a search found that has ended since: the file is its search.json."""
        request = self.request.model_copy(update={"front": path})
        return replace(self, request=request, front=read_search(path))


def open_materials(
    request: MeasureRequest,
    models: Iterable[tuple[str, str | None]] = (),
    base: str | None = None,
) -> Materials:
    """Finds everything before any work starts. Tasks load slowly, so they come last.

    `models`: names and revisions. Before tasks load, they are looked up, and so is `base`, at the
    commit that one of the models records. Raises `SurgeryError` for anything unusable, and
    `UnknownNameError` if a limit is on a task that is not run.
    """
    front = read_search(request.front) if request.front else None
    samples, named = request.passages.samples or request.lab, request.texts.heldout
    passages = open_passages(request.passages, request.lab) if samples else None
    never = open_never(request.passages, request.never)
    if named and not names_lab(named):
        corpus = open_corpus(named)
        heldout = read_texts(corpus)
        controls = [_record_text(file.name, file.place) for file in corpus]
    else:
        needed = request.attack_names and request.baseline
        find = require_heldout_texts if needed else read_heldout_texts
        lab = request.lab or find_lab(samples)
        heldout = find(named, lab or request.models[0])
        source = str(named[0]) if named else lab
        controls = [TextSource(name=source)] if source else []
    if request.task_names:
        _look_up(models, base)
    if request.attacks.twin:
        find_outline(request.attacks.twin)
    sibling = find_sibling(request.attacks.sibling, ())
    benchmarks = None
    if request.task_names:
        with show_progress("loading tasks", None):
            benchmarks = Benchmarks.load(
                request.task_names,
                include_paths=request.benchmarks.include_path,
                limit=request.benchmarks.limit,
                num_fewshot=request.benchmarks.num_fewshot,
            )
    check_limited_tasks(request.benchmarks.max_drop, list(benchmarks.tasks) if benchmarks else [])
    texts = passages, never, heldout, controls
    return Materials(request, benchmarks, *texts, sibling, front, request.run.store)


def _look_up(models: Iterable[tuple[str, str | None]], base: str | None) -> None:
    """Finds models without their weights. Arguments: as for `open_materials`."""
    outlines = [find_outline(model, revision)[0] for model, revision in models]
    if base is not None:
        find_outline(base, find_recorded_commit(base, outlines))


def read_search(path: Path) -> Front:
    """Reads the front from the output of `search --json`.

    Raises `MeasurementError` for anything else.
    """
    with reraise_as(MeasurementError, "is not the JSON of a search", path):
        found = SearchResult.model_validate(parse_json(read_bytes(path, MeasurementError)))
    edits = {edit.of: edit for edit in found.edits}
    points = [
        FrontPoint(of=f"found-{at}", label=edits[of].label) for at, of in enumerate(found.front, 1)
    ]
    names = {of: point.of for of, point in zip(found.front, points, strict=True)}
    rows = [figure for figure in found.figures if figure.of in names and figure.on == "chosen on"]
    renamed = [row.model_copy(update={"of": names[row.of]}) for row in rows]
    return Front(points, renamed, found.names)


def _record_text(name: str, place: object) -> TextSource:
    """A file by its own name and hash, without folders, which may name people. A data set by name
    only."""
    if not isinstance(place, Path):
        return TextSource(name=name)
    return TextSource(name=place.name, sha256=hash_file(place))
