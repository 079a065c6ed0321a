"""Compares two reports."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_CLOSE = 1e-6  # relative: sums in another order, and other versions of scipy


class Difference(NamedTuple):
    """`path`: keys joined by dots; `said`: the report's value; `made`: what the rest implies."""

    path: str
    said: Any
    made: Any

    def __str__(self) -> str:
        if isinstance(self.made, int | float) and isinstance(self.said, int | float):
            return f"{self.path} is {self.said:.6g}, but the rest implies {self.made:.6g}"
        return f"{self.path} does not follow from the rest"


def find_differences(said: Any, made: Any, path: tuple[str, ...] = ()) -> Iterator[Difference]:
    """Yields where two reports differ by more than a rounding."""
    if isinstance(said, Mapping) and isinstance(made, Mapping) and said.keys() == made.keys():
        for key in said:
            yield from find_differences(said[key], made[key], (*path, key))
    elif _is_list(said) and _is_list(made) and len(said) == len(made):
        for one, other in zip(said, made, strict=True):
            yield from find_differences(one, other, path)
    elif not _equal(said, made):
        yield Difference(".".join(path), said, made)


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, float) or isinstance(other, float):
        numbers = isinstance(one, int | float) and isinstance(other, int | float)
        return numbers and math.isclose(one, other, rel_tol=_CLOSE, abs_tol=1e-9)
    return type(one) is type(other) and one == other
