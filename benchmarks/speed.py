"""Speed, size, and memory of a model and its edit, side by side.

    python -m benchmarks.speed BASE EDITED
    python -m benchmarks.speed lab:pythia OUT --batch-size 8 --json

Each model runs in a process of its own, because peak memory belongs to a process (needs Linux, or a
GPU). Both stay in memory and take turns (A B, B A, A B, …), so that a machine that slows down does
so for both. They read the same random prompt (*prefill*), then write (*decode*), each time from a
new cache. Speeds are medians over the rounds. A difference counts as noise if the ranges touch:
with 5 rounds, those of two equally fast models fail to touch in 0.8 % of cases.
"""

from __future__ import annotations

import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch.utils.benchmark import timer

from evals.run.forward import cache_bytes, head_of, hidden_states
from evals.run.models import check_precision, open_model
from surgery.hub.finding import find_model
from surgery.record.manifest import list_versions

SPEEDS = ("prefill_tokens_per_second", "decode_tokens_per_second")
AMOUNTS = ("cache_bytes", "parameters", "peak_memory_bytes")
SHORTEST = 0.25
"""Seconds that each phase of a turn takes, over its repetitions, so that a stray interrupt weighs
little."""


def compare_speed(
    base: str, edited: str, *, rounds: int = 5, dtype: str = "auto", device: str | None = None,
    **asked: int,
) -> dict[str, Any]:  # fmt: skip
    """Times both models on the same random prompt, and measures their size.

    **Arguments:** `rounds`: turns of each model. `asked`: `prompt_tokens` and `new_tokens` a row,
    given and then decoded greedily, and `batch_size`, in rows.

    Returns what `--json` prints. Speeds are tokens per second over all rows. `ratios` are edited /
    base; those of speeds are taken within a round, when the machine was the same.
    """
    names, spawn = (base, edited), get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as one, ProcessPoolExecutor(1, spawn) as other:
        workers = (one, other)
        loading = [
            worker.submit(_load, name, dtype, device, asked)
            for worker, name in zip(workers, names, strict=True)
        ]
        (before, settings), (after, others) = (answer.result() for answer in loading)
        check_precision(settings["dtype"], others["dtype"], edited)
        turns: tuple[list[dict[str, float]], ...] = ([], [])
        for number in range(rounds):
            for place in (0, 1) if number % 2 == 0 else (1, 0):
                turns[place].append(workers[place].submit(_take_turn).result())
    before, after = before | _summarize(turns[0]), after | _summarize(turns[1])
    return {
        "base": before,
        "edited": after,
        "ratios": compute_ratios(before, after),
        "settings": {**asked, "rounds": rounds, **settings, "versions": list_versions()},
    }


def _summarize(turns: list[dict[str, float]]) -> dict[str, Any]:
    """The speeds of one model over its turns, and its peak memory."""
    speeds = {name: summarize_rounds([turn[name] for turn in turns]) for name in SPEEDS}
    return {**speeds, "peak_memory_bytes": max(turn["peak_memory_bytes"] for turn in turns)}


def summarize_rounds(values: list[float]) -> dict[str, Any]:
    return {"median": median(values), "min": min(values), "max": max(values), "rounds": values}


def compute_ratios(base: dict[str, Any], edited: dict[str, Any]) -> dict[str, Any]:
    """Edited / base, by name: a number, None where the base has none, or rounds of speeds."""
    ratios: dict[str, Any] = {}
    for name in SPEEDS:
        before, after = base[name], edited[name]
        pairs = zip(before["rounds"], after["rounds"], strict=True)
        spread = summarize_rounds([second / first for first, second in pairs])
        apart = before["max"] < after["min"] or after["max"] < before["min"]
        ratios[name] = {**spread, "within_noise": not apart}
    for name in AMOUNTS:
        # A model without any attention keeps no cache at all.
        ratios[name] = edited[name] / base[name] if base[name] else None
    return ratios


# The rest of the measuring runs in the process of one model, which keeps the model between turns.

_running: _Running


def _load(
    name: str, dtype: str, device: str | None, asked: dict[str, int]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Loads the model and warms it up. Returns its figures and its settings."""
    global _running
    loaded = open_model(find_model(name), dtype=dtype, device=device)
    if loaded.model.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
    _running = _Running(loaded.model, asked)
    cache, token = _running.prefill()
    figures = {
        "model": loaded.identity,
        "cache_bytes": cache_bytes(cache),
        "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
    }
    _running.decode(cache, token)
    threads = torch.get_num_threads()
    return figures, {"dtype": loaded.dtype, "device": loaded.device, "threads": threads}


def _take_turn() -> dict[str, float]:
    """Tokens per second of both phases, over all rows, and the peak memory so far in bytes."""
    rows, length = _running.prompt.shape
    seconds: list[tuple[float, float]] = []
    while min(map(sum, zip(*seconds, strict=True)), default=0.0) < SHORTEST:
        begun = timer()
        cache, token = _running.prefill()
        read = timer()
        _running.decode(cache, token)
        seconds.append((read - begun, timer() - read))
        del cache  # a second one would count as peak memory
    tokens = (rows * length, rows * _running.new_tokens)
    medians = map(median, zip(*seconds, strict=True))
    speeds = [count / time for count, time in zip(tokens, medians, strict=True)]
    return dict(zip(SPEEDS, speeds, strict=True)) | {"peak_memory_bytes": _read_peak()}


def _read_peak() -> int:
    """Bytes."""
    if _running.prompt.device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    # getrusage would count the memory of the process that started this one
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


class _Running:
    """One model and its prompt: random tokens, int64 [B, T], the same for both models."""

    def __init__(self, model: Any, asked: dict[str, int]) -> None:
        self.model, self.head, self.new_tokens = model, head_of(model), asked["new_tokens"]
        shape, generator = (asked["batch_size"], asked["prompt_tokens"]), torch.Generator()
        generator.manual_seed(0)
        prompt = torch.randint(int(model.config.vocab_size), shape, generator=generator)
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


@click.command()
@click.argument("base")
@click.argument("edited")
@click.option("--prompt-tokens", default=128, show_default=True)
@click.option("--new-tokens", default=64, show_default=True)
@click.option("--batch-size", default=1, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--dtype", default="auto", show_default=True)
@click.option("--device", help="[default: a GPU if there is one]")
@click.option("--json", "as_json", is_flag=True)
def main(base: str, edited: str, as_json: bool, **asked: Any) -> None:
    """Compare the speed, cache, parameters, and memory of the models BASE and EDITED."""
    result = compare_speed(base, edited, **asked)
    if as_json:
        click.echo(json.dumps(result, indent=2))
        return
    table = Table()
    for column in ("", "base", "edited", "edited / base"):
        table.add_column(column, justify="right")
    for name in (*SPEEDS, *AMOUNTS):
        label = name.replace("_tokens_per_second", ", tokens/s").replace("_", " ")
        cells = (_format(result[part][name]) for part in ("base", "edited", "ratios"))
        table.add_row(label, *cells)
    Console(width=100).print(table)


def _format(cell: Any) -> str:
    if cell is None:
        return ""
    if not isinstance(cell, dict):
        return f"{cell:.3f}" if isinstance(cell, float) else f"{cell:,}"
    form = ".2f" if "within_noise" in cell else ",.0f"
    noise = "  within noise" if cell.get("within_noise") else ""
    low, middle, high = (format(cell[key], form) for key in ("min", "median", "max"))
    return f"{middle} [{low}, {high}]{noise}"


if __name__ == "__main__":
    main()
