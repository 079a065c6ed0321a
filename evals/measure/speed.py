"""Compares speed, size, and memory of an edited model with those of its source.

Each model runs in a process of its own, because peak memory belongs to a process. The two take
turns (A B, B A, A B, …), so that a machine that slows down does so for both.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch.utils.benchmark import timer

from evals.run.console import Console, say, use_console
from evals.run.finding import find_baseline
from evals.run.forward import cache_bytes, head_of, hidden_states
from evals.run.models import check_precision, find_device, open_model
from surgery.errors import MeasurementError, SurgeryError
from surgery.hub.finding import find_model
from surgery.hub.resolved import ResolvedModel
from surgery.record.manifest import list_versions
from surgery.untrusted import describe_error

SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")
AMOUNTS = ("cache_bytes", "parameters", "peak_memory_bytes")
FEWEST_ROUNDS = 3
SHORTEST = 0.25
"""Seconds that each phase of a turn takes, over its repetitions, so that a stray interrupt weighs
little."""


def compare_speed(
    base: str,
    edited: str,
    *,
    prompt_tokens: int = 128,
    new_tokens: int = 64,
    rounds: int = 5,
    batch_size: int = 1,
    dtype: str = "auto",
    device: str | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> dict[str, Any]:
    """Times both models on the same random prompt, and measures their size.

    **Arguments:** `base`, `edited`: folders, Hub ids, or embedded models. `prompt_tokens`,
    `new_tokens`: tokens a row, given and then decoded greedily; `batch_size`: rows. `rounds`: turns
    of each model, at least 3. If both were equally fast, all n turns of one would still beat all of
    the other's with probability 2 (n!)² / (2n)!: 0.8 % for 5. `dtype`, `device`: as
    `evals.run.models.open_model` takes them. `advance` gets the turns just done, of 2 × rounds.

    Returns the JSON object of `bench --json`. Speeds are tokens per second over all rows. `ratios`
    are edited / base. Ratios of speeds are taken within a round, when the machine was the same.
    """
    if rounds < FEWEST_ROUNDS:
        raise MeasurementError("too few rounds to know the noise", expected="3 or more", got=rounds)
    after = find_model(edited)
    found = [find_baseline(base, [after]), after]
    if device is not None:
        find_device(device)  # before processes start
    asked = {
        "prompt_tokens": prompt_tokens,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "batch_size": batch_size,
    }
    with _start_processes(found) as ask:
        loaded = [ask(index, _load, found[index], dtype, device, asked) for index in (0, 1)]
        for note in dict.fromkeys(note for one in loaded for note in one["notes"]):
            say(note)
        settings = [one["settings"] for one in loaded]
        check_precision(settings[0]["dtype"], settings[1]["dtype"], found[1].source.model)
        turns: tuple[list[dict[str, Any]], ...] = ([], [])
        for number in range(rounds):
            for index in (0, 1) if number % 2 == 0 else (1, 0):
                turns[index].append(ask(index, _take_turn))
                advance(1)
    models = [one["figures"] | _summarize(some) for one, some in zip(loaded, turns, strict=True)]
    return {
        "base": models[0],
        "edited": models[1],
        "ratios": _compute_ratios(models[0], models[1]),
        "settings": {**asked, **settings[0]},
        "provenance": {
            "base": loaded[0]["identity"],
            "edited": loaded[1]["identity"],
            "versions": list_versions(),
        },
    }


@contextmanager
def _start_processes(models: Sequence[ResolvedModel]) -> Iterator[Callable[..., dict[str, Any]]]:
    """One for each model. Yields what runs a function in the process of a model, by its index."""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(ProcessPoolExecutor(1, get_context("spawn"), _follow_parent))
            for _ in models
        ]

        def ask(index: int, work: Callable[..., Any], *arguments: Any) -> dict[str, Any]:
            try:
                answer: dict[str, Any] = workers[index].submit(work, *arguments).result()
            except BrokenProcessPool:
                raise MeasurementError(
                    "the process that ran the model ended",
                    where=models[index],
                    fix="is there memory for both models at once?",
                ) from None
            return answer

        try:
            yield ask
        except BaseException:  # Ctrl-C: do not wait for what they are measuring
            for process in active_children():
                process.kill()
            raise


def _summarize(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """The speeds of one model over its turns, and its peak memory."""
    speeds = {name: _summarize_turns([turn[name] for turn in turns]) for name in SPEEDS}
    return {**speeds, "peak_memory_bytes": max(turn["peak_memory_bytes"] for turn in turns)}


def _summarize_turns(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": values}


def _compute_ratios(base: dict[str, Any], edited: dict[str, Any]) -> dict[str, Any]:
    """Edited / base. A ratio of speeds is taken within a round, when the machine was the same."""
    found: dict[str, Any] = {}
    for name in SPEEDS:
        before, after = base[name], edited[name]
        pairs = zip(before["rounds"], after["rounds"], strict=True)
        spread = _summarize_turns([second / first for first, second in pairs])
        apart = before["max"] < after["min"] or after["max"] < before["min"]
        found[name] = {**spread, "within_noise": not apart}
    for name in AMOUNTS:
        # A model without any attention keeps no cache at all.
        found[name] = edited[name] / base[name] if base[name] else None
    return found


# The rest runs in the process of one model, which keeps the model between turns.

_running: _Running


def _follow_parent() -> None:
    """Leaves Ctrl-C to the parent, and ends this process if the parent is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    parent = parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _load(
    source: ResolvedModel, dtype: str, device: str | None, asked: dict[str, int]
) -> dict[str, Any]:
    """Loads the model, warms it up, and describes it."""
    global _running
    notes: list[str] = []
    try:
        with use_console(Console(say=notes.append)):
            loaded = open_model(source, dtype=dtype, device=device)
        memory = _reset_peak(loaded.model.device)
        _running = _Running(loaded.model, asked)
        _running.decode(*_running.prefill())
    except SurgeryError as error:
        error.where = error.where or source
        raise
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        what, got = "does not fit into memory", describe_error(error)
        raise MeasurementError(what, where=source, got=got) from None
    return {
        "identity": loaded.identity,
        "figures": {
            "model": loaded.identity["model"],
            "cache_bytes": cache_bytes(_running.prefill()[0]),
            "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
            "attn_implementation": loaded.model.config._attn_implementation,
        },
        "settings": {
            "dtype": loaded.dtype,
            "device": loaded.device,
            "threads": torch.get_num_threads(),
            "memory": memory,
        },
        "notes": notes,
    }


def _take_turn() -> dict[str, float]:
    """Tokens per second of both phases, over all rows, and the peak memory so far in bytes."""
    rows, length = _running.prompt.shape
    phases = {
        "prefill": (rows * length, _time_prefill),
        "decode": (rows * _running.new_tokens, _time_decode),
    }
    speeds = {}
    for phase, (tokens, take) in phases.items():
        seconds: list[float] = []
        while sum(seconds) < SHORTEST:
            seconds.append(take())
        speeds[f"{phase}_tokens_per_second"] = tokens / median(seconds)
    return {**speeds, "peak_memory_bytes": _read_peak(_running.prompt.device)}


def _time_prefill() -> float:
    """Seconds."""
    begun = timer()
    _running.prefill()
    return timer() - begun


def _time_decode() -> float:
    """Seconds, from a cache of its own: decoding extends it, and a second one would count as peak
    memory."""
    cache, token = _running.prefill()
    begun = timer()
    _running.decode(cache, token)
    return timer() - begun


class _Running:
    """One model and its prompt: random tokens, int64 [B, T], the same for both models."""

    def __init__(self, model: Any, asked: dict[str, int]) -> None:
        self.model, self.head, self.new_tokens = model, head_of(model), asked["new_tokens"]
        rows, length = asked["batch_size"], asked["prompt_tokens"]
        limit = int(model.config.max_position_embeddings)
        if length + self.new_tokens > limit:
            raise MeasurementError(
                "prompt and new tokens do not fit the model",
                expected=f"at most {limit} together",
                got=f"{length} + {self.new_tokens}",
                fix="ask for fewer `prompt_tokens` or `new_tokens`",
            )
        generator = torch.Generator().manual_seed(0)
        prompt = torch.randint(int(model.config.vocab_size), (rows, length), generator=generator)
        self.prompt = prompt.to(model.device)

    @torch.inference_mode()
    def prefill(self) -> tuple[Any, torch.Tensor]:
        """Reads the prompt: the cache, and the next token of each row, int64 [B, 1]."""
        hidden, cache = hidden_states(self.model, self.prompt, use_cache=True)
        return cache, self.head(hidden[:, -1:]).argmax(dim=-1)

    @torch.inference_mode()
    def decode(self, cache: Any, token: torch.Tensor) -> None:
        """Decodes `new_tokens` more tokens greedily; `token` [B, 1] is the first to read."""
        for _ in range(self.new_tokens):
            hidden, cache = hidden_states(self.model, token, cache=cache)
            token = self.head(hidden).argmax(dim=-1)


def _reset_peak(device: torch.device) -> str:
    """Starts counting peak memory. Returns what it counts."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return "allocated on the GPU while running"
    try:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    except OSError:
        return "resident memory of the process, loading included"
    return "resident memory of the process while running"


def _read_peak(device: torch.device) -> int:
    """Bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    try:  # Linux: getrusage would count the memory of the process that started this one
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    except (OSError, IndexError):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak
