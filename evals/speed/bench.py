"""How fast an edited model is, how large, and what it needs: beside the model it was made from.

Each model runs in a process of its own, and the two take turns (A B, B A, A B, …), so that a
machine that slows down or speeds up does so for both. Noise is shown, not hidden: every speed is a
median with its range over all rounds, and a ratio is called a difference only where the two ranges
do not touch.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing import get_context
from statistics import median
from typing import Any

from evals.models import check_precision
from evals.speed.worker import serve
from surgery.errors import MeasurementError, SurgeryError
from surgery.hub.finding import find_model
from surgery.record.manifest import versions

SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")
AMOUNTS = ("cache_bytes", "parameters", "peak_memory_bytes")
FEWEST_ROUNDS = 3
PAUSE = 0.25
"""Seconds between turns: until then the threads of a model that has run may still spin."""


def bench(
    base: str,
    edited: str,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rounds: int = 5,
    batch_size: int = 1,
    dtype: str = "auto",
    device: str | None = None,
    say: Callable[[str], None] = lambda message: None,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Times both models on the same random prompt, and measures what they hold.

    **Arguments:**

    - `base`, `edited`: folders, Hub ids or embedded models.
    - `prompt_tokens`, `new_tokens`, `batch_size`: tokens a row in the prompt, tokens a row decoded
      greedily after it, and rows.
    - `rounds`: turns of each model, at least 3. Were both equally fast, all of one model's n turns
      would still beat all of the other's with probability 2 (n!)² / (2n)!: 0.8 % for 5.
    - `dtype`, `device`: as `evals.models.open_model` takes them.
    - `say`: told what was decided on the user's behalf. `advance`: told the turns done, of
      2 × rounds.

    Returns the JSON object of `bench --json`. Speeds are tokens per second over all rows:
    `median`, `min` and `max` over rounds, and `rounds` themselves. `cache_bytes` are measured on
    the cache that the prompt leaves. `ratios` are edited / base: of speeds the median, smallest
    and largest over rounds, and `within_noise` where the speeds' ranges touch.

    Raises `SourceError`, `CheckpointError` or `UnsupportedError` for a model that cannot be loaded,
    and `MeasurementError` for what cannot be compared, does not fit or dies.
    """
    if rounds < FEWEST_ROUNDS:
        raise MeasurementError("too few rounds to know the noise", expected="3 or more", got=rounds)
    found = [find_model(model) for model in (base, edited)]
    settings = {
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "batch_size": batch_size,
    }
    with ExitStack() as stack:
        runners = [
            _Process({**settings, "source": source, "dtype": dtype, "device": device})
            for source in found
        ]
        for runner in runners:
            stack.callback(runner.stop)
        described = [runner.start() for runner in runners]
        for note in dict.fromkeys(note for record in described for note in record["notes"]):
            say(note)
        check_precision(described[0]["dtype"], described[1]["dtype"], found[1].source.model)
        turns: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
        for number in range(rounds):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                time.sleep(PAUSE)
                turns[index].append(runners[index].turn())
                advance(1)
    models = [_summary(record, turn) for record, turn in zip(described, turns, strict=True)]
    shared = {key: described[0][key] for key in ("dtype", "device", "threads", "memory")}
    return {
        "base": models[0],
        "edited": models[1],
        "ratios": _ratios(models[0], models[1]),
        "settings": {**settings, **shared},
        "provenance": {
            "base": described[0]["identity"],
            "edited": described[1]["identity"],
            "versions": versions(),
        },
    }


class _Process:
    """A process with one model in it, which runs when told to."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.name = str(settings["source"])
        context = get_context("spawn")
        self.pipe, self.theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(self.theirs, settings), daemon=True)

    def start(self) -> dict[str, Any]:
        """Loads the model and warms it up."""
        self.process.start()
        self.theirs.close()
        return self._answer()

    def turn(self) -> dict[str, Any]:
        with suppress(OSError):  # it is gone, and so will its answer be
            self.pipe.send(True)
        return self._answer()

    def stop(self) -> None:
        if self.process.pid is not None:
            self.process.kill()
            self.process.join()

    def _answer(self) -> dict[str, Any]:
        try:
            answer = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            raise MeasurementError(
                "the process that ran the model ended",
                where=self.name,
                got=f"exit code {self.process.exitcode}",
                fix="is there memory for both models at once?",
            ) from None
        if isinstance(answer, SurgeryError):
            raise answer
        record: dict[str, Any] = answer
        return record


def _summary(described: dict[str, Any], turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one model over its turns."""
    speeds = {name: _spread([turn[name] for turn in turns]) for name in SPEEDS}
    return {
        "model": described["identity"]["model"],
        **speeds,
        "cache_bytes": described["cache_bytes"],
        "parameters": described["parameters"],
        "peak_memory_bytes": max(turn["peak_memory_bytes"] for turn in turns),
        "attn_implementation": described["attn_implementation"],
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": values}


def _ratios(base: dict[str, Any], edited: dict[str, Any]) -> dict[str, Any]:
    """Edited / base. A ratio of speeds is taken within each round, where the machine was alike."""
    found: dict[str, Any] = {}
    for name in SPEEDS:
        before, after = base[name], edited[name]
        pairs = zip(before["rounds"], after["rounds"], strict=True)
        spread = _spread([second / first for first, second in pairs])
        apart = before["max"] < after["min"] or after["max"] < before["min"]
        found[name] = {**spread, "within_noise": not apart}
    for name in AMOUNTS:
        # A model without any attention keeps no cache at all.
        found[name] = edited[name] / base[name] if base[name] else None
    return found
