"""Times sides that take turns in one run, on random models of the Pythia shapes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from checkpoints import config_of
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM


def make_model(shape: str, dtype: torch.dtype, device: str, **changes: Any) -> Any:
    """A random GPT-NeoX model of a Pythia shape; `changes` are of its configuration."""
    torch.manual_seed(0)
    config = {**config_of(shape), "torch_dtype": "float32", **changes}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**config)).to(device, dtype).eval()


def decode(model: Any, prefix: torch.Tensor, length: int) -> torch.Tensor:
    """The library's own greedy decoding: [B, P] → [B, length]."""
    found: torch.Tensor = model.generate(
        prefix,
        attention_mask=torch.ones_like(prefix),
        do_sample=False,
        max_new_tokens=length,
        pad_token_id=0,
    )
    return found[:, prefix.shape[1] :]


def read_clock(device: str) -> float:
    """Seconds: the processor's of a single thread, which other programs do not disturb, or else of
    the wall clock."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif torch.get_num_threads() == 1:
        return time.process_time()
    return time.perf_counter()


def take_turns(
    sides: Mapping[str, Callable[[], Any]], rounds: int, device: str
) -> tuple[dict[str, list[float]], dict[str, Any]]:
    """Name → the seconds of each round, and name → what the side gave last."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, work in sides.items():
            begun = read_clock(device)
            results[name] = work()
            seconds[name].append(read_clock(device) - begun)
    return seconds, results


def print_ratios(seconds: Mapping[str, list[float]]) -> None:
    """The median of each side, and how many times faster it is than the first (with its range)."""
    base = next(iter(seconds.values()))
    for name, times in seconds.items():
        ratios = sorted(one / other for one, other in zip(base, times, strict=True))
        median = statistics.median(times)
        print(
            f"  {name:24} {median:8.2f} s   {statistics.median(base) / median:6.2f} x "
            f"({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )
