"""Renders the model card, README.md: what changed, what was measured, how to load and repeat it.

Generated parts stand between comments. Text outside of them and metadata keys of others survive a
refresh. The card changes with each evaluation and push, so the manifest holds no hash of it, and
nothing relies on it.
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
from surgery.checkpoint.source import CARD, MANIFEST, check_link
from surgery.errors import ManifestError, SourceError
from surgery.hub.finding import get_last_name
from surgery.output import write_text
from surgery.record.manifest import Manifest, read_manifest
from surgery.untrusted import guard, read_bytes

_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_PART = re.compile(r"<!-- attn-surgery:(\w+)\b[^>]*-->\n.*?<!-- /attn-surgery:\1 -->", re.DOTALL)
_NAME = re.compile(
    r'^model = AutoModelForCausalLM\.from_pretrained\(("(?:[^"\\\n]|\\.)*")', re.MULTILINE
)
_MARK = re.compile(r"<!-- /?attn-surgery:\w+")
_LARGEST = 2**20  # bytes of a card


def read_card(folder: Path) -> str | None:
    """A folder's own README.md; None without one. Bytes that are no text are replaced."""
    path = check_link(folder / CARD, folder)
    if not path.is_file():
        return None
    return read_bytes(path, SourceError, limit=_LARGEST).decode("utf-8", errors="replace")


def refresh_card(folder: Path, measured: Measurements | None) -> Path:
    """Writes a folder's card again, with the figures of an evaluation. The user's text stays.

    Raises `ManifestError` if the folder has no manifest or its card is broken, and `OutputError` if
    the card cannot be written. The old card then stays.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise ManifestError(f"has no {MANIFEST}", where=folder)
    existing = read_card(folder)
    text = render_card(manifest, name=get_last_name(folder), measured=measured, existing=existing)
    write_text(folder / CARD, text, overwrite=True)
    return folder / CARD


def render_card(
    manifest: Manifest,
    source_card: str | None = None,
    *,
    name: str,
    measured: Measurements | None = None,
    existing: str | None = None,
) -> str:
    """Renders README.md of an edited model.

    **Arguments:**

    - `source_card`: README.md of the source, for its license, language and datasets.
    - `name`: to load the model by, a Hub id or the name of its folder.
    - `measured`: the figures of an evaluation against the source, if there is one.
    - `existing`: the current card, whose own text and metadata stay.

    Raises `ManifestError` if the existing card's metadata or marks are broken, or if the Hub could
    not read the result.
    """
    metadata, body = split_card(existing or "")
    with guard(ManifestError, "cannot be made from the manifest", CARD):
        generated = _render(manifest, name, measured)
        carried = read_source_metadata(source_card)
        yaml = render_metadata(manifest, name, carried, metadata, measured)
    text = f"---\n{yaml}\n---\n\n{_refresh_parts(body, generated).strip()}\n"
    _check_card(text)
    return text


def find_disagreement(
    card: str, manifest: Manifest, measured: Measurements | None, *, name: str
) -> str | None:
    """The first generated part or key of a card that `render_card` would make differently.

    Missing parts do not count. `name`: of the model, unless a part gives it.
    """
    said = _NAME.search(card)
    with guard(ManifestError, "names no model", CARD):
        name = json.loads(said[1]) if said else name
    made = render_card(manifest, name=name, measured=measured, existing=card)
    (theirs, body), (ours, fresh) = map(split_card, (card, made))
    parts = {match[1]: match[0] for match in _PART.finditer(fresh)}
    wrong = [f"part {m[1]}" for m in _PART.finditer(body) if parts.get(m[1]) != m[0]]
    wrong += [key for key in CLAIMED if key in theirs and theirs[key] != ours.get(key)]
    return next(iter(wrong), None)


def extract_own_text(card: str) -> str:
    """A card's body without its generated parts: what the user wrote."""
    return _PART.sub("", split_card(card)[1]).strip()


def merge_cards(card: str, published: str) -> str:
    """Merges a folder's card with its published one, which may have been edited on the Hub.

    Metadata of the folder's card wins. So does its text, if the user wrote any.
    """
    ours, body = split_card(card)
    theirs, published_body = split_card(published)
    yaml = to_yaml({**theirs, **ours})
    return f"---\n{yaml}\n---\n{body if extract_own_text(card) else published_body}"


def _refresh_parts(body: str, generated: Mapping[str, str]) -> str:
    """Replaces the body's generated parts, and adds each missing one after its predecessor."""
    found = _PART.findall(body)
    text = _PART.sub(lambda match: generated.get(match[1], ""), body)
    if len(_MARK.findall(_PART.sub("", body))) or len(found) > len(set(found)):
        raise ManifestError(
            "a generated part lacks one of the comments around it, or stands there twice",
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


def _check_card(text: str) -> None:
    """Reads the card as the Hub's library does."""
    from huggingface_hub import ModelCard

    try:
        ModelCard(text)
    except (ValueError, TypeError, KeyError) as error:
        what = "the metadata is not valid for a model card"
        raise ManifestError(what, where=CARD, got=error) from None


def _render(manifest: Manifest, name: str, measured: Measurements | None) -> dict[str, str]:
    """Part → its text with comments, in the template's order."""
    text = _load_template().render(**gather_facts(manifest, name), measured=measured)
    return {match[1]: re.sub(r"\n{3,}", "\n\n", match[0]) for match in _PART.finditer(text)}


@lru_cache
def _load_template() -> Any:
    from jinja2 import Environment, StrictUndefined

    def inert(value: Any) -> Any:
        return as_line(value) if isinstance(value, str) and type(value) is not Markdown else value

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, finalize=inert)
    environment.filters |= FILTERS
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
