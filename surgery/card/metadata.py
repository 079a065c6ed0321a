"""The YAML at the top of a model card: what the Hub reads.

Keys of the edit (base model, library, results) are written again each time. Tags are added.
License, datasets and language come from the source's card unless the card has its own. All other
keys stay.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgery.card.facts import make_printable
from surgery.checkpoint.source import CARD
from surgery.errors import ManifestError
from surgery.record.manifest import Manifest
from surgery.untrusted import parse_yaml

CARRIED = ("license", "license_name", "license_link", "language", "datasets")
_TAGS = ("attention-free", "attn-surgery", "memorization")
# the Hub knows adapter, merge, quantized and finetune; full weights that derive from one model
# without being merged or quantized are what it lists as fine-tunes
_RELATION = "finetune"
TASK = "text-generation"
_INDEX = "model-index"
CLAIMED = ("base_model", "base_model_relation", _INDEX)
"""Keys that must agree with the manifest and the report."""


@dataclass(frozen=True)
class Measurements:
    """What a card shows of an evaluation: Markdown without comments of ours, and arguments of
    `huggingface_hub.EvalResult` for the model index."""

    text: str
    results: Sequence[Mapping[str, Any]] = ()


def split_card(text: str) -> tuple[dict[str, Any], str]:
    """Splits a card into metadata and the rest. Raises `ManifestError` for bad metadata."""
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


def to_yaml(metadata: Mapping[str, Any]) -> str:
    """Writes metadata as it stands between the two lines of ---."""
    from huggingface_hub.repocard_data import CardData

    return str(CardData(**metadata).to_yaml())


def read_source_metadata(text: str | None) -> dict[str, Any]:
    """Reads what is kept from the source's card; nothing if it cannot be read."""
    try:
        data, _ = split_card(text or "")
    except ManifestError:
        return {}
    return {key: data[key] for key in CARRIED if data.get(key)}


def render_metadata(
    manifest: Manifest,
    name: str,
    source: Mapping[str, Any],
    existing: Mapping[str, Any],
    measured: Measurements | None,
) -> str:
    """Makes the card's metadata, as `to_yaml` writes it."""
    from huggingface_hub.repocard_data import EvalResult, eval_results_to_model_index

    on_hub = [edit.source.hub_id for edit in (manifest.edit, *reversed(manifest.history))]
    base_model = next((model for model in on_hub if model is not None), None)  # the nearest
    tags = existing.get("tags")
    tags = [tags] if isinstance(tags, str) else tags if isinstance(tags, list) else []
    ours = {
        "base_model": base_model,
        "base_model_relation": _RELATION if base_model else None,
        "library_name": "transformers",
        "pipeline_tag": TASK,
        "tags": list(dict.fromkeys(map(str, (*_TAGS, manifest.edit.family, *tags)))),
    }
    kept = {key: value for key, value in existing.items() if key not in {*ours, _INDEX}}
    data = {key: value for key, value in {**ours, **source, **kept}.items() if value is not None}
    if measured is not None and measured.results:
        results = [EvalResult(**result) for result in measured.results]
        data[_INDEX] = eval_results_to_model_index(make_printable(name), results)
    return to_yaml(data)
