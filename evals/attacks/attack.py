"""What an attack is, and what it is given: a model, and passages that it may or may not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from evals.memorization.extraction import run_pass
from evals.memorization.measures import Flags, Pass, Scores
from evals.running.predictions import Sampling
from evals.samples import Samples, Tokens
from surgery.errors import MeasurementError


@dataclass(frozen=True)
class Target:
    """A loaded model, its tokenizer (or None), and the passages to recover from it.

    `unrelated`: int32 [M, T], text that was not trained on; `batch_size`: rows at a time.
    """

    model: Any
    tokenizer: Any
    samples: Samples
    unrelated: Tokens
    batch_size: int | None = None

    def read(self, tokens: Tokens, prefix_length: int, *, full: bool = False) -> Pass:
        """One teacher-forced pass over rows; `full`: also distributions, and greedy decoding."""
        return run_pass(
            self.model,
            tokens,
            prefix_length,
            full=full,
            sampling=Sampling(),
            batch_size=self.batch_size,
        )

    def check_in_memory(self, name: str) -> None:
        """Raises `MeasurementError` where an attack on the weights would not reach them all."""
        if any(parameter.is_meta for parameter in self.model.parameters()):
            raise MeasurementError(
                f"{name} needs every weight in memory, and some are offloaded",
                fix="leave `device_map` out, or name other attacks with `attack`",
            )

    @cached_property
    def seen(self) -> Pass:
        """The pass over the unchanged passages, shared by all attacks that read it."""
        made = self.read(self.samples.tokens, self.samples.prefix_length, full=True)
        if self.tokenizer is None:
            return made
        return replace(made, texts=self.tokenizer.batch_decode(made.suffix.tolist()))


@dataclass(frozen=True)
class Outcome:
    """What an attack came to, for N passages.

    - `recovered`: bool [N]. `tried`: bool [N], the passages that count.
    - `curve`: by measure, bool [K, N]: what was recovered at each of the attack's K stages.
    - `scores`: by name, [N]: how much each passage looks like training text.
    """

    recovered: Flags
    tried: Flags
    curve: Mapping[str, Flags] = field(default_factory=dict)
    scores: Mapping[str, Scores] = field(default_factory=dict)

    @staticmethod
    def of_all(recovered: Flags) -> Outcome:
        """Every passage counts."""
        return Outcome(recovered, np.ones_like(recovered))

    def select(self, rows: Flags) -> Outcome:
        """The outcome for some of the passages: bool [N]."""
        return Outcome(
            self.recovered[rows],
            self.tried[rows],
            {name: flags[:, rows] for name, flags in self.curve.items()},
            {name: values[rows] for name, values in self.scores.items()},
        )

    @property
    def counted(self) -> Flags:
        """What was recovered of the passages that count. Of very few, none may be left."""
        return self.recovered[self.tried]


@dataclass(frozen=True)
class Attack:
    """A way to get at passages.

    - `setting`: its parameters, in words; `stages`: the points of its curve.
    - `definition`, `source`: when a passage counts as recovered, and where this comes from.
    - `cost`: in passes over the passages.
    - `run`: the same model and passages always give the same outcome.
    - `check`: raises `SamplesError` for passages that it cannot be tried on.
    - `tells_members`: it recovers no passage; its scores tell members from non-members.
    """

    name: str
    setting: str
    definition: str
    source: str
    cost: str
    run: Callable[[Target], Outcome]
    stages: tuple[int, ...] = ()
    check: Callable[[Samples], None] = lambda samples: None
    tells_members: bool = False

    @property
    def description(self) -> dict[str, str]:
        """Its texts, as results hold them."""
        return {
            key: getattr(self, key) for key in ("name", "setting", "definition", "source", "cost")
        }
