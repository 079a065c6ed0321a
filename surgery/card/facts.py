"""Gathers an edit's facts for the card's template, and escapes text for Markdown."""

from __future__ import annotations

import html
import json
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from surgery.card.command import (
    FOLDER,
    SAVED_IDS,
    list_options,
    name_passages,
    write_command,
)
from surgery.families import Family, family_of
from surgery.lab import find_lab
from surgery.record.manifest import Manifest, Source, Step, TextRecord
from surgery.record.plan_file import list_edits
from surgery.selection import by_variant, format_blocks, format_selection, variant_name
from surgery.variants import variant_of


def gather_facts(manifest: Manifest, name: str) -> dict[str, Any]:
    """What was done to which model, and the resulting files. `name`: to load the model by."""
    steps, step = manifest.history, manifest.step
    family = family_of({"model_type": step.family})
    whole = format_blocks(tuple(manifest.attention_free))
    partial = set(manifest.edited_heads) - set(manifest.attention_free)
    trained = [one.training for one in steps if one.training]
    machines = dict.fromkeys(f"{one.threads}, {one.device}" for one in trained)
    taught = [name_passages(one.passages.name) for one in steps if one.passages]
    local = _list_files(steps)
    modeling = next((file for file in manifest.files if file.endswith(".py")), None)
    return {
        "title": name,
        "name": as_command(shlex.quote(name)),
        "quoted": as_python(name),
        "base": _link_base(step if step.is_adapter else steps[0]),
        "adapter": _describe_adapter(step) if step.is_adapter else None,
        "whole": whole,
        "partial": format_blocks(tuple(sorted(partial))),
        "num_blocks": step.num_blocks,
        "edits": [_describe_cut(one) for one in steps],
        "steps": list(_list_commands(steps)),
        "local": _join(local),
        "saved": SAVED_IDS if SAVED_IDS in local else None,
        "folder": FOLDER if FOLDER in local else None,
        "layout": "adapter" if step.is_adapter else "stock" if modeling is None else "compact",
        "modeling": modeling,
        "architecture": family.architecture,
        "spared": _match_attention(family, sorted(manifest.edited_heads)),
        "one_hot": any(one.one_hot is not None for one in steps),
        "tokenizer": any(file.startswith("tokenizer") for file in manifest.files),
        "fitted": _join_names(*(one.calibration for one in steps)),
        "trained": bool(trained),
        "trained_on": _join_names(*trained),
        "taught_with": _join(taught),
        "have_ids": any(not find_lab(name) and not name.endswith(".npy") for name in taught),
        "taught_last": bool(manifest.erasings) and not _is_cut_later(steps),
        "erased": [_describe_erasing(one) for one in steps if one.erasing],
        "healed": manifest.healings,
        "guarded": [one.healing for one in steps if one.healing and one.passages],
        "machines": "; ".join(machines),
        "files": list(manifest.files.items()),
        "versions": step.versions,
    }


def _is_cut_later(steps: Sequence[Step]) -> bool:
    """Whether a cut follows the last training that made the model forget."""
    last = max(at for at, step in enumerate(steps) if step.erasing)
    return any(step.parts for step in steps[last:])


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


def _link_base(first: Step) -> Markdown:
    """The first source, as a link if it is on the Hub."""
    if (hub := first.source.hub_id) is not None:
        return Markdown(f"[{as_line(hub)}](https://huggingface.co/{hub})")
    return as_code(_name_source(first))


def _name_source(edit: Step) -> str:
    """The source's name; only the last part of a folder, since early versions recorded paths."""
    model = edit.source.model
    return model if edit.source.commit or model.startswith("lab:") else Path(model).name


def _describe_cut(edit: Step) -> dict[str, Any]:
    return {
        "source": _name_source(edit),
        "commit": edit.source.commit,
        "parts": [
            (format_selection(parts, edit.num_heads), variant, variant_of(variant).summary)
            for variant, parts in by_variant(edit.parts).items()
        ],
    }


def _describe_erasing(edit: Step) -> dict[str, Any]:
    assert edit.erasing is not None
    taught = [
        f"{format_selection(parts, edit.num_heads)} ({variant})"
        for variant, parts in by_variant(edit.erasing.cut_parts).items()
    ]
    named = edit.erasing.name_teacher(edit.num_heads)
    likeness = "a copy of itself without the attention of some blocks" if taught else named
    taught_by = f"the cut of {', '.join(taught)}" if taught else named
    lesson = (
        f"Its teacher was {likeness}. On the passages, it learned to predict what its teacher "
        "predicts"
    )
    more = {"likeness": likeness, "taught_by": taught_by, "lesson": lesson}
    return {**vars(edit.erasing), **more}


def _describe_adapter(edit: Step) -> dict[str, Any]:
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


def _list_commands(steps: Sequence[Step]) -> Iterator[Markdown]:
    """Yields the commands that repeat all steps, oldest first, in a shell."""
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        chooses = step.taught_by_choice
        planned = chooses or variant_name(step.cut_parts) == "mixed"
        if planned:
            cut = list_edits(step.cut_parts, step.num_heads)
            plan: dict[str, Any] = {"edits": [one.model_dump() for one in cut]}
            if chooses and step.chosen is not None:  # it says which passages were taught
                plan["chosen"] = step.chosen.model_dump(mode="json")
            yield as_command(f"echo {shlex.quote(json.dumps(plan))} > plan.json")
        is_local = following is not None and following.source.commit is None
        words = write_command(
            step,
            _name_source(step),
            plan="plan.json" if planned else None,
            output=_name_source(following) if following and is_local else None,
        )
        source = 5 if step.source.commit else 3  # words that name it
        yield _as_lines(words[:source], words[source:])


def _list_files(steps: Sequence[Step]) -> list[str]:
    """The folders and files that the commands take from the folder that they run in."""
    sources = [step for step in steps if not (step.source.commit or find_lab(step.source.model))]
    found = [_name_source(source) for source in sources if source is steps[0]]
    for step in steps:
        for option, names in list_options(step).items():
            if option in ("--calibration", "--text", "--samples", "--never"):
                found += map(str, names)
    teachers = [one.erasing.teacher for one in steps if one.erasing]
    found += [one.model for one in teachers if isinstance(one, Source) and not one.commit]
    return [name for name in found if not (name.startswith("hf:") or find_lab(name))]


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
