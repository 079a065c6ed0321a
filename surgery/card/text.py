"""Renders the model card, README.md: what changed, what was measured, how to load and repeat it.

Generated parts stand between comments, and the text outside of them survives a refresh. The Hub
reads the YAML at the top. A refresh writes its keys of the edit (base model, library, results)
again and adds tags. It takes license, datasets and language from the source's card, unless the card
has its own, and leaves all other keys. The card changes with each evaluation and push, so the
manifest holds no hash of it, and nothing relies on it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from surgery.card.facts import FILTERS, Markdown, as_line, gather_facts, make_printable
from surgery.checkpoint import CARD
from surgery.errors import ManifestError, OutputError, SourceError
from surgery.privacy import check_link
from surgery.record.manifest import Manifest
from surgery.untrusted import parse_yaml, read_bytes, reraise_as

_CARRIED = ("license", "license_name", "license_link", "language", "datasets")
_TAGS = ("attn-surgery", "memorization")
# the Hub knows adapter, merge, quantized and finetune; full weights that derive from one model
# without being merged or quantized are what it lists as fine-tunes
_FULL, _ADAPTER = "finetune", "adapter"
TASK = "text-generation"
_INDEX = "model-index"
_CLAIMED = ("base_model", "base_model_relation", _INDEX)
"""Keys that must agree with the manifest and the report."""
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_PART = re.compile(  # up to the next opening at most, so that many openings cost little
    r"<!-- attn-surgery:(\w+)\b[^<>]*-->\n(?:(?!<!-- attn-surgery:).)*?<!-- /attn-surgery:\1 -->",
    re.DOTALL,
)
_NAME = re.compile(
    r"^model = (?:AutoModelForCausalLM\.from_pretrained\(|PeftModel\.from_pretrained\(base, )"
    r'("(?:[^"\\\n]|\\.)*")',
    re.MULTILINE,
)
_MARK = re.compile(r"<!-- /?attn-surgery:\w+")


@dataclass(frozen=True)
class Measurements:
    """What a card shows of an evaluation: Markdown without comments of ours, and arguments of
    `huggingface_hub.EvalResult` for the model index."""

    text: str
    results: Sequence[Mapping[str, Any]] = ()


def read_card(folder: Path) -> str | None:
    """A folder's own README.md; None without one. Bytes that are no text are replaced."""
    content = _read(folder)
    return None if content is None else content.decode("utf-8", errors="replace")


def read_own_card(folder: Path) -> str | None:
    """As `read_card`, of a card that will be written again. Raises `OutputError` if it is no text:
    a refresh would lose it."""
    content = _read(folder)
    fix = "convert it to UTF-8, or delete it"
    with reraise_as(OutputError, "is not UTF-8", folder / CARD, fix):
        return None if content is None else content.decode()


def _read(folder: Path) -> bytes | None:
    path = check_link(folder / CARD, folder)
    return read_bytes(path, SourceError) if path.is_file() else None


def read_metadata(card: str | None) -> dict[str, Any]:
    """The metadata of somebody's card; nothing if there is none, or it cannot be read."""
    try:
        return _split_card(card or "")[0]
    except ManifestError:
        return {}


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
    from huggingface_hub import ModelCard

    metadata, body = _split_card(existing or "")
    with reraise_as(ManifestError, "cannot be made from the manifest", CARD):
        generated = _render(manifest, name, measured)
        carried = _read_source_metadata(source_card)
        yaml = _render_metadata(manifest, name, carried, metadata, measured)
    text = f"---\n{yaml}\n---\n\n{_refresh_parts(body, generated).strip()}\n"
    with reraise_as(ManifestError, "the metadata is not valid for a model card", CARD):
        ModelCard(text)  # as the Hub's library reads it
    return text


class Comparison(NamedTuple):
    """A card beside the one that `render_card` would make: the first generated part or key that
    differs, and the generated parts that the card lacks."""

    wrong: str | None
    missing: list[str]


def compare_card(
    card: str, manifest: Manifest, measured: Measurements | None, *, name: str
) -> Comparison:
    """Compares a card with what `render_card` makes of it. `name`: what the model is called, unless
    a part says so."""
    name = find_name(card) or name
    made = render_card(manifest, name=name, measured=measured, existing=card)
    (theirs, body), (ours, fresh) = map(_split_card, (card, made))
    parts = {match[1]: match[0] for match in _PART.finditer(fresh)}
    found = {match[1]: match[0] for match in _PART.finditer(body)}
    wrong = [f"part {part}" for part in found if parts.get(part) != found[part]]
    wrong += [key for key in _CLAIMED if key in theirs and theirs[key] != ours.get(key)]
    return Comparison(next(iter(wrong), None), [part for part in parts if part not in found])


def list_own_keys(card: str) -> list[str]:
    """The keys of a card's metadata that `render_card` neither makes nor compares, but for tags."""
    made = {*_CLAIMED, "library_name", "pipeline_tag", "tags"}
    return [key for key in read_metadata(card) if key not in made]


def find_name(card: str) -> str | None:
    """What the generated part of a card tells people to load; None without that part."""
    said = _NAME.search(card)
    with reraise_as(ManifestError, "names no model", CARD):
        return None if said is None else str(json.loads(said[1]))


def extract_own_text(card: str) -> str:
    """A card's body without its generated parts: what the user wrote."""
    return _PART.sub("", _split_card(card)[1]).strip()


def merge_cards(card: str, published: str) -> str:
    """Merges a folder's card with its published one, which may have been edited on the Hub.

    Metadata of the folder's card wins, but tags of both count. So does its text, if the user wrote
    any.
    """
    ours, body = _split_card(card)
    theirs, published_body = _split_card(published)
    tags = list(dict.fromkeys(map(str, [*_list_tags(ours), *_list_tags(theirs)])))
    yaml = _to_yaml({**theirs, **ours, **({"tags": tags} if tags else {})})
    return f"---\n{yaml}\n---\n{body if extract_own_text(card) else published_body}"


def _split_card(text: str) -> tuple[dict[str, Any], str]:
    """Splits a card into metadata and the rest."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    text = text.replace("\r\n", "\n")
    match = REGEX_YAML_BLOCK.search(text)
    if match is None:
        return {}, text
    try:
        return parse_yaml(match[2]), text[match.end() :]
    except ValueError as error:
        fix = "correct it between the two lines of ---"
        raise ManifestError(f"the metadata {error}", where=CARD, fix=fix) from None


def _list_tags(metadata: Mapping[str, Any]) -> list[Any]:
    tags = metadata.get("tags")
    return [tags] if isinstance(tags, str) else tags if isinstance(tags, list) else []


def _to_yaml(metadata: Mapping[str, Any]) -> str:
    """Writes metadata as it stands between the two lines of ---."""
    from huggingface_hub.repocard_data import CardData

    return str(CardData(**metadata).to_yaml())


def _read_source_metadata(text: str | None) -> dict[str, Any]:
    """Reads what is kept from the source's card; nothing if it cannot be read."""
    data = read_metadata(text)
    return {key: data[key] for key in _CARRIED if data.get(key)}


def _render_metadata(
    manifest: Manifest,
    name: str,
    source: Mapping[str, Any],
    existing: Mapping[str, Any],
    measured: Measurements | None,
) -> str:
    """Makes the card's metadata, as `_to_yaml` writes it."""
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    sources, relation, library = manifest.sources, _FULL, "transformers"
    if manifest.step.is_adapter:  # which fits no source of an earlier step
        sources, relation, library = sources[:1], _ADAPTER, "peft"
    on_hub = [source.hub_id for source in sources]
    base_model = next((model for model in on_hub if model is not None), None)  # the nearest
    free = ["attention-free"] if manifest.edited_heads else []
    tags = (*free, *_TAGS, manifest.step.family, *_list_tags(existing))
    ours = {
        "base_model": base_model,
        "base_model_relation": relation if base_model else None,
        "library_name": library,
        "pipeline_tag": TASK,
        "tags": list(dict.fromkeys(map(str, tags))),
    }
    kept = {key: value for key, value in existing.items() if key not in {*ours, _INDEX}}
    data = {key: value for key, value in {**ours, **source, **kept}.items() if value is not None}
    if measured is not None and measured.results:
        results = [EvalResult(**result) for result in measured.results]
        data[_INDEX] = eval_results_to_model_index(make_printable(name), results)
    return _to_yaml(data)


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
