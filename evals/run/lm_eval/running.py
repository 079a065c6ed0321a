"""Runs lm-eval tasks on a loaded model, and keeps the scores of every document.

A `TaskRun` is plain JSON, which you can store and compare.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import logging
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain
from math import isnan
from pathlib import Path
from typing import Any

import lm_eval
import numpy as np
import torch
from lm_eval import simple_evaluate
from lm_eval.loggers import EvaluationTracker
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from evals.run.batching import rows_per_batch
from evals.run.finite import check_finite
from evals.run.keep import identify
from evals.run.lm_eval.scores import Scores, collect_scores
from evals.run.lm_eval.tasks import explain_failure, find_tasks, load_task, refuse_passages
from evals.run.models import LoadedModel
from surgery.errors import NotFiniteError, OutputError
from surgery.privacy import drop_paths
from surgery.processes import current_processes

SEEDS = {"random": 0, "numpy": 1234, "torch": 1234, "fewshot": 1234}
"""lm-eval's own defaults."""
_LOGITS_BYTES = 2**31
"""lm-eval keeps all logits of a batch, and their softmax: about 12 bytes each."""
_MOST_ROWS = 64
_LOGGERS = ("lm_eval", "datasets", "huggingface_hub", "transformers")

TaskRun = dict[str, Any]
"""One task on one model: `results`, `config`, `version`, `n-shot`, `higher_is_better`, `n-samples`
and `samples` as lm-eval gives them; `aggregation` (metric → name), `batch_size`, `environment`."""


def list_code(task: Any) -> list[Path]:
    """The Python files of a task that lm-eval does not bring: those of its functions and class, and
    others in the same folders, which these may import."""
    own, folders = Path(lm_eval.__file__).parent, set[Path]()
    left = [type(task), vars(task.config)]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            left += one.values()
        elif isinstance(one, list):
            left += one
        elif callable(one):
            with suppress(TypeError, OSError):  # built into Python
                folders.add(Path(inspect.getsourcefile(one) or "").resolve().parent)
    outside = sorted(one for one in folders if one.is_dir() and not one.is_relative_to(own))
    return [file for folder in outside for file in sorted(folder.glob("*.py"))]


@dataclass(frozen=True)
class Benchmarks:
    """Loaded tasks and their settings. `limit`: documents, or below 1 a share of them."""

    tasks: dict[str, Any]
    manager: Any
    num_fewshot: int | None = None
    limit: float | None = None

    @staticmethod
    def load(
        names: Sequence[str],
        *,
        include_paths: Sequence[Path] = (),
        num_fewshot: int | None = None,
        limit: float | None = None,
    ) -> Benchmarks:
        """Loads tasks by name, group, tag, or pattern, and the data they need.

        Local and downloaded data need no network.
        """
        with silence():
            found, manager = find_tasks(names, include_paths, TaskManager)
            tasks = {key: task for name in found for key, task in load_task(manager, name).items()}
        refuse_passages(tasks)  # a group may name it
        return Benchmarks(tasks, manager, num_fewshot, limit)

    def fingerprint(self, name: str) -> str:
        """SHA-256 of a task's configuration, code, and all its documents, before or after a run."""
        task = self.tasks[name]
        config = task.dump_config()
        config.pop("num_fewshot", None)  # a run sets it: see `count_shots`
        digest = hashlib.sha256(_dump(config))
        for file in list_code(task):
            digest.update(file.read_bytes())
        with silence():
            shots = self.count_shots(name) and task.fewshot_docs()
        for document in chain(task.eval_docs, shots or ()):
            digest.update(_dump(document))
        return digest.hexdigest()

    def only(self, name: str) -> Benchmarks:
        """One of the tasks."""
        return replace(self, tasks={name: self.tasks[name]})

    def name_run(self, name: str, batch_size: int | None) -> Any:
        """The key of a run of a task in a store of work on a model: one for all commands.
        `batch_size`: as asked for."""
        return "task", self.only(name), batch_size

    def count_shots(self, name: str) -> int:
        """The examples that each document of a task is shown with."""
        asked = self.num_fewshot, self.tasks[name].config.num_fewshot
        return next((int(number) for number in asked if number is not None), 0)

    def batch_size(self, name: str, loaded: LoadedModel) -> int:
        """Rows at a time for a task: as many as its longest document allows and as help."""
        task, config = self.tasks[name], loaded.model.config
        longest = max((_dump(document) for document in task.eval_docs), key=len)
        shots = 1 + self.count_shots(name)
        tokens = shots * len(loaded.tokenizer(longest.decode(), verbose=False)["input_ids"])
        length = max(1, min(tokens, int(config.max_position_embeddings)))
        by_logits = _LOGITS_BYTES // (12 * length * int(config.vocab_size))
        return max(1, min(by_logits, _MOST_ROWS, rows_per_batch(loaded.model, length)))

    def run(
        self,
        name: str,
        loaded: LoadedModel,
        *,
        batch_size: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> TaskRun:
        """Runs one task on one model. `advance` gets the number of rows just done.

        The current processes share the batches of tasks that are scored by likelihood. Raises
        `MeasurementError` in one line for any error of lm-eval and the task's code.
        """
        task = self.tasks[name]
        try:
            model = Model(loaded, batch_size, advance)
            with silence():
                found = simple_evaluate(
                    model,
                    tasks=[task],
                    task_manager=self.manager,
                    num_fewshot=self.num_fewshot,
                    limit=self.limit,
                    batch_size=batch_size,
                    bootstrap_iters=0,  # its intervals are not paired
                    random_seed=SEEDS["random"],
                    numpy_random_seed=SEEDS["numpy"],
                    torch_random_seed=SEEDS["torch"],
                    fewshot_random_seed=SEEDS["fewshot"],
                )
            everyones = current_processes().gather([found])  # some have no results
            results: Any = next(filter(None, everyones))
        except NotFiniteError:
            raise
        except Exception as error:  # a task file may hold any code
            raise explain_failure(name, "cannot be run", error) from error
        run = {_PER_TASK[key]: results.pop(key)[name] for key in _PER_TASK}
        of_groups = ("group_subtasks", "groups")
        run |= {
            "aggregation": {
                key: getattr(form, "__name__", "unnamed")  # a partial function has none
                for key, form in task.aggregation().items()
            },
            "batch_size": batch_size,
            "environment": {key: results[key] for key in results if key not in of_groups},
        }
        plain: TaskRun = json.loads(json.dumps(run, default=handle_non_serializable))
        return plain

    def scores(self, name: str, run: TaskRun) -> dict[str, Scores]:
        """Scores of each document, by metric: see `collect_scores`."""
        return collect_scores(name, run, self.tasks[name].aggregation())


@identify.register
def _(benchmarks: Benchmarks) -> list[Any]:
    """Equal for equal tasks and documents that are asked in the same way."""
    return [
        [name, benchmarks.fingerprint(name), benchmarks.limit, benchmarks.count_shots(name), SEEDS]
        for name in benchmarks.tasks
    ]


_ALIKE = ("results", "n-shot", "higher_is_better", "n-samples", "samples")
_PER_TASK = {"configs": "config", "versions": "version", **dict(zip(_ALIKE, _ALIKE, strict=True))}
"""lm-eval's keys of the results of each task, and ours."""


def write_results(folder: Path, name: str, runs: dict[str, TaskRun]) -> None:
    """Writes results and samples of a model called `name` as lm-eval itself would.

    Without the paths of this machine that lm-eval records of a task, such as that of its file.
    """
    runs = {task: {**run, "config": drop_paths(run["config"])} for task, run in runs.items()}
    first = next(iter(runs.values()))
    results: dict[str, Any] = {
        key: {task: run[short] for task, run in runs.items()}
        for key, short in _PER_TASK.items()
        if key != "samples"
    }
    results |= {"group_subtasks": {task: [] for task in runs}, **deepcopy(first["environment"])}
    results["config"] |= {"model": "hf", "model_args": {"pretrained": name}}
    samples = {task: deepcopy(run["samples"]) for task, run in runs.items()}
    with silence():
        tracker = EvaluationTracker(output_path=str(folder))
        tracker.general_config_tracker.log_experiment_args(
            "hf", {"pretrained": name}, "", "", False
        )
        tracker.save_results_aggregated(results=results, samples=samples)
        for task, rows in samples.items():
            tracker.save_results_samples(task_name=task, samples=rows)
    lines = sorted(path.read_bytes().count(b"\n") for path in folder.rglob("samples_*.jsonl"))
    expected = sorted(len(rows) for rows in samples.values())
    if lines != expected or not _is_whole(folder):  # lm-eval only logs a failure
        raise OutputError("lm-eval's results cannot be written", where=folder)


def _is_whole(folder: Path) -> bool:
    """Whether its one file of results is there and complete."""
    try:
        (results,) = folder.rglob("results_*.json")
        json.loads(results.read_bytes())
    except ValueError:
        return False
    return True


class Model(HFLM):  # type: ignore[misc]
    """lm-eval's model around one that is loaded: its dtype and device are those it has."""

    def __init__(
        self,
        loaded: LoadedModel,
        batch_size: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> None:
        with silence():
            super().__init__(
                pretrained=loaded.model,
                tokenizer=loaded.tokenizer,
                backend="causal",
                batch_size=batch_size,
            )
        self._advance, self._processes, self._batches = advance, current_processes(), 0
        self._name = loaded.name

    def _model_call(self, inps: Any, *arguments: Any, **options: Any) -> Any:
        number, self._batches = self._batches, self._batches + 1
        self._advance(len(inps))
        if not self._processes.is_own(number):  # another process reads it
            nothing = torch.full((), torch.nan, device=inps.device)
            return nothing.expand(*inps.shape, self.config.vocab_size)
        return super()._model_call(inps, *arguments, **options)

    def _loglikelihood_tokens(self, *arguments: Any, **options: Any) -> Any:
        self._batches = 0
        answers = super()._loglikelihood_tokens(*arguments, **options)
        everyones = zip(*self._processes.gather([answers]), strict=True)
        found = [next((a for a in some if not isnan(a[0])), some[0]) for some in everyones]
        values = np.array([answer[0] for answer in found])
        check_finite(values, self._name)  # the best of NaNs would be the first
        return found


@contextmanager
def silence() -> Iterator[None]:
    """Inside, lm-eval and its data sets neither print, log, warn, nor show progress bars."""
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        stack.enter_context(redirect_stdout(io.StringIO()))
        stack.enter_context(redirect_stderr(io.StringIO()))  # progress bars
        for logger in map(logging.getLogger, _LOGGERS):
            stack.callback(logger.setLevel, logger.level)
            logger.setLevel(logging.CRITICAL)
        for (module, name), ours in _INSTEAD.items():
            theirs = getattr(sys.modules.get(module), name, None)
            if theirs is not None:
                stack.callback(setattr, sys.modules[module], name, theirs)
                setattr(sys.modules[module], name, ours)
        yield


@cache
def _environment() -> str:
    """Computed once: it takes a second, and lm-eval wants it after every task."""
    from torch.utils.collect_env import get_env_info, pretty_str

    return str(pretty_str(get_env_info()))  # type: ignore[no-untyped-call]


_INSTEAD: dict[tuple[str, str], Callable[[], str | None]] = {
    # of any repository you happen to be in, with an error outside of one
    ("lm_eval.evaluator", "get_git_commit_hash"): lambda: None,
    ("torch.utils.collect_env", "get_pretty_env_info"): _environment,
}


def _dump(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False).encode()
