"""Processes that share a fitter's work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Sharing(Protocol):
    """Processes that make the same calls, each doing a share of the work."""

    @property
    def rank(self) -> int: ...

    @property
    def count(self) -> int: ...

    def gather(self, items: list[Item]) -> list[Item]:
        """Returns every process's items, in order of rank, on every process."""


@dataclass(frozen=True)
class Alone:
    """This process only."""

    rank: int = 0
    count: int = 1

    def gather(self, items: list[Item]) -> list[Item]:
        return items


ALONE = Alone()
