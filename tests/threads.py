"""Processes that share work, played by threads."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from surgery.processes import Processes, use_processes


def by_threads(count: int, work: Callable[[int], Any]) -> list[Any]:
    """What `work` gives each of them, by rank. If one fails, the others do not wait for it."""
    barrier, brought = threading.Barrier(count, timeout=60), [b""] * count

    class Thread(Processes):
        def gather(self, items: list[Any]) -> list[Any]:
            brought[self.rank] = pickle.dumps(items)
            barrier.wait()
            gathered = [item for some in brought for item in pickle.loads(some)]
            barrier.wait()
            return gathered

    def one(rank: int) -> Any:
        try:
            with use_processes(Thread(rank, count)):
                return work(rank)
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))
