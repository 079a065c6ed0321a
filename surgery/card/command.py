"""The command that makes an edit, as cards, reports, and other commands show it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from surgery.families import SAVED_AS
from surgery.hub.embedded import LAB_TEXT, find_lab

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
    from surgery.record.manifest import TOKEN_IDS

    return SAVED_IDS if name == TOKEN_IDS else name


def describe_training(
    erasing: Mapping[str, Any] | None,
    healing: Mapping[str, Any] | None,
    lab: str | None = None,
) -> dict[str, Any]:
    """How a model was trained, by records of it, as `write_export_command` takes it.

    `lab`: as for `name_texts`.
    """
    from surgery.record.manifest import LENGTH

    found: dict[str, Any] = {}
    for record, text, steps in ((erasing, "text", "erase_steps"), (healing, "heal", "heal_steps")):
        if record is None:
            continue
        found[text] = name_texts([source["name"] for source in record["sources"]], lab)
        found[steps] = record["steps"]
        if record.get("hardened"):
            found["harden"] = True
        if record.get("rank"):
            found["adapters"] = record["rank"]
        if steps == "erase_steps" and record.get("seed"):
            found["seed"] = record["seed"]
        passages = record.get("passages")
        if isinstance(passages, Mapping):  # earlier versions recorded only a hash
            samples = name_passages(passages["name"])
            found |= {"samples": samples, "leave_out": passages.get("leave_out")}
            lengths = {key: passages[key] for key in ("prefix_length", "suffix_length")}
            own = find_lab(samples) is None
            if own:
                found["skip_short"] = True  # no record tells, and it changes nothing if none is
            if own or set(lengths.values()) != {LENGTH}:
                found |= lengths
    return found


def write_export_command(
    model: str,
    *,
    revision: str | None = None,
    drop_attn: str | None = None,
    plan: str | Path | None = None,
    variant: str | None = None,
    calibration: Sequence[str] = (),
    erase_steps: int | None = None,
    harden: bool = False,
    adapters: int | None = None,
    text: Sequence[str] = (),
    heal: Sequence[str] = (),
    heal_steps: int | None = None,
    samples: str | None = None,
    prefix_length: int | None = None,
    suffix_length: int | None = None,
    secret: str | None = None,
    leave_out: float | None = None,
    skip_short: bool = False,
    id_column: str | None = None,
    seed: int | None = None,
    layout: str | None = None,
    family: str | None = None,
    max_shard_size: int | None = None,
    output: str | Path | None = None,
    cut: bool = True,
) -> list[str]:
    """The words of an `export` of `model`: first those that name it, then an option each.

    `cut`: False for an `erase`, where blocks, heads, and variants are those of the teacher; only
    an `erase` can have a `seed` other than 0. `family`: the result's model type. No record tells
    whether the source had another one, and `--as` changes nothing if not.
    """
    erased = erase_steps is not None
    given: dict[str, Sequence[object]] = {
        **{"--revision": [revision], "--drop-attn": [drop_attn], "--plan": [plan]},
        "--variant": [variant],
        "--calibration": calibration,
        **_name_erasing(erase_steps, cut, harden, adapters, layout),
        "--text": text,
        "--heal": heal,
        "--heal-steps": [heal_steps],
        "--samples": [samples],
        "--prefix-length": [prefix_length],
        "--suffix-length": [suffix_length],
        "--secret": [secret],
        "--leave-out": [leave_out],
        "--skip-short": [""] if skip_short else [],
        "--id-column": [id_column],
        "--seed": [None if cut else seed],
        "--layout": [layout if cut else None],
        "--as": [family if cut and not erased and family in SAVED_AS else None],
        "--max-shard-size": [max_shard_size],
        "--output": [output],
    }
    return ["attn-surgery", "export" if cut else "erase", model, *_spell(given)]


def _name_erasing(
    steps: int | None, cut: bool, harden: bool, adapters: int | None, layout: str | None
) -> dict[str, Sequence[object]]:
    return {
        "--erase": [""] if cut and steps is not None else [],
        "--erase-steps" if cut else "--steps": [steps],
        "--harden": [""] if harden else [],
        "--adapters": [adapters],
        "--as-adapter": [""] if layout == "adapter" else [],
    }


def _spell(given: Mapping[str, Sequence[object]]) -> Iterator[str]:
    """The words of options, each with its values; an empty one is that of a flag."""
    for option, values in given.items():
        pairs = ((option, str(one)) for one in values if one is not None)
        yield from (word for pair in pairs for word in pair if word)
