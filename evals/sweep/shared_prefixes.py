"""Which edits can be measured together: a tree in which what they share is computed once.

Edits that agree up to some block give the same states up to there. An edit that adds blocks to
another one takes up the other's pass; the base model is the root that all of them take up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from surgery.selection import Selection


@dataclass(frozen=True)
class Branch:
    """An edit, and where its pass leaves that of its parent: at the input of block `start`.

    `measured` is false where nobody asked for the edit itself and others begin with it.
    """

    selection: Selection
    start: int
    measured: bool
    children: tuple[Branch, ...]

    @property
    def exits(self) -> tuple[int, ...]:
        """The blocks whose inputs the children take up, ascending."""
        return tuple(sorted({child.start for child in self.children}))

    @property
    def wanted(self) -> Selection:
        """An edit that was asked for and begins with this one: itself, where it was."""
        return self.selection if self.measured else self.children[0].wanted


def branches(selections: Collection[Selection]) -> tuple[Branch, ...]:
    """The branches that leave the base model, for edits none of which is empty."""
    by_block = {
        tuple(tuple(parts) for _, parts in groupby(selection, key=lambda part: part.block))
        for selection in selections
    }
    return _grow((), sorted(by_block))


def every(tree: Iterable[Branch]) -> Iterator[Branch]:
    """All branches, each before those that go on from it."""
    for branch in tree:
        yield branch
        yield from every(branch.children)


def _grow(
    stem: tuple[Selection, ...], paths: Sequence[tuple[Selection, ...]]
) -> tuple[Branch, ...]:
    """Branches for paths that all begin with `stem` and go on. A path: the parts of each block."""
    depth, found = len(stem), []
    for step, group in groupby(paths, key=lambda path: path[depth]):
        path, members = (*stem, step), list(group)
        children = _grow(path, [member for member in members if len(member) > depth + 1])
        measured = path in members
        start = step[0].block
        if not measured and len(children) == 1:  # nothing to share
            found.append(replace(children[0], start=start))
        else:
            selection = tuple(part for parts in path for part in parts)
            found.append(Branch(selection, start, measured, children))
    return tuple(found)
