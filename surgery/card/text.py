"""The model card, README.md: what was changed, measured and lost, and how to load and repeat it.

Generated parts stand between comments. Whatever a user writes outside of them, and every metadata
key that is not ours, survives a refresh. The card changes with each evaluation and push, so it is
not among the hashed files of the manifest; nothing relies on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from surgery.card.facts import FILTERS, Markdown, as_line, gather_facts
from surgery.card.metadata import (
    CLAIMED,
    Measurements,
    read_source_metadata,
    render_metadata,
    split_card,
    to_yaml,
)
from surgery.checkpoint.source import CARD
from surgery.errors import ManifestError
from surgery.record.manifest import Manifest
from surgery.untrusted import guard

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_PART = re.compile(r"<!-- attn-surgery:(\w+)\b[^>]*-->\n.*?<!-- /attn-surgery:\1 -->", re.DOTALL)
_NAME = re.compile(
    r'^model = AutoModelForCausalLM\.from_pretrained\(("(?:[^"\\\n]|\\.)*")', re.MULTILINE
)
_MARK = re.compile(r"<!-- /?attn-surgery:\w+")


def render_card(
    manifest: Manifest,
    source_card: str | None = None,
    *,
    name: str,
    measured: Measurements | None = None,
    existing: str | None = None,
) -> str:
    """README.md of an edited model.

    **Arguments:**

    - `source_card`: README.md of the model that was edited, for its license, language and datasets.
    - `name`: what the model is loaded by: a Hub id, or the name of its folder.
    - `measured`: the figures of an evaluation of the whole against the source, where there is one.
    - `existing`: the card as it is now, whose own text and metadata are kept.

    **Raises:** `ManifestError` when the existing card's metadata or marks are broken, or when the
    result would not be read by the Hub.
    """
    metadata, body = split_card((existing or "").replace("\r\n", "\n"))
    with guard(ManifestError, "cannot be made from the manifest", CARD):
        generated = _render(manifest, name, measured)
        yaml = render_metadata(
            manifest, name, read_source_metadata(source_card), metadata, measured
        )
    text = f"---\n{yaml}\n---\n\n{_refreshed(body, generated).strip()}\n"
    _check(text)
    return text


def find_disagreement(
    card: str, manifest: Manifest, measured: Measurements | None, *, name: str
) -> str | None:
    """What of a card is not what `render_card` makes: a generated part, or a key; None without.

    A part that is not there says nothing. `name`: what the model is called, if no part tells.
    """
    said = _NAME.search(card)
    with guard(ManifestError, "names no model", CARD):
        name = json.loads(said[1]) if said else name
    made = render_card(manifest, name=name, measured=measured, existing=card)
    (theirs, body), (ours, fresh) = (
        split_card(text.replace("\r\n", "\n")) for text in (card, made)
    )
    parts = {match[1]: match[0] for match in _PART.finditer(fresh)}
    wrong = [f"part {m[1]}" for m in _PART.finditer(body) if parts.get(m[1]) != m[0]]
    wrong += [key for key in CLAIMED if key in theirs and theirs[key] != ours.get(key)]
    return next(iter(wrong), None)


def extract_own_text(card: str) -> str:
    """What a user has written into a card: its body without the generated parts."""
    return _PART.sub("", split_card(card.replace("\r\n", "\n"))[1]).strip()


def merge_cards(card: str, published: str) -> str:
    """A folder's card and its published one, which was perhaps edited on the Hub, as one.

    Metadata of the folder's card goes before. So does its text, if a user has written any.
    """
    ours, body = split_card(card)
    theirs, published_body = split_card(published)
    yaml = to_yaml({**theirs, **ours})
    return f"---\n{yaml}\n---\n{body if extract_own_text(card) else published_body}"


def _refreshed(body: str, generated: Mapping[str, str]) -> str:
    """The body with its generated parts replaced, and those it lacks put after the one before."""
    found = _PART.findall(body)
    text = _PART.sub(lambda match: generated.get(match[1], ""), body)
    if len(_MARK.findall(_PART.sub("", body))) or len(found) > len(set(found)):
        raise ManifestError(
            "a generated part has lost one of the comments around it, or is there twice",
            where=CARD,
            fix="restore the comments, or delete the part with both of them",
        )
    before = None
    for part, content in generated.items():
        if part not in found:
            place = len(text) if before is None else text.index(before) + len(before)
            text = f"{text[:place].rstrip()}\n\n{content}\n\n{text[place:].lstrip()}"
        before = content
    return text


def _check(text: str) -> None:
    """Reads the card as the Hub's library does."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(text)
    except (ValueError, TypeError, KeyError) as error:
        what = "the metadata is not that of a model card"
        raise ManifestError(what, where=CARD, got=error) from None


def _render(manifest: Manifest, name: str, measured: Measurements | None) -> dict[str, str]:
    """Part → its text, comments included, in the template's order."""
    text = _template().render(**gather_facts(manifest, name), measured=measured)
    return {match[1]: re.sub(r"\n{3,}", "\n\n", match[0]) for match in _PART.finditer(text)}


@lru_cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    def inert(value: Any) -> Any:
        return as_line(value) if isinstance(value, str) and type(value) is not Markdown else value

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=inert)
    environment.filters |= FILTERS
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
