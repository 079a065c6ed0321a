"""The command that repeats a step, as cards, reports, and other commands show it."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from surgery.lab import LAB_MODELS, LAB_TEXT, PREFIX, find_lab
from surgery.record.manifest import (
    LENGTH,
    TOKEN_IDS,
    ErasingRecord,
    ShortContext,
    Source,
    Step,
)
from surgery.selection import format_selection, variant_name

COMMANDS = {"cut": "export", "erase": "erase", "heal": "heal"}
"""Kind of step → its command."""
IN_FILE = ("--calibration", "--seed")
"""What `erase` takes from a file alone."""
FOLDER = "FOLDER"
"""Stands for the folder of texts of which some have the same name."""
SAVED_IDS = "token-ids.npy"
"""What commands call passages that were given in Python, and so have no name."""


def name_texts(names: Sequence[str], lab: str | None = None) -> list[str]:
    """Recorded texts as a command that runs in their folder takes them, each once.

    Records have no folders. Where several files have one name, `FOLDER` stands for all files.

    `lab`: names the lab's text; None: it is what the command takes without an option.
    """
    files = [name for name in names if name != LAB_TEXT and not name.startswith("hf:")]
    if len(files) > len(set(files)):
        names = [FOLDER if name in files else name for name in names]
    named = (lab if name == LAB_TEXT else name for name in dict.fromkeys(names))
    return [name for name in named if name is not None]


def name_passages(name: str) -> str:
    """Recorded passages as a command that runs in their folder takes them."""
    return SAVED_IDS if name == TOKEN_IDS else name


def list_options(step: Step, lab: str | None = None) -> dict[str, Sequence[object]]:
    """Option → its values, of the command that repeats a step, but for what it cuts.

    `lab`: as for `name_texts`.
    """
    fitted_on = [source.name for source in step.fitted_on.sources] if step.fitted_on else []
    found: dict[str, Sequence[object]] = {
        "--calibration": name_texts(fitted_on, None if find_lab(step.source.model) else lab)
    }
    training, taught = step.training, step.passages
    if training is not None:
        found["--text"] = name_texts([source.name for source in training.sources], lab)
        found["--steps"] = [training.steps]
        found["--adapters"] = [training.rank] if training.rank else []
        found["--seed"] = [training.seed] if training.seed else []
    if step.erasing is not None:
        found["--by"] = [_name_way(step.erasing)]
        never = step.erasing.never
        found["--never"] = [] if never is None else [name_passages(never.kept.name)]
        found["--harden"] = [""] if step.erasing.hardened else []
        found["--as-adapter"] = [""] if step.is_adapter else []
    if taught is not None:
        own = find_lab(taught.name) is None
        found["--samples"] = [name_passages(taught.name)]
        found["--leave-out"] = [] if taught.leave_out is None else [taught.leave_out]
        # no record tells whether rows were too short, and it changes nothing if none is
        found["--skip-short"] = [""] if own else []
        if own or {taught.prefix_length, taught.suffix_length} != {LENGTH}:
            found["--prefix-length"] = [taught.prefix_length]
            found["--suffix-length"] = [taught.suffix_length]
    if step.kind == "cut":
        found["--layout"] = [step.layout]
    return found


def _name_way(record: ErasingRecord) -> str | None:
    """The value of `--by`; None for a cut, which other options name."""
    if isinstance(record.teacher, ShortContext):
        return f"context:{record.teacher.context}"
    return record.teacher.model if isinstance(record.teacher, Source) else None


def write_command(
    step: Step,
    model: str,
    *,
    plan: str | Path | None = None,
    output: str | Path | None = None,
) -> list[str]:
    """The words of the command that repeats a step of `model`: first those that name it, then an
    option each. `plan`: a file that says what is cut, in place of options."""
    parts = step.cut_parts if plan is None else []
    lab = find_lab(step.source.model) or f"{PREFIX}{LAB_MODELS[0]}"  # all have the same text
    given: dict[str, Sequence[object]] = {
        "--revision": [step.source.commit],
        "--drop-attn": [format_selection(tuple(parts), step.num_heads)] if parts else [],
        "--plan": [plan],
        "--variant": [variant_name(parts)] if parts else [],
        **list_options(step, lab),
        "--output": [output],
    }
    in_file = IN_FILE if step.kind == "erase" else ()
    return ["attn-surgery", COMMANDS[step.kind], model, *spell(given, in_file)]


def spell(given: Mapping[str, Sequence[object]], in_file: Collection[str] = ()) -> Iterator[str]:
    """The words of options, each with its values; an empty one is that of a flag. What the command
    line has no option for (`in_file`) stands in one text after --config."""
    held: dict[str, str | list[str]] = {}
    for option, values in given.items():
        words = [str(value) for value in values if value is not None]
        if option in in_file and words:
            held[option.removeprefix("--")] = words if len(words) > 1 else words[0] or "true"
        elif option not in in_file:
            yield from (word for value in words for word in (option, value) if word)
    if held:
        yield from ("--config", json.dumps(held))
