"""Where the stock layout puts the maps and constants of a block's heads, decided without a tensor.

Query heads of a group share their keys and values, so a group can attend to its own token alone
only as a whole, and then all of its heads read one map.
"""

from __future__ import annotations

from dataclasses import dataclass

from surgery.layouts.edit import BlockEdit


@dataclass(frozen=True)
class Storage:
    """Groups and query heads of one block, by what is done to them.

    - `alone`: groups whose queries and keys become constants that make attention one-hot.
    - `maps`: groups whose values become M and c.
    - `units`: groups whose value becomes a single 1, and whose constants, summed, stand in the one
      column of the output projection that reads it.
    - `silent`: groups whose values become zero.
    - `muted`: query heads that the output projection no longer reads.
    - `constants`: query heads whose constant goes into the output bias.
    - `bare`: whether the output bias becomes zero, as nothing is added.
    """

    alone: tuple[int, ...]
    maps: tuple[int, ...]
    units: tuple[int, ...]
    silent: tuple[int, ...]
    muted: tuple[int, ...]
    constants: tuple[int, ...]
    bare: bool


def store(edit: BlockEdit, *, one_hot: bool, all_together: bool) -> Storage:
    """`one_hot`: whether queries and keys can be made constant at all; `all_together`: only those
    of all groups of the block, as they share a norm.
    """
    hot = one_hot and (edit.whole or not all_together)
    maps: list[int] = []
    units: list[int] = []
    silent: list[int] = []
    muted: list[int] = []
    constants: list[int] = []
    for group, heads in enumerate(edit.groups):
        constant = edit.of_kind("constant", heads)
        none = edit.of_kind("none", heads)
        whole = all(head in edit.variants for head in heads)
        if edit.of_kind("affine", heads):
            maps.append(group)
            muted += none + constant
            constants += constant
        elif constant and whole and hot:
            (maps if len(heads) == 1 else units).append(group)
        elif constant or none:
            if whole:
                silent.append(group)
            else:
                muted += none + constant
            constants += constant
    alone = sorted(maps + units)
    if all_together and alone:
        alone = list(range(len(edit.groups)))
    return Storage(
        alone=tuple(alone),
        maps=tuple(maps),
        units=tuple(units),
        silent=tuple(silent),
        muted=tuple(sorted(muted)),
        constants=tuple(constants),
        bare=edit.whole and edit.kind == "none",
    )
