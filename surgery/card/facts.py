"""Gathers an edit's facts for the card's template, and escapes text for Markdown."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from surgery.card.command import (
    FOLDER,
    SAVED_IDS,
    describe_training,
    name_passages,
    name_texts,
    write_export_command,
)
from surgery.families import Family, family_of
from surgery.hub.embedded import LAB_MODELS, PREFIX, find_lab
from surgery.record.manifest import Edit, Manifest, PassagesRecord, TextRecord, TrainingRecord
from surgery.record.plan_file import list_edits
from surgery.selection import by_variant, format_blocks, format_selection, variant_name
from surgery.variants import variant_of


def gather_facts(manifest: Manifest, name: str) -> dict[str, Any]:
    """What was done to which model, and the resulting files. `name`: to load the model by."""
    edits, edit = [*manifest.history, manifest.edit], manifest.edit
    family = family_of({"model_type": edit.family})
    whole = format_blocks(tuple(manifest.attention_free))
    partial = set(manifest.edited_heads) - set(manifest.attention_free)
    healed = [e.healing for e in edits if e.healing]
    erased = [_describe_erasing(e) for e in edits if e.erasing]
    trained = [*healed, *(e.erasing for e in edits if e.erasing)]
    machines = dict.fromkeys(f"{one.threads}, {one.device}" for one in trained)
    taught = _list_passages(trained)
    local = _list_files(edits)
    modeling = next((file for file in manifest.files if file.endswith(".py")), None)
    return {
        "title": name,
        "name": as_command(shlex.quote(name)),
        "quoted": as_python(name),
        "base": _link_base(edit if edit.is_adapter else edits[0]),
        "adapter": _describe_adapter(edit) if edit.is_adapter else None,
        "whole": whole,
        "partial": format_blocks(tuple(sorted(partial))),
        "num_blocks": edit.num_blocks,
        "edits": [_describe_edit(edit) for edit in edits],
        "again": _write_reproduction(name, edit),
        "steps": list(_list_steps(edits)),
        "local": _join(local),
        "saved": SAVED_IDS if SAVED_IDS in local else None,
        "folder": FOLDER if FOLDER in local else None,
        "layout": "adapter" if edit.is_adapter else "stock" if modeling is None else "compact",
        "modeling": modeling,
        "architecture": family.architecture,
        "spared": _match_attention(family, sorted(manifest.edited_heads)),
        "one_hot": any(e.one_hot is not None for e in edits),
        "tokenizer": any(file.startswith("tokenizer") for file in manifest.files),
        "fitted": _join_names(*(e.calibration for e in edits)),
        "trained": bool(trained),
        "trained_on": _join_names(*trained),
        "taught_with": _join(taught),
        "have_ids": any(not find_lab(name) and not name.endswith(".npy") for name in taught),
        "erased": erased,
        "healed": healed,
        "guarded": [one for one in healed if isinstance(one.passages, PassagesRecord)],
        "machines": "; ".join(machines),
        "files": list(manifest.files.items()),
        "versions": edit.versions,
    }


def _match_attention(family: Family, blocks: Sequence[int]) -> Markdown:
    """The regular expression that matches all modules of attention in these blocks."""
    before, after = family.attention.split("{block}")
    within = re.escape(before.partition(".")[2])  # heads of other tasks hold the model elsewhere
    which = "|".join(map(str, blocks))
    return as_command(rf".*{within}({which}){re.escape(after)}\..*")


def _join_names(*texts: TextRecord | None) -> Markdown:
    """The names of the files that texts came from, each once."""
    return _join(source.name for text in texts if text for source in text.sources)


def _join(names: Iterable[str]) -> Markdown:
    """The names, each once."""
    return Markdown(", ".join(map(as_code, dict.fromkeys(names))))


def _list_passages(trained: Sequence[TrainingRecord]) -> list[str]:
    """The names of what held the passages of trainings; empty without passages."""
    found = (getattr(one, "passages", None) for one in trained)
    return [name_passages(one.name) for one in found if isinstance(one, PassagesRecord)]


def _link_base(first: Edit) -> Markdown:
    """The first source, as a link if it is on the Hub."""
    if (hub := first.source.hub_id) is not None:
        return Markdown(f"[{as_line(hub)}](https://huggingface.co/{hub})")
    return as_code(_name_source(first))


def _name_source(edit: Edit) -> str:
    """The source's name; only the last part of a folder, since early versions recorded paths."""
    model = edit.source.model
    return model if edit.source.commit or model.startswith("lab:") else Path(model).name


def _describe_edit(edit: Edit) -> dict[str, Any]:
    return {
        "source": _name_source(edit),
        "commit": edit.source.commit,
        "parts": [
            (format_selection(parts, edit.num_heads), variant, variant_of(variant).summary)
            for variant, parts in by_variant(edit.parts).items()
        ],
    }


def _describe_erasing(edit: Edit) -> dict[str, Any]:
    assert edit.erasing is not None
    taught = [
        f"{format_selection(parts, edit.num_heads)} ({variant})"
        for variant, parts in by_variant(edit.erasing.teacher).items()
    ]
    return {**vars(edit.erasing), "cut": ", ".join(taught)}


def _describe_adapter(edit: Edit) -> dict[str, Any]:
    """What loads the base of an adapter: `code`, after `importing`, and `named` for lm-eval."""
    assert edit.erasing is not None
    named, commit, importing = _name_source(edit), edit.source.commit, None
    code = f"{as_python(named)}{f', revision={as_python(commit)}' if commit else ''}"
    if lab := find_lab(named):
        code, importing = f"find_model({code}).folder", "from surgery.hub.finding import find_model"
    return {
        "rank": edit.erasing.rank,
        "recital": edit.erasing.recital,
        "code": Markdown(code),
        "importing": importing and Markdown(importing),
        "named": None if lab else as_command(named),  # its commit would be looked for in both
    }


def _list_steps(edits: Sequence[Edit]) -> Iterator[Markdown]:
    """Yields the commands that make all edits again, oldest first, in a shell."""
    for edit, following in zip(edits, [*edits[1:], None], strict=True):
        parts = edit.parts or (edit.erasing.teacher if edit.erasing else [])
        planned = edit.taught_by_choice or variant_name(parts) == "mixed"
        if planned:
            plan: dict[str, Any] = {
                "edits": [one.model_dump() for one in list_edits(parts, edit.num_heads)]
            }
            if edit.taught_by_choice and edit.chosen is not None:  # it says which were taught
                plan["chosen"] = edit.chosen.model_dump(mode="json")
            yield as_command(f"echo {shlex.quote(json.dumps(plan))} > plan.json")
        is_local = following is not None and following.source.commit is None
        lab = find_lab(edit.source.model) or f"{PREFIX}{LAB_MODELS[0]}"
        words = write_export_command(
            _name_source(edit),
            revision=edit.source.commit,
            drop_attn=None if planned else format_selection(parts, edit.num_heads),
            plan="plan.json" if planned else None,
            variant=None if planned else variant_name(parts),
            calibration=name_texts(_list_fitted(edit)),
            **_describe_training(edit, lab),
            layout=edit.layout,
            family=edit.family,
            max_shard_size=edit.max_shard_size,
            output=_name_source(following) if following and is_local else None,
            cut=bool(edit.parts),
        )
        source = 5 if edit.source.commit else 3  # words that name it
        yield _as_lines(words[:source], words[source:])


def _list_fitted(edit: Edit) -> list[str]:
    """The names of the text that the cut, or the teacher, was fitted on."""
    text = edit.calibration or (edit.erasing and edit.erasing.calibration)
    return [source.name for source in text.sources] if text else []


def _describe_training(edit: Edit, lab: str | None = None) -> dict[str, Any]:
    erasing, healing = (one.model_dump() if one else None for one in (edit.erasing, edit.healing))
    return describe_training(erasing, healing, lab)


def _name_inputs(edit: Edit) -> dict[str, list[str]]:
    """What names an edit's texts and passages, by the option of `reproduce` that takes them."""
    trained = _describe_training(edit)
    samples = trained.get("samples")
    return {
        "--calibration": name_texts(_list_fitted(edit)),
        "--text": trained.get("text", []),
        "--heal": trained.get("heal", []),
        "--samples": [samples] if samples and not find_lab(samples) else [],
    }


def _write_reproduction(name: str, edit: Edit) -> Markdown:
    """The command that repeats the last edit."""
    inputs = _name_inputs(edit).items()
    given = [word for option, names in inputs for one in names for word in (option, one)]
    return _as_lines(["attn-surgery", "reproduce", name], given)


def _list_files(edits: Sequence[Edit]) -> list[str]:
    """The folders and files that the commands take from the folder that they run in."""
    found = [_name_source(e) for e in edits if not e.source.commit and not find_lab(e.source.model)]
    for edit in edits:
        named = chain(*_name_inputs(edit).values())
        found += [name for name in named if not name.startswith("hf:")]
    return found


class Markdown(str):
    """Text that is already Markdown. All other text goes through `as_line`."""


def as_line(text: object) -> Markdown:
    """Escapes text so that it shows as it is, in one line, and starts no markup or comment."""
    escaped = re.sub(
        r"[\\`*\[\]{}|~#$]|(?<![^\W_])_|_(?![^\W_])|^[-+=]", r"\\\g<0>", make_printable(text)
    )
    return Markdown(html.escape(escaped, quote=False))


def as_code(text: object) -> Markdown:
    """Puts text into a code span that it cannot end, in one line of a table."""
    return Markdown(f"`{as_command(text).replace('`', '')}`".replace("|", "\\|"))


def as_command(text: object) -> Markdown:
    """One line for a block of code, in which no comment of ours can start."""
    return Markdown(make_printable(text).replace("<", "‹"))


def _as_lines(*parts: Sequence[str]) -> Markdown:
    """A command for a block of code, with a line for each part that is not empty."""
    return Markdown(" \\\n        ".join(as_command(shlex.join(part)) for part in parts if part))


def as_python(text: str) -> Markdown:
    """A Python string literal for a block of code."""
    return Markdown(json.dumps(make_printable(text)).replace("<", "\\u003c"))


def make_printable(text: object) -> str:
    """Puts text in one line, without control characters or marks that change its direction."""
    kept = (letter if letter.isprintable() else " " for letter in str(text))
    return " ".join("".join(kept).split())


FILTERS = {
    "code": as_code,
    "verbatim": Markdown,
    "plural": lambda spec, noun: noun if spec.isdigit() else f"{noun}s",
}
"""What the template can call."""
