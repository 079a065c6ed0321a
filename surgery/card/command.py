"""The command that makes an edit, as cards, reports, and other commands show it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from surgery.families import SAVED_AS
from surgery.hub.embedded import LAB_TEXT


def name_texts(names: Iterable[str], lab: str | None = None) -> list[str]:
    """Recorded texts as a command that runs in their folder takes them, each once.

    `lab`: names the lab's text; None: it is what the command takes without an option.
    """
    named = (lab if name == LAB_TEXT else name for name in dict.fromkeys(names))
    return [name for name in named if name is not None]


def write_export_command(
    model: str,
    *,
    revision: str | None = None,
    drop_attn: str | None = None,
    plan: str | Path | None = None,
    variant: str | None = None,
    calibration: Sequence[str] = (),
    heal: Sequence[str] = (),
    heal_steps: int | None = None,
    layout: str | None = None,
    family: str | None = None,
    max_shard_size: int | None = None,
    output: str | Path | None = None,
) -> list[str]:
    """The words of an `export` of `model`: first those that name it, then an option each.

    `family`: the result's model type. No record tells whether the source had another one, and
    `--as` changes nothing if not.
    """
    given: dict[str, Sequence[object]] = {
        "--revision": [revision],
        "--drop-attn": [drop_attn],
        "--plan": [plan],
        "--variant": [variant],
        "--calibration": calibration,
        "--heal": heal,
        "--heal-steps": [heal_steps],
        "--layout": [layout],
        "--as": [family if family in SAVED_AS else None],
        "--max-shard-size": [max_shard_size],
        "--output": [output],
    }
    words = ["attn-surgery", "export", model]
    for option, values in given.items():
        words += [word for one in values if one is not None for word in (option, str(one))]
    return words
