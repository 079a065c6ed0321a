"""The model card, README.md: what was changed, measured and lost, and how to load and repeat it.

Generated parts stand between comments. Whatever a user writes outside of them, and every metadata
key that is not ours, survives a refresh. The card changes with each evaluation and push, so it is
not among the hashed files of the manifest; nothing relies on it.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from surgery.blocks import format_blocks
from surgery.card_metadata import metadata_yaml, source_metadata, split_card, to_yaml
from surgery.errors import ManifestError
from surgery.families import family_of
from surgery.manifest import Edit, Manifest
from surgery.selection import by_variant, format_selection
from surgery.variants import VARIANTS

NAME = "README.md"
_TEMPLATE = Path(__file__).with_name("card.md.jinja")
_PART = re.compile(r"<!-- attn-surgery:(\w+)\b[^>]*-->\n.*?<!-- /attn-surgery:\1 -->", re.DOTALL)
_MARK = re.compile(r"<!-- /?attn-surgery:\w+")


def card_text(
    manifest: Manifest,
    source_card: str | None = None,
    *,
    name: str,
    report: Mapping[str, Any] | None = None,
    existing: str | None = None,
) -> str:
    """README.md of an edited model.

    **Arguments:**

    - `source_card`: README.md of the model that was edited, for its license, language and datasets.
    - `name`: what the model is loaded by: a Hub id, or the name of its folder.
    - `report`: the content of report.json (docs/report.md), where there is one.
    - `existing`: the card as it is now, whose own text and metadata are kept.

    **Raises:** `ManifestError` when the existing card's metadata or marks are broken, or when the
    result would not be read by the Hub.
    """
    metadata, body = split_card((existing or "").replace("\r\n", "\n"))
    generated = _render(manifest, name, report)
    yaml = metadata_yaml(manifest, name, source_metadata(source_card), metadata, report)
    text = f"---\n{yaml}\n---\n\n{_refreshed(body, generated).strip()}\n"
    _check(text)
    return text


def own_text(card: str) -> str:
    """What a user has written into a card: its body without the generated parts."""
    return _PART.sub("", split_card(card.replace("\r\n", "\n"))[1]).strip()


def merged(card: str, published: str) -> str:
    """A folder's card and its published one, which was perhaps edited on the Hub, as one.

    Metadata of the folder's card goes before. So does its text, if a user has written any.
    """
    ours, body = split_card(card)
    theirs, published_body = split_card(published)
    yaml = to_yaml({**theirs, **ours})
    return f"---\n{yaml}\n---\n{body if own_text(card) else published_body}"


def _refreshed(body: str, generated: Mapping[str, str]) -> str:
    """The body with its generated parts replaced, and those it lacks put after the one before."""
    found = _PART.findall(body)
    text = _PART.sub(lambda match: generated.get(match[1], ""), body)
    if len(_MARK.findall(_PART.sub("", body))) or len(found) > len(set(found)):
        raise ManifestError(
            "a generated part has lost one of the comments around it, or is there twice",
            where=NAME,
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
        raise ManifestError(what, where=NAME, got=error) from None


def _render(manifest: Manifest, name: str, report: Mapping[str, Any] | None) -> dict[str, str]:
    """Part → its text, comments included, in the template's order."""
    text = _template().render(**_facts(manifest, name), **_measured(report))
    return {match[1]: re.sub(r"\n{3,}", "\n\n", match[0]) for match in _PART.finditer(text)}


@lru_cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters |= {
        "code": _code,
        "line": _line,
        "plural": lambda spec, noun: noun if spec.isdigit() else f"{noun}s",
        "figure": _figure,
        "signed": lambda value: _figure(value, "+"),
        "signed_interval": lambda ends: f"[{_figure(ends[0], '+')}, {_figure(ends[1], '+')}]",
        "rate": lambda rate: (
            f"{rate['count']} ({_percent(rate['rate'])}) {_percents(rate['ci95'])}"
        ),
        "mean_rate": lambda mean: f"{_percent(mean['mean'])} {_percents(mean['ci95'])}",
        "mean": lambda m: f"{_figure(m['mean'])} [{', '.join(map(_figure, m['ci95']))}]",
    }
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))


def _facts(manifest: Manifest, name: str) -> dict[str, Any]:
    edits, edit = [*manifest.history, manifest.edit], manifest.edit
    family = family_of({"model_type": edit.family})
    whole = format_blocks(tuple(manifest.attention_free))
    partial = format_blocks(tuple(set(manifest.edited_heads) - set(manifest.attention_free)))
    modeling = next((file for file in manifest.files if file.endswith(".py")), None)
    calibration = [source.name for e in edits if e.calibration for source in e.calibration.sources]
    return {
        "title": _line(name),
        "name": shlex.quote(name),
        "quoted": json.dumps(name),
        "base": _base(edits[0]),
        "whole": whole,
        "partial": partial,
        "num_blocks": edit.num_blocks,
        "edits": [_described(edit) for edit in edits],
        "layout": "stock" if modeling is None else "compact",
        "modeling": modeling,
        "architecture": family.architecture,
        "tokenizer": any(file.startswith("tokenizer") for file in manifest.files),
        "fitted": ", ".join(map(_code, dict.fromkeys(calibration))),
        "files": list(manifest.files.items()),
        "versions": edit.versions,
    }


def _measured(report: Mapping[str, Any] | None) -> dict[str, Any]:
    if report is None:
        return {"report": None}
    run = report["provenance"]["edited"]
    settings = [f"{key} {run[key]}" for key in ("dtype", "device") if run.get(key)]
    versions = report["provenance"]["versions"]
    settings += [f"{key} {versions[key]}" for key in ("lm-eval", "transformers") if key in versions]
    keys = ("tasks", "heldout", "extraction", "gates")
    return {"report": report, "settings": ", ".join(settings), **{k: report[k] for k in keys}}


def _base(first: Edit) -> str:
    """The model that it all began with, as a link where it is on the Hub."""
    source = first.source
    if source.commit is not None:
        return f"[{source.model}](https://huggingface.co/{source.model})"
    return _code(_name(first))


def _name(edit: Edit) -> str:
    """The source's name; of a folder only the last part, since the rest is nobody's business."""
    model = edit.source.model
    return model if edit.source.commit or model.startswith("lab:") else Path(model).name


def _described(edit: Edit) -> dict[str, Any]:
    spec = format_selection(edit.parts, edit.num_heads)
    chosen = ["--drop-attn", spec, "--variant", edit.variant]
    if edit.variant == "mixed":
        chosen = ["--plan", "PLAN"]  # a file of the rows of the table
    revision = ["--revision", edit.source.commit] if edit.source.commit else []
    calibration = ["--calibration", "TEXT"] if edit.calibration else []
    return {
        "source": _name(edit),
        "commit": edit.source.commit,
        "parts": [
            (format_selection(parts, edit.num_heads), variant, VARIANTS[variant].SUMMARY)
            for variant, parts in by_variant(edit.parts).items()
        ],
        "command": shlex.join(["attn-surgery", "export", _name(edit), *revision]),
        "options": shlex.join([*chosen, *calibration, "--layout", edit.layout]),
    }


def _line(text: object) -> str:
    """Text of one line, without what Markdown or our own comments could take for theirs."""
    return re.sub(r"([|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def _code(text: object) -> str:
    return f"`{' '.join(str(text).replace('`', '').split())}`".replace("|", "\\|").replace("<", "‹")


def _figure(value: float, sign: str = "-") -> str:
    return f"{value:{sign}.4g}" if abs(value) >= 1000 else f"{value:{sign}.3f}"


def _percent(rate: float) -> str:
    return f"{100 * rate:.1f} %"


def _percents(ends: tuple[float, float]) -> str:
    return f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
