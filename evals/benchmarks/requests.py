"""lm-eval's requests, written down once and answered by others: its scores under many edits.

One run of lm-eval records what its model for transformers would compute: the same tokens, cut and
batched in the same way, so that the answers are the same. A sweep computes them under every edit,
and lm-eval scores what it is told, as often as there are edits.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from lm_eval import evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.utils import Collator
from transformers import PreTrainedModel

from evals.benchmarks.running import SEEDS, Benchmarks, Model
from evals.benchmarks.scores import Scores, task_scores
from evals.benchmarks.silence import silence
from evals.benchmarks.tasks import ability, broken
from evals.models import LoadedModel
from evals.sweep.batch import BASE, Batch, Columns, Edits
from evals.sweep.continuations import Continuations
from evals.sweep.shared_prefixes import Branch, every
from surgery.errors import MeasurementError
from surgery.selection import Selection

_GENERATED = "generated"


@dataclass(frozen=True)
class Requests:
    """What tasks ask of a model: `batches`, those of one task after those of another."""

    benchmarks: Benchmarks
    recorders: dict[str, _Recorder]

    @staticmethod
    def record(
        benchmarks: Benchmarks,
        loaded: LoadedModel,
        *,
        batch_size: int | None = None,
        agree: Callable[[int], int] = lambda rows: rows,
    ) -> Requests:
        """Asks lm-eval what it needs to know. Nothing goes through the model yet.

        **Arguments:** `batch_size`: rows at a time, by default what memory allows; `agree`: on one
        number, among processes that share the work.

        Raises `MeasurementError` in one line, whatever lm-eval and a task's code raise.
        """
        if loaded.tokenizer is None:
            raise MeasurementError("benchmarks need a tokenizer", where=loaded.name)
        recorders = {}
        for name, task in benchmarks.tasks.items():
            rows = batch_size or agree(benchmarks.batch_size(name, loaded))
            recorders[name] = _Recorder(loaded, rows)
            try:
                benchmarks.evaluated(task, recorders[name], rows)
            except Exception as error:  # a task file may hold any code
                raise broken(name, "cannot be run", error) from error
        return Requests(benchmarks, recorders)

    @property
    def batches(self) -> list[Batch]:
        return [batch for recorder in self.recorders.values() for batch in recorder.batches]

    @property
    def identity(self) -> dict[str, Any]:
        """What was recorded: equal for equal tasks, documents and batches."""
        return {
            name: [self.benchmarks.fingerprint(name), self.benchmarks.limit, recorder.batch_size]
            for name, recorder in self.recorders.items()
        }

    def described(self, name: str) -> dict[str, Any]:
        """How a task was asked, as plain JSON, and what it asks for: see `ability`."""
        config = self.benchmarks.tasks[name].config
        return {
            "version": (config.metadata or {}).get("version"),
            "num_fewshot": config.num_fewshot,
            "limit": self.benchmarks.limit,
            "batch_size": self.recorders[name].batch_size,
            "ability": ability(config.output_type, config.metadata or {}),
        }

    def scores(self, answers: Sequence[Columns]) -> dict[str, dict[str, Scores]]:
        """Task → metric → scores, for the answers that one edit gave to `batches`, in order.

        A task without a metric that is finite has none. Raises as `record`.
        """
        rest, found = iter(answers), dict[str, dict[str, Scores]]()
        for name, recorder in self.recorders.items():
            player, found[name] = _Player(recorder, rest), {}
            task = self.benchmarks.tasks[name]
            try:
                with silence(), _as_built(task):
                    results: Any = evaluate(
                        player, {"tasks": {name: task}}, limit=self.benchmarks.limit,
                        bootstrap_iters=0,
                    )  # fmt: skip
            except OverflowError:  # a perplexity beyond reach
                continue
            except Exception as error:
                raise broken(name, "cannot be scored", error) from error
            aggregates = task.aggregation()
            run = {
                **{key: results[key][name] for key in ("results", "samples", "higher_is_better")},
                "aggregation": {key: form.__name__ for key, form in aggregates.items()},
            }
            with suppress(MeasurementError):
                found[name] = task_scores(name, run, aggregates)
        return found


@dataclass(frozen=True)
class Generations:
    """Requests that lm-eval's model for transformers decodes in one batch, with the edit in force.

    - `requests`: (context, generation arguments) of each.
    """

    lm: Model
    requests: Sequence[tuple[str, dict[str, Any]]]

    def __len__(self) -> int:
        return len(self.requests)

    def measure(
        self, model: PreTrainedModel, tree: Sequence[Branch], edit: Edits
    ) -> Iterator[tuple[Selection, Columns]]:
        """As `evals.sweep.batch.Batch`; `generated` is the bytes of a JSON list of texts."""
        yield BASE, self._columns()
        for branch in every(tree):
            if branch.measured:
                with edit(branch).active():
                    columns = self._columns()
                yield branch.selection, columns

    def _columns(self) -> Columns:
        instances = [Instance("generate_until", {}, request, 0) for request in self.requests]
        torch.manual_seed(SEEDS["torch"])  # for tasks that sample
        with silence():
            said = json.dumps(self.lm.generate_until(instances))
        return {_GENERATED: np.frombuffer(said.encode(), dtype=np.uint8)}


class _Recorder(Model):
    """Writes down what it is asked, in batches as its parent makes them; its answers mean nothing.

    `calls`: for each call of lm-eval the order that it was put in, and its number of batches.
    """

    def __init__(self, loaded: LoadedModel, batch_size: int) -> None:
        super().__init__(loaded, batch_size)
        self.loaded, self._decoding = loaded, Model(loaded, batch_size)
        self.batches: list[Batch] = []
        self.calls: list[tuple[Any, int]] = []

    def _loglikelihood_tokens(self, requests: Any, **_: Any) -> list[tuple[float, bool]]:
        for _, context, continuation in requests:
            if not (context and 0 < len(continuation) <= self.max_length):
                got = f"{len(context)} and {len(continuation)} tokens"
                raise ValueError(f"a continuation must be 1 to {self.max_length} tokens, got {got}")
        order = Collator(
            requests,
            sort_fn=lambda request: (-len(request[1] + request[2]), (*request[1], *request[2])),
            group_by="contexts",  # of those that differ in the last token alone, one is read
            group_fn=lambda request: request[1] + request[2][:-1],
        )
        chunks = [[self._row(order, *request) for request in chunk] for chunk in self._cut(order)]
        self.batches += [Continuations(*zip(*chunk, strict=True)) for chunk in chunks]
        self.calls.append((order, len(chunks)))
        return [(-1.0, False)] * len(requests)

    def _row(self, order: Any, text: Any, context: list[int], continuation: list[int]) -> Any:
        read = (context + continuation)[-(self.max_length + 1) :][:-1]
        same = order.get_cache(text, context, continuation, torch.empty(1, 1, 1))
        return read, [tokens for _, tokens, _ in same]

    def generate_until(self, requests: Any, **_: Any) -> list[str]:
        order = Collator(
            [request.args for request in requests],
            sort_fn=lambda request: (-len(self.tok_encode(request[0])), request[0]),
            group_by="gen_kwargs",
            group_fn=lambda request: request[1],
        )
        batches = [Generations(self._decoding, chunk) for chunk in self._cut(order)]
        self.batches += batches
        self.calls.append((order, len(batches)))
        return [""] * len(requests)

    def _cut(self, order: Any) -> Iterator[Any]:
        chunks: Iterator[Any] = order.get_batched(n=self.batch_size)
        return chunks


class _Player(Model):
    """Answers what a recorder was asked, call by call, with what was computed meanwhile."""

    def __init__(self, recorder: _Recorder, answers: Iterator[Columns]) -> None:
        super().__init__(recorder.loaded, recorder.batch_size)
        self._calls = [
            (order, [next(answers) for _ in range(batches)]) for order, batches in recorder.calls
        ]

    def loglikelihood(self, requests: Any, **_: Any) -> Any:
        order, batches = self._calls.pop(0)
        return order.get_original([answer for columns in batches for answer in _answers(columns)])

    generate_until = loglikelihood
    _loglikelihood_tokens = loglikelihood  # windows of rolling requests


def _answers(columns: Columns) -> list[Any]:
    if _GENERATED in columns:
        texts: list[Any] = json.loads(columns[_GENERATED].tobytes())
        return texts
    pairs = columns["log_likelihood"].tolist(), columns["greedy"].tolist()
    return list(zip(*pairs, strict=True))


@contextmanager
def _as_built(task: Any) -> Iterator[None]:
    """The requests that the task has already, unanswered, in place of building them anew."""
    for instance in task.instances:
        instance.resps, instance.filtered_resps = [], {}
    task.build_all_requests = lambda **_: None
    try:
        yield
    finally:
        del task.build_all_requests
