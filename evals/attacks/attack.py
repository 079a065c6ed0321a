"""What an attack is, and what it is given: a model, and passages that it may or may not hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from evals.memorization.extraction import run_pass
from evals.memorization.measures import Flags, Pass
from evals.running.predictions import Sampling
from evals.running.processes import Processes
from evals.samples import Tokens
from surgery.errors import MeasurementError


@dataclass(frozen=True)
class Passages:
    """N rows of one length, the first `prefix_length` tokens of each being the attacker's.

    `unrelated`: int32 [M, T], text that has nothing to do with them, which was not trained on.
    """

    tokens: Tokens
    prefix_length: int
    unrelated: Tokens

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def prefixes(self) -> Tokens:
        return self.tokens[:, : self.prefix_length]

    @property
    def suffixes(self) -> Tokens:
        return self.tokens[:, self.prefix_length :]


@dataclass(frozen=True)
class Attacked:
    """A loaded model, its tokenizer (or None), and the passages that are tried on it.

    `batch_size`: rows at a time; `processes`: which share the work.
    """

    model: Any
    tokenizer: Any
    passages: Passages
    batch_size: int | None = None
    processes: Processes | None = None

    def read(self, tokens: Tokens, prefix_length: int, *, full: bool = False) -> Pass:
        """One teacher-forced pass over rows; `full`: also distributions, and greedy decoding."""
        return run_pass(
            self.model,
            tokens,
            prefix_length,
            full=full,
            sampling=Sampling(),
            batch_size=self.batch_size,
            processes=self.processes,
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
        """The pass over the passages as they are, for every attack that asks."""
        made = self.read(self.passages.tokens, self.passages.prefix_length, full=True)
        if self.tokenizer is None:
            return made
        return replace(made, texts=self.tokenizer.batch_decode(made.suffix.tolist()))


@dataclass(frozen=True)
class Outcome:
    """What an attack came to.

    - `recovered`: bool [N]. `tried`: bool [N], the passages that count.
    - `curve`: by measure, bool [K, N]: what was recovered at each of the attack's K stages.
    """

    recovered: Flags
    tried: Flags
    curve: Mapping[str, Flags] = field(default_factory=dict)

    @staticmethod
    def of_all(recovered: Flags) -> Outcome:
        """Every passage counts."""
        return Outcome(recovered, np.ones_like(recovered))

    def part(self, rows: Flags) -> Outcome:
        """The outcome of some of the passages."""
        curve = {name: flags[:, rows] for name, flags in self.curve.items()}
        return Outcome(self.recovered[rows], self.tried[rows], curve)


@dataclass(frozen=True)
class Attack:
    """A way to get at passages.

    - `setting`: its parameters, in words; `stages`: what stands at each point of a curve.
    - `cost`: what it takes, in passes over the passages.
    - `definition`, `source`: when a passage counts as recovered, and where this comes from.
    - `run`: see `Outcome`; the same model and passages always give the same.
    """

    name: str
    setting: str
    definition: str
    source: str
    cost: str
    run: Callable[[Attacked], Outcome]
    stages: tuple[int, ...] = ()
