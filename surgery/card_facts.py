"""What a card says of an edit and its measurements, as the template takes it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgery.blocks import format_blocks
from surgery.families import family_of
from surgery.manifest import Edit, Manifest
from surgery.selection import by_variant, format_selection
from surgery.variants import VARIANTS


def facts(manifest: Manifest, name: str) -> dict[str, Any]:
    """What was done to which model, and what files came of it. `name`: what it is loaded by."""
    edits, edit = [*manifest.history, manifest.edit], manifest.edit
    family = family_of({"model_type": edit.family})
    whole = format_blocks(tuple(manifest.attention_free))
    partial = format_blocks(tuple(set(manifest.edited_heads) - set(manifest.attention_free)))
    modeling = next((file for file in manifest.files if file.endswith(".py")), None)
    calibration = [source.name for e in edits if e.calibration for source in e.calibration.sources]
    return {
        "title": as_line(name),
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
        "fitted": ", ".join(map(as_code, dict.fromkeys(calibration))),
        "files": list(manifest.files.items()),
        "versions": edit.versions,
    }


def measured(report: Mapping[str, Any] | None) -> dict[str, Any]:
    """The parts of report.json that a card shows; {"report": None} where there is none."""
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
    return as_code(_name(first))


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


def as_line(text: object) -> str:
    """Text of one line, without what Markdown or our own comments could take for theirs."""
    return re.sub(r"([|<>\[\]])", r"\\\1", " ".join(str(text).split()))


def as_code(text: object) -> str:
    """Text in a code span that nothing in it can end, in one line of a table."""
    return f"`{' '.join(str(text).replace('`', '').split())}`".replace("|", "\\|").replace("<", "‹")


def as_figure(value: float, sign: str = "-") -> str:
    """Three decimals; `sign` "+" shows it for positive numbers too."""
    return f"{value:{sign}.4g}" if abs(value) >= 1000 else f"{value:{sign}.3f}"


def as_percent(rate: float) -> str:
    """0.25 → "25.0 %"."""
    return f"{100 * rate:.1f} %"


def as_percents(ends: tuple[float, float]) -> str:
    """An interval in percent: [20.0, 30.0]."""
    return f"[{100 * ends[0]:.1f}, {100 * ends[1]:.1f}]"
