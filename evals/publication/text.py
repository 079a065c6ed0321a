"""Whether a report may leave this machine: figures, names and sentences of ours, no passage's text.

Nothing is looked for that may be wrong, since text can stand anywhere. What may be there is listed:
names under known keys, short, in one line; lists of numbers under known keys, since token ids are
text; numbers and truth values under any key. Sentences are taken as they are:
`evals.publication.report` makes them anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from evals.evaluation.conclusions import PASSAGE

_MODEL = {
    "model", "revision", "commit", "content", "manifest_sha256", "config_sha256",
    "tokenizer_sha256", "dtype", "device", "attn_implementation", "versions",
}  # fmt: skip
_NAMES = {
    "": {"created", "relation"},
    "models": {"base", "edited"},
    "tasks": {"metric", "test", "outcome", "version"},
    "extraction": {
        *_MODEL, "metrics", "id", "count", "kind", "sha256", "samples_sha256", "source",
    },
    "audit": {"kind", "name"},
    "heldout": {"kind", "test", "outcome"},
    "all_passages": {"kind", "test", "outcome"},
    "edit": {"source", "family", "variant", "layout", "attention_free", "name", "sha256"},
    "speed": {*_MODEL, "memory", "id", "metrics"},
    "trade_off": {"kind"},
    "passages": {"id", "hash"},
    "settings": {"tasks", "samples", "name", "sha256", "dtype", "attacks"},
    "provenance": {*_MODEL, "samples_sha256"},
}  # fmt: skip
"""Part of the report ("": its top) → keys under which it has names."""
_SENTENCES = {
    ("verdict",), ("warnings",), ("commands",), ("tasks", "verdict"), ("heldout", "verdict"),
    ("all_passages", "heldout", "verdict"),
    ("gates", "name"), ("gates", "description"), ("edit", "drop_attn"),
    ("trade_off", "points", "label"), ("trade_off", "note"), ("extraction", "warnings"),
    ("extraction", "paired", "selectivity", "definition"),
    *(("audit", "attacks", key) for key in ("setting", "definition", "source", "cost")),
}  # fmt: skip
_LISTS = {"ci95", "exact_match_ci95", "blocks", "heads", "rounds", "stages", "any", "near"}
_NAMED = {"versions", "attention_free"}  # their keys are names, and their values are strings
_KEY, _ID = re.compile(r"[!-~]{1,100}"), re.compile(r"[!-~]{1,64}")
_LONGEST, _WORDS = 200, 8  # of a name; "resident memory of the process while running" has 7


def texts_in(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Where something stands that may be text of a passage: its keys, with dots.

    `value`: what stands in a report under the keys of `path`; without keys, the report.
    """
    where = ".".join(path)
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _KEY.fullmatch(key):
                yield f"a key of {where or 'the report'}"
            elif path[:1] == ("passages",) and key not in PASSAGE:
                yield f"{where}.{key}"
            else:
                yield from texts_in(inner, (*path, key))
    elif isinstance(value, list):
        if path and path[-1] not in _LISTS and any(isinstance(item, int | float) for item in value):
            yield where
        for item in value:
            yield from texts_in(item, path)
    elif isinstance(value, str) and not (_is_sentence(path) or _is_name(value, path)):
        yield where


def _is_sentence(path: tuple[str, ...]) -> bool:
    return (("tasks", path[-1]) if path[0] == "tasks" else path) in _SENTENCES


def _is_name(text: str, path: tuple[str, ...]) -> bool:
    names = [key for key in path[:-1] if key in _NAMED]
    key = names[-1] if names else path[-1]
    known = _NAMES.get("" if len(path) == 1 else path[0], set())
    short = text.isprintable() and len(text) <= _LONGEST and len(text.split()) <= _WORDS
    return key in known and short and (key != "id" or _ID.fullmatch(text) is not None)
