"""One process or many: they share the work, and each gets all results in the order of the work.

What is computed together never depends on the number of processes, so neither do the figures.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")


@dataclass(frozen=True)
class Processes:
    """Processes that make the same calls and share their work.

    This one's rank, their number, and this one's device where the launcher chose it.
    """

    rank: int = 0
    count: int = 1
    device: Any = None

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def gather(self, items: list[Item]) -> list[Item]:
        """Every process's items, in order of rank, on every process."""
        if self.count == 1:
            return items
        from accelerate.utils import gather_object

        gathered: list[Item] = gather_object(items)
        return gathered

    def add(self, tensor: Any) -> Any:
        """The sum of every process's tensor, on every process."""
        from accelerate.utils import reduce

        return reduce(tensor, reduction="sum")

    def agree(self, value: Item) -> Item:
        """The main process's value, on every process."""
        return self.gather([value])[0]

    def once(
        self,
        work: Callable[Arguments, Item],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Item:
        """The result of the main process's `work`, on every process; the others wait."""
        return self.map_in_order(lambda _: work(*args, **kwargs), [None])[0]

    def map_in_order(self, work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """`[work(item) for item in items]`. Process i modulo their number does item i."""
        mine = range(self.rank, len(items), self.count)
        with use_processes(ALONE):  # the others do something else meanwhile
            done = [(index, work(items[index])) for index in mine]
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
    _CURRENT.set(Processes(int(state.process_index), int(state.num_processes), state.device))


def leave_launch() -> bool:
    """From now on, this process works alone. Returns whether it is the main one, which goes on."""
    is_main = current_processes().is_main
    _CURRENT.set(ALONE)
    return is_main
