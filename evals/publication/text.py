"""Whether a report may leave this machine: figures, names and sentences of ours, no passage's text.

Text can stand anywhere, so what may be there is listed: under known keys strings of a known form,
such as hashes; the names of models and files, short and in one line; lists of numbers under known
keys, since token ids are text; numbers and truth values under any key. Sentences are taken as they
are: `evals.publication.report` makes them anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from evals.evaluation.conclusions import PASSAGE
from surgery.variants import VARIANTS

_HEX, _WORD = r"[0-9a-f]{64}", r"[!-~]{1,64}"
_FORMS = {
    **dict.fromkeys(("content", "sha256", "hash"), _HEX),
    **dict.fromkeys(
        ("manifest_sha256", "config_sha256", "tokenizer_sha256", "samples_sha256"), _HEX
    ),
    **dict.fromkeys(("commit", "revision"), r"[\w./+-]{1,100}"),
    "created": r"[0-9T:.+Z-]{10,40}",
    "relation": "source|unrelated|not recorded",
    "outcome": "loss|gain|none|inconclusive",
    "test": "mcnemar|wilcoxon|bootstrap",
    "kind": "text|non-members",
    "metrics": "exact|full",
    "dtype": "float16|bfloat16|float32|float64",
    "device_map": "auto",
    "device": r"\w{1,10}(:\d{1,3})?",
    "attn_implementation": r"\w{1,40}",
    "count": r"\d{1,20}(-\d{1,20})?",
    "variant": "|".join((*VARIANTS, "mixed")),
    "layout": "stock|compact",
    "family": r"\w{1,40}",
    "version": r"[\w.+-]{1,40}",
    **dict.fromkeys(("id", "metric", "tasks", "attack"), _WORD),
}
"""Key → what a string under it must be, whole, wherever it stands."""
_NAMED = {"versions": _FORMS["version"], "attention_free": _FORMS["variant"]}
"""The keys of these are names, and their values are of one form."""
_NAMES = {
    ("base", "name"), ("edits", "name"), ("settings", "models"), ("settings", "baseline"),
    ("base", "provenance", "model"), ("edits", "provenance", "model"),
    ("settings", "samples"), ("settings", "control"), ("settings", "include_path"),
    ("settings", "front"), ("provenance", "controls", "name"),
    ("edits", "extraction", "samples", "source"), ("edits", "extraction", "control", "source"),
    *(("edits", "extraction", "provenance", role, "model") for role in ("model", "baseline")),
    ("edits", "audit", "attacks", "name"), ("edits", "edit", "source"),
    ("edits", "edit", "calibration", "sources", "name"),
}  # fmt: skip
"""Where the name of a model, a file or an attack stands: any text, in few words and one line."""
_SENTENCES = {
    ("commands",), ("front", "label"), ("edits", "verdict"), ("edits", "warnings"),
    ("edits", "tasks", "verdict"), ("edits", "heldout", "verdict"),
    ("edits", "all_passages", "heldout", "verdict"), ("edits", "gates", "name"),
    ("edits", "gates", "description"), ("edits", "edit", "drop_attn"),
    ("edits", "extraction", "warnings"),
    ("edits", "extraction", "paired", "selectivity", "definition"),
    *(("edits", "audit", "attacks", key) for key in ("setting", "definition", "source", "cost")),
}  # fmt: skip
_LISTS = {"ci95", "exact_match_ci95", "blocks", "heads", "stages", "any", "near"}
_KEY = re.compile(r"[!-~]{1,100}")
_LONGEST, _WORDS = 200, 8  # of a name


def texts_in(value: Any, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Where something stands that may be text of a passage: its keys, with dots.

    `value`: what stands in a report under the keys of `path`; without keys, the report.
    """
    where = ".".join(path)
    if isinstance(value, dict):
        for key, inner in value.items():
            if not _KEY.fullmatch(key):
                yield f"a key of {where or 'the report'}"
            elif path[:2] == ("edits", "passages") and key not in PASSAGE:
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
    return ((*path[:2], path[-1]) if path[:2] == ("edits", "tasks") else path) in _SENTENCES


def _is_name(text: str, path: tuple[str, ...]) -> bool:
    if path in _NAMES:
        return text.isprintable() and len(text) <= _LONGEST and len(text.split()) <= _WORDS
    forms = [_NAMED[key] for key in path[:-1] if key in _NAMED]
    form = forms[-1] if forms else _FORMS.get(path[-1])
    return form is not None and re.fullmatch(form, text, re.ASCII) is not None
