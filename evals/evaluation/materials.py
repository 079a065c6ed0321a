"""Finds and opens what an evaluation needs besides the models: tasks, passages, texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.benchmarks.cache import BaselineCache
from evals.benchmarks.running import Benchmarks
from evals.evaluation.conclusions import read_front
from evals.evaluation.gates import check_limited_tasks
from evals.evaluation.report import FrontPoint
from evals.evaluation.request import EvaluationRequest
from evals.healing import find_healing_text
from evals.inputs import (
    Progress,
    look_up,
    open_passages,
    read_heldout_texts,
    show_nothing,
)
from evals.samples import Passages
from surgery.checkpoint.content import find_cache, hash_file
from surgery.fitting.calibration import Text
from surgery.reading.corpus import open_corpus
from surgery.reading.passages import read_texts
from surgery.record.manifest import TextSource


@dataclass(frozen=True)
class Materials:
    """What `request` names, opened. `heldout`: texts that no model was trained on; `controls`: the
    files they come from; `healing`: text that the base is healed on."""

    request: EvaluationRequest
    benchmarks: Benchmarks | None = None
    passages: Passages | None = None
    heldout: Sequence[str] = ()
    controls: Sequence[TextSource] = ()
    healing: Text | None = None
    front: Sequence[FrontPoint] = ()
    cache: BaselineCache = field(default_factory=lambda: BaselineCache(None))


def open_materials(
    request: EvaluationRequest,
    models: Iterable[tuple[str, str | None]] = (),
    *,
    progress: Progress = show_nothing,
) -> Materials:
    """Finds everything before any work starts. Tasks load slowly, so they come last.

    `models`: names and revisions, looked up before the tasks. Raises `SurgeryError` for anything
    unusable, and `UnknownTaskError` if a gate limits a task that is not run.
    """
    front = read_front(request.front) if request.front else []
    lab, samples = request.lab, request.samples or request.lab
    passages = open_passages(samples, request) if samples else None
    if request.control:
        corpus = open_corpus(request.control)
        heldout, controls = (
            read_texts(corpus),
            [_record_text(file.name, file.place) for file in corpus.files],
        )
    else:
        heldout, controls = read_heldout_texts((), lab), [TextSource(name=lab)] if lab else []
    healing = find_healing_text(request.heal) if request.heal else None
    for model, revision in models:
        look_up(model, revision)
    with progress("loading tasks", None):
        benchmarks = Benchmarks.load(
            request.task_names,
            include_paths=request.include_path,
            limit=request.limit,
            num_fewshot=request.num_fewshot,
        )
    check_limited_tasks(request.max_drop, list(benchmarks.tasks))
    cache = BaselineCache(None if request.no_cache else find_cache())
    return Materials(request, benchmarks, passages, heldout, controls, healing, front, cache)


def _record_text(name: str, place: object) -> TextSource:
    """A file by name and hash, a data set by name only."""
    return TextSource(name=name, sha256=hash_file(place) if isinstance(place, Path) else None)
