"""One process or many: work is dealt out, and results come back in the order of the work.

What is computed together never depends on the number of processes, so neither do the numbers.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Asked = ParamSpec("Asked")


@dataclass(frozen=True)
class Processes:
    """Processes that share work: this one's rank, how many there are, this one's device if set.

    The default is this process alone.
    """

    rank: int = 0
    count: int = 1
    device: Any = None

    @classmethod
    def launched(cls, *, say: Callable[[str], None] = lambda line: None) -> Processes:
        """Those that `accelerate launch` (or torchrun) started; this one alone where none did.

        Without GPUs, or with `--cpu`, accelerate starts one process even where more were asked for,
        with an address for them all to meet at; that is said.
        """
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            if {"ACCELERATE_MIXED_PRECISION", "MASTER_PORT"} <= os.environ.keys():
                say(
                    "warning: accelerate was asked for several processes and started one: "
                    "without GPUs it needs its option multi_gpu"
                )
            return cls()
        import torch
        from accelerate import PartialState

        # without a GPU torchrun does not say that there is none, and each would be alone
        state = PartialState(cpu=not torch.cuda.is_available())
        # gloo's threads that outlive the interpreter abort a process whose work is done
        atexit.register(state.destroy_process_group)
        return cls(int(state.process_index), int(state.num_processes), state.device)

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

    def agree(self, value: Item) -> Item:
        """The main process's value, on every process."""
        return self.gather([value])[0]

    def once(self, work: Callable[Asked, Item], *args: Asked.args, **kwargs: Asked.kwargs) -> Item:
        """What the main process makes, on every process; the others wait."""
        return self.gather([work(*args, **kwargs)] if self.is_main else [])[0]


def map_in_order(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    *,
    processes: Processes,
) -> list[Result]:
    """`[work(item) for item in items]`, item i being done by process i modulo their number."""
    mine = range(processes.rank, len(items), processes.count)
    done = [(index, work(items[index])) for index in mine]
    return [result for _, result in sorted(processes.gather(done), key=lambda pair: pair[0])]
