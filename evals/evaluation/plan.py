"""What an evaluation measures, and how: the same for both models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from evals.benchmarks.cache import BaselineCache
from evals.benchmarks.running import Benchmarks
from evals.evaluation.gates import DropLimit
from evals.evaluation.report import Point, Settings
from evals.running.processes import Processes
from evals.samples import Passages, Samples
from surgery.record.manifest import TextSource

Progress = Callable[[str, "int | None"], AbstractContextManager[Callable[[int], None]]]
"""A bar for a text and a total, which is told how much has just been done."""


@dataclass(frozen=True)
class Plan:
    """What is measured, and how; the same for both models.

    - `benchmarks`: the tasks, or None for none.
    - `samples`: passages, or None. `heldout`: texts that neither model was trained on; `controls`:
      what they are called.
    - `batch_size`: of everything; None: what memory allows, found for the base.
    - `attacks`: names of those to try (`evals.attacks.audit.named`); they need `samples` and
      `heldout`.
    - `limits`, `max_extraction`, `max_recovered` (by attack): the gates.
    - `front`: points that a search found, for the trade-off picture
      (`evals.evaluation.conclusions.read_front`).
    - `speed`: the object of `bench --json`.
    - `processes`: which share the work.
    """

    benchmarks: Benchmarks | None = None
    samples: Passages | None = None
    heldout: Sequence[str] = ()
    controls: Sequence[TextSource] = ()
    batch_size: int | None = None
    dtype: str = "auto"
    device: str | None = None
    device_map: str | None = None
    limits: Sequence[DropLimit] = ()
    max_extraction: float | None = None
    attacks: tuple[str, ...] = ()
    max_recovered: Mapping[str, float] = field(default_factory=dict)
    cache: BaselineCache = field(default_factory=lambda: BaselineCache(None))
    show_text: bool = False
    front: Sequence[Point] = ()
    speed: dict[str, Any] | None = None
    processes: Processes = field(default_factory=Processes)

    def settings(self, samples: Samples | None, dtype: str) -> Settings:
        """The plan as the report records it. `samples`, `dtype`: as they were measured."""
        tasks = self.benchmarks
        return Settings(
            tasks=list(tasks.names) if tasks else [],
            num_fewshot=tasks.num_fewshot if tasks else None,
            limit=tasks.limit if tasks else None,
            samples=samples.source if samples else None,
            prefix_length=samples.prefix_length if samples else None,
            suffix_length=samples.suffix_length if samples else None,
            controls=list(self.controls),
            max_drop={limit.pattern: limit.limit for limit in self.limits},
            max_extraction=self.max_extraction,
            attacks=list(self.attacks),
            max_recovered=dict(self.max_recovered),
            dtype=dtype,
            batch_size=self.batch_size,
        )
