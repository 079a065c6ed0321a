"""The process that the bench starts for each model: it loads the model and runs when told to.

A process of its own, because peak memory belongs to a process.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from evals.models import open_model
from evals.running.forward import cache_bytes, head_of, hidden_states
from surgery.checkpoint.foreign import reason
from surgery.errors import MeasurementError, SurgeryError

SHORTEST = 0.25
"""Seconds: what takes less is repeated, so that a clock's grain and a stray interrupt weigh little.
"""
SEED = 0


class Runner:
    """One model and the prompt it is timed on: random tokens, int64 [B, T], the same for both."""

    def __init__(self, model: Any, settings: dict[str, Any]) -> None:
        self.model, self.head = model, head_of(model)
        self.new_tokens = int(settings["new_tokens"])
        rows, length = int(settings["batch_size"]), int(settings["prompt_tokens"])
        limit = int(model.config.max_position_embeddings)
        if length + self.new_tokens > limit:
            raise MeasurementError(
                "prompt and new tokens do not fit the model",
                expected=f"at most {limit} together",
                got=f"{length} + {self.new_tokens}",
                fix="ask for fewer `prompt_tokens` or `new_tokens`",
            )
        generator = torch.Generator().manual_seed(SEED)
        vocabulary = int(model.config.vocab_size)
        prompt = torch.randint(vocabulary, (rows, length), generator=generator)
        self.prompt = prompt.to(model.device)

    @torch.inference_mode()
    def prefill(self) -> tuple[Any, torch.Tensor]:
        """Reads the prompt: the cache, and the next token of each row, int64 [B, 1]."""
        hidden, cache = hidden_states(self.model, self.prompt, use_cache=True)
        return cache, self.head(hidden[:, -1:]).argmax(dim=-1)

    @torch.inference_mode()
    def decode(self, cache: Any, token: torch.Tensor) -> None:
        """Writes `new_tokens` more tokens, greedily; `token` [B, 1] is the first to be read."""
        for _ in range(self.new_tokens):
            hidden, cache = hidden_states(self.model, token, cache=cache)
            token = self.head(hidden).argmax(dim=-1)

    def turn(self) -> dict[str, float]:
        """Tokens per second of both phases, over all rows."""
        rows, length = self.prompt.shape
        self.prefill()  # untimed: the other model had the processor's caches until now
        return {
            "prefill_tokens_per_second": self._rate(rows * length, self.prefill),
            "decode_tokens_per_second": self._rate(
                rows * self.new_tokens, self.decode, self.prefill
            ),
        }

    def _rate(
        self,
        tokens: int,
        work: Callable[..., Any],
        prepare: Callable[[], tuple[Any, ...]] = tuple,
    ) -> float:
        """Tokens per second, where `work(*prepare())` handles `tokens`; preparing is not timed."""
        seconds, done = 0.0, 0
        while seconds < SHORTEST:
            arguments = prepare()
            self._wait()
            start = time.perf_counter()
            work(*arguments)
            self._wait()
            seconds, done = seconds + time.perf_counter() - start, done + tokens
        return done / seconds

    def _wait(self) -> None:
        """Until the device has done what it was given."""
        if self.model.device.type != "cpu":
            getattr(torch, self.model.device.type).synchronize(self.model.device)


class Memory:
    """Peak memory from now on, and what is counted: see `kind`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device if device.type == "cuda" else None
        if self.device is not None:
            self.kind = "allocated on the GPU while running"
            torch.cuda.reset_peak_memory_stats(self.device)
            return
        self.kind = "resident memory of the process while running"
        try:
            Path("/proc/self/clear_refs").write_text("5")  # proc(5): resets the peak
        except OSError:
            self.kind = "resident memory of the process, loading included"

    def peak(self) -> int:
        """Bytes."""
        if self.device is not None:
            return int(torch.cuda.max_memory_allocated(self.device))
        try:  # Linux: getrusage would count the memory of the process that started this one
            status = Path("/proc/self/status").read_text()
            return 1024 * int(status.split("VmHWM:")[1].split()[0])
        except (OSError, IndexError):
            import resource

            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            return peak if sys.platform == "darwin" else 1024 * peak


def serve(pipe: Connection, settings: dict[str, Any]) -> None:
    """Describes the model, then answers every request with a turn, until there are no more.

    An error of the user's is an answer as well.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the process that started this one decides
    os.dup2(2, 1)  # whatever a library prints goes to stderr
    try:
        notes: list[str] = []
        loaded = open_model(
            settings["source"],
            dtype=settings["dtype"],
            device=settings["device"],
            say=notes.append,
        )
        memory = Memory(loaded.model.device)
        runner = Runner(loaded.model, settings)
        cache, token = runner.prefill()
        size = cache_bytes(cache)
        runner.decode(cache, token)  # warm-up
        pipe.send(
            {
                "identity": loaded.identity,
                "dtype": loaded.dtype,
                "device": loaded.device,
                "attn_implementation": loaded.model.config._attn_implementation,
                "threads": torch.get_num_threads(),
                "parameters": sum(weight.numel() for weight in loaded.model.parameters()),
                "cache_bytes": size,
                "memory": memory.kind,
                "notes": notes,
            }
        )
        del cache
        while pipe.recv():
            pipe.send({**runner.turn(), "peak_memory_bytes": memory.peak()})
    except SurgeryError as error:
        error.where = error.where or settings["source"]
        pipe.send(error)
    except (torch.cuda.OutOfMemoryError, MemoryError) as error:
        what, got = "does not fit into memory", reason(error)
        pipe.send(MeasurementError(what, where=settings["source"], got=got))
    except EOFError:  # the process that started this one is gone
        pass
