"""Finds and opens what an evaluation needs besides the models: tasks, passages, texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evals.data import Passages
from evals.data.inputs import names_lab, open_passages, read_heldout_texts
from evals.jobs.result_folder import Journals
from evals.measure.attacks.sibling import find_sibling
from evals.measure.drops import check_limited_tasks
from evals.report.request import EvaluationRequest
from evals.run.console import show_progress
from evals.run.finding import find_recorded_commit
from evals.run.lm_eval.running import Benchmarks
from surgery.checkpoint.content import find_cache, hash_file
from surgery.errors import MeasurementError
from surgery.hub.finding import find_outline
from surgery.hub.resolved import ResolvedModel
from surgery.reading.corpus import open_corpus
from surgery.reading.passages import read_texts
from surgery.record.manifest import TextSource
from surgery.record.report import FrontPoint, ModelMap
from surgery.untrusted import guard, parse_json, read_bytes


@dataclass(frozen=True)
class Materials:
    """What `request` names, opened. `heldout`: texts that no model was trained on; `controls`: the
    files they come from; `sibling`: what attention may be copied from; `cache`: a
    folder with benchmark results; `journals`: keep the attacks until the report is there."""

    request: EvaluationRequest
    benchmarks: Benchmarks | None = None
    passages: Passages | None = None
    heldout: Sequence[str] = ()
    controls: Sequence[TextSource] = ()
    sibling: ResolvedModel | None = None
    front: Sequence[FrontPoint] = ()
    map: ModelMap | None = None
    cache: Path | None = None
    journals: Journals = field(default_factory=lambda: Journals(None))

    def with_search(self, path: Path) -> Materials:
        """These, with what a search found that has ended since: the file is its search.json."""
        front, found = read_search(path)
        request = self.request.model_copy(update={"front": path})
        return replace(self, request=request, front=front, map=found)


def open_materials(
    request: EvaluationRequest,
    models: Iterable[tuple[str, str | None]] = (),
    base: str | None = None,
) -> Materials:
    """Finds everything before any work starts. Tasks load slowly, so they come last.

    `models`: names and revisions, looked up once the texts are read, as are the twin and `base`,
    at the commit that one of the models records. Raises `SurgeryError` for anything unusable, and
    `UnknownNameError` if a gate limits a task that is not run.
    """
    front, found = read_search(request.front) if request.front else ([], None)
    lab, samples = request.lab, request.samples or request.lab
    passages = open_passages(samples, request) if samples else None
    if request.heldout and not names_lab(request.heldout):
        corpus = open_corpus(request.heldout)
        heldout = read_texts(corpus)
        controls = [_record_text(file.name, file.place) for file in corpus]
    else:
        heldout = read_heldout_texts(request.heldout, lab)
        named = str(request.heldout[0]) if request.heldout else lab
        controls = [TextSource(name=named)] if named else []
    found_models = [find_outline(model, revision)[0] for model, revision in models]
    if base is not None:
        find_outline(base, find_recorded_commit(base, found_models))
    if request.twin:
        find_outline(request.twin)
    sibling = find_sibling(request.sibling, ())
    benchmarks = None
    if request.task_names:
        with show_progress("loading tasks", None):
            benchmarks = Benchmarks.load(
                request.task_names,
                include_paths=request.include_path,
                limit=request.limit,
                num_fewshot=request.num_fewshot,
            )
    check_limited_tasks(request.max_drop, list(benchmarks.tasks) if benchmarks else [])
    cache = None if request.no_cache else find_cache()
    texts = (heldout, controls, sibling)
    return Materials(request, benchmarks, passages, *texts, front, found, cache)


def read_search(path: Path) -> tuple[list[FrontPoint], ModelMap | None]:
    """Reads the front, and what each unit is worth, from the output of `search --json`.

    Raises `MeasurementError` for anything else.
    """
    with guard(MeasurementError, "is not the JSON of a search", path):
        search = parse_json(read_bytes(path, MeasurementError))
        before, found = search["base"]["heldout_loss"], search.get("map")
        front = [
            FrontPoint(
                label=f"{edit['spec']} {edit['variant']}",
                loss_increase=edit["heldout_loss"] - before,
                **{key: edit[key] for key in FrontPoint.model_fields if key in edit},
            )
            for edit in search["front"]
        ]
        return front, ModelMap.model_validate(found) if found else None


def _record_text(name: str, place: object) -> TextSource:
    """A file by its own name and hash, without folders, which may name people. A data set by name
    only."""
    if not isinstance(place, Path):
        return TextSource(name=name)
    return TextSource(name=place.name, sha256=hash_file(place))
