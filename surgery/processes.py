"""One process or many: they share the work, and each gets all results in the order of the work.

What is computed together never depends on the number of processes, so neither do the figures. All
of them take the same way through a job, and end with the same result: only one writes, and only one
prints (`surgery.output`, `cli.terminal`).
"""

from __future__ import annotations

import atexit
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from surgery.errors import SurgeryError

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


_PATIENCE = timedelta(days=30)
"""How long one waits for the others: another may hash or write for hours. If it ends, that shows at
once."""


@dataclass(frozen=True)
class Processes:
    """Processes that make the same calls and share their work.

    This one's rank, their number, this one's device where the launcher chose it, and torch's group
    in which they exchange what is no tensor.
    """

    rank: int = 0
    count: int = 1
    device: Any = None
    group: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, items: list[Item]) -> list[Item]:
        """Every process's items, in order of rank, on every process."""
        if self.count == 1:
            return items
        from torch.distributed import all_gather_object

        everyones: list[Any] = [None] * self.count
        all_gather_object(everyones, items, group=self.group)
        return [item for theirs in everyones for item in theirs]

    def add(self, tensor: Any) -> Any:
        """The sum of every process's tensor, on every process."""
        from accelerate.utils import reduce

        return reduce(tensor, reduction="sum")

    def agree(self, value: Item) -> Item:
        """The main process's value, on every process."""
        return self.gather([value])[0]

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Inside, each works alone. No process begins before all have come, and none goes on before
        the main one has ended; if that one raises a `SurgeryError`, all do."""
        failed: SurgeryError | None = None
        self.gather([])
        with use_processes(ALONE):
            try:
                yield
            except SurgeryError as error:
                failed = error
        told = self.agree(failed)
        if (raised := failed or told) is not None:
            raise raised

    def once(self, work: Callable[[], Result]) -> Result:
        """What the main process's `work` returns, which goes through pickle, on every process. The
        others wait."""
        made: list[Result] = []
        with self.apart():
            if self.is_main:
                made.append(work())
        return self.gather(made)[0]

    def is_own(self, number: int) -> bool:
        """Whether this process does the item of that number, of those that all share."""
        return number % self.count == self.rank

    def map_in_order(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`[work(item) for item in items]`. Process i modulo their number does item i."""
        with use_processes(ALONE):
            done = [(at, work(item)) for at, item in enumerate(items) if self.is_own(at)]
        return [result for _, result in sorted(self.gather(done), key=lambda pair: pair[0])]


ALONE = Processes()
_CURRENT = ContextVar("processes", default=ALONE)


def current_processes() -> Processes:
    """The processes that share work now: those of `join_launch`, else this one alone."""
    return _CURRENT.get()


@contextmanager
def use_processes(processes: Processes) -> Iterator[None]:
    """Inside, `processes` are the current ones."""
    token = _CURRENT.set(processes)
    try:
        yield
    finally:
        _CURRENT.reset(token)


def share(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """`[work(item) for item in items]`: each of the current processes does a part, and has all."""
    return current_processes().map_in_order(work, items)


def count_for_all(advance: Callable[[int], None]) -> Callable[[int], None]:
    """What to call with what this process has done, for a bar of what all have done, about."""
    count = current_processes().count
    return lambda done: advance(count * done)


def read_clock() -> float:
    """Seconds, the same on all current processes, so that all decide alike."""
    return current_processes().agree(time.perf_counter())


def share_free_memory(device: Any) -> int:
    """Bytes that each of the current processes may use: the same on all, as the main one finds
    it. `device`: a `torch.device`. On a GPU, with what torch keeps of freed tensors."""
    processes = current_processes()
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return processes.agree(int(torch.cuda.mem_get_info(device)[0]) + int(kept))
    import psutil

    return processes.agree(int(psutil.virtual_memory().available) // processes.count)


def by_one(work: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """For what reads or writes files that other processes write: the main one does it. The others
    wait, and get what it returns, or raise what it raises, as `Processes.once` says."""

    @wraps(work)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        return current_processes().once(lambda: work(*args, **kwargs))

    return run


def join_launch(say: Callable[[str], None] = lambda line: None) -> None:
    """From now on, all that `accelerate launch` (or torchrun) started share work.

    Without GPUs, or with `--cpu`, accelerate starts one process even if you ask for more. It still
    sets an address for them to meet at, so `say` hears a warning.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys():
            say(
                "warning: accelerate was asked for several processes and started one: "
                "without GPUs it needs its option multi_gpu"
            )
        return
    import torch
    from accelerate import PartialState

    # without a GPU torchrun does not say that there is none, and each would be alone
    state = PartialState(cpu=not torch.cuda.is_available())
    # gloo's threads that outlive the interpreter abort a process whose work is done
    atexit.register(state.destroy_process_group)
    group = torch.distributed.new_group(backend="gloo", timeout=_PATIENCE)
    _CURRENT.set(Processes(int(state.process_index), int(state.num_processes), state.device, group))
