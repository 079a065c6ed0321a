"""What a shell proposes for a value that is a name: attacks, blocks, and what the lab has."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem


def _list_lab() -> Iterable[str]:
    from surgery.hub.embedded import LAB_MODELS

    return [f"lab:{name}" for name in LAB_MODELS]


def _list_attacks() -> Iterable[str]:
    from evals.measure.attacks.names import ALL, GROUPS

    return [*GROUPS, *ALL]


def _list_limits() -> Iterable[str]:
    from evals.measure.attacks.names import RATED

    return [f"{name}=" for name in RATED]


def _list_measures() -> Iterable[str]:
    from evals.measure.memorization.recovery import NAMES

    return NAMES


def _list_blocks() -> Iterable[str]:
    return ["last:1", "last:2", "last:4", "-1"]


_NAMES: dict[str, Callable[[], Iterable[str]]] = {
    **dict.fromkeys(("MODEL", "MODEL...", "BASE", "EDITED", "SAMPLES"), _list_lab),
    "A": _list_attacks,
    "A=X": _list_limits,
    "M": _list_measures,
    "SPEC": _list_blocks,
}
"""What stands for a value in the help → the names to propose."""


class _Named(click.types.StringParamType):
    def __init__(self, list_names: Callable[[], Iterable[str]]) -> None:
        self.list_names = list_names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        names = [name for name in self.list_names() if name.startswith(incomplete)]
        return [CompletionItem(name) for name in names] or [CompletionItem(incomplete, type="file")]


def propose_names(command: click.Command) -> None:
    """Makes a shell propose names for the values of a command, and files where none begins so."""
    for param in command.params:
        shown = param.metavar or param.human_readable_name.upper()
        if shown in _NAMES and isinstance(param.type, click.types.StringParamType):
            param.type = _Named(_NAMES[shown])
