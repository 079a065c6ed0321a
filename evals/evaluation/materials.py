"""What an evaluation needs beside the models: tasks, passages and texts, found and opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from evals.benchmarks.cache import BaselineCache
from evals.benchmarks.running import Benchmarks
from evals.evaluation.conclusions import read_front
from evals.evaluation.gates import check_named
from evals.evaluation.report import FrontPoint
from evals.evaluation.request import EvaluationRequest
from evals.inputs import (
    Progress,
    heldout_texts,
    look_up,
    open_passages,
    show_nothing,
)
from evals.samples import Passages
from surgery.checkpoint.content import cache_folder, sha256_of
from surgery.reading.corpus import open_corpus
from surgery.reading.passages import texts
from surgery.record.manifest import TextSource


@dataclass(frozen=True)
class Materials:
    """What `request` names. `heldout`: texts that no model was trained on; `controls`: the files
    they are from."""

    request: EvaluationRequest
    benchmarks: Benchmarks | None = None
    passages: Passages | None = None
    heldout: Sequence[str] = ()
    controls: Sequence[TextSource] = ()
    front: Sequence[FrontPoint] = ()
    cache: BaselineCache = field(default_factory=lambda: BaselineCache(None))


def open_materials(
    request: EvaluationRequest,
    models: Iterable[tuple[str, str | None]] = (),
    *,
    progress: Progress = show_nothing,
) -> Materials:
    """Finds everything before any work. Tasks may take long to load, so they come last.

    `models`, each with its revision, are looked up before that. Raises `SurgeryError` for what
    cannot be used, and `UnknownTaskError` for a gate on a task that is not run.
    """
    front = read_front(request.front) if request.front else []
    lab, samples = request.lab, request.samples or request.lab
    passages = open_passages(samples, request) if samples else None
    if request.control:
        corpus = open_corpus(request.control)
        heldout, controls = (
            texts(corpus),
            [_recorded(file.name, file.place) for file in corpus.files],
        )
    else:
        heldout, controls = heldout_texts((), lab), [TextSource(name=lab)] if lab else []
    for model, revision in models:
        look_up(model, revision)
    with progress("loading tasks", None):
        benchmarks = Benchmarks.load(
            request.task_names,
            include_paths=request.include_path,
            limit=request.limit,
            num_fewshot=request.num_fewshot,
        )
    check_named(request.max_drop, list(benchmarks.tasks))
    cache = BaselineCache(None if request.no_cache else cache_folder())
    return Materials(request, benchmarks, passages, heldout, controls, front, cache)


def _recorded(name: str, place: object) -> TextSource:
    """A file by its name and hash, a data set by its name alone."""
    return TextSource(name=name, sha256=sha256_of(place) if isinstance(place, Path) else None)
