"""What was done and what it weighs: the edit, sizes and speed, provenance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from evals.evaluation.page.drawings import columns
from evals.evaluation.page.figures import Figure, Interval, Node
from surgery.variants import VARIANTS

SIZES = (  # label, key, how it is shown, key of the ratio where speed was measured
    ("parameters", "parameters", "count", "parameters"),
    ("weights on disk", "weight_bytes", "size", ""),
    ("key/value cache for each token", "cache_bytes_per_token", "size", "cache_bytes"),
)


@dataclass(frozen=True)
class Pair:
    """The same figure of both models. `note` says how far the difference can be trusted."""

    label: str
    base: Figure | Interval
    edited: Figure | Interval
    ratio: Figure | Interval | None = None
    note: str | None = None


def edit_of(edit: Node) -> dict[str, Any]:
    """The picture of the blocks, where heads stand above each other, and how well they fit."""
    variants = {part["variant"] for part in edit.value["parts"]}
    variants |= {*edit.value["attention_free"].values()}
    meanings = {name: variant.SUMMARY.partition(":")[0] for name, variant in VARIANTS.items()}
    return {
        "columns": columns(edit.value),
        "variants": [(name, meanings.get(name, "")) for name in sorted(variants)],
        "calibration": _calibration(edit["calibration"]) if edit.has("calibration") else None,
    }


def _calibration(record: Node) -> dict[str, Any]:
    """The text that variants were fitted on, and how well each block could be fitted."""
    fits = record["blocks"].items() if record.has("blocks") else ()
    return {
        "text": list(_leaves(record, without=("blocks",))),
        "fits": [
            (
                block,
                fit["r2"].number() if fit.has("r2") else "none",
                fit["ridge"] if fit.has("ridge") else "none",
            )
            for block, fit in fits
        ],
    }


def sizes_of(root: Node) -> dict[str, Any]:
    """Sizes always, speed and memory where they were measured."""
    pairs = []
    for label, key, show, ratio in SIZES:
        base, edited = (getattr(root["sizes"][part][key], show)() for part in ("base", "edited"))
        known = root.has("speed", "ratios", ratio)
        shown = root.at("speed", "ratios", ratio).number(2) if known else None
        pairs.append(Pair(label, base, edited, shown))
    if not root.has("speed"):
        return {"pairs": pairs, "settings": None}
    speed = root["speed"]
    ratios = speed["ratios"]
    for label, key in (("reading the prompt", "prefill"), ("writing", "decode")):
        name = f"{key}_tokens_per_second"
        before, after = (speed[part][name].interval("number", 0) for part in ("base", "edited"))
        noise = "within noise" if ratios.value[name]["within_noise"] else None
        ratio_of_both = ratios[name].interval("number", 2)
        pairs.append(Pair(f"{label}, tokens per second", before, after, ratio_of_both, noise))
    base, edited = (speed[part]["peak_memory_bytes"].size() for part in ("base", "edited"))
    pairs.append(Pair("peak memory", base, edited, ratios["peak_memory_bytes"].number(2)))
    settings = {
        name: node.count() if isinstance(node.value, int) else node
        for name, node in speed["settings"].items()
    }
    return {"pairs": pairs, "settings": settings}


def provenance_of(provenance: Node, settings: Node) -> dict[str, Any]:
    models = [dict(_leaves(provenance[part])) for part in ("base", "edited")]
    rest = _leaves(provenance, without=("base", "edited", "versions", "seeds"))
    return {
        "models": [
            (name, [model.get(name) for model in models]) for name in {**models[0], **models[1]}
        ],
        "facts": {
            "Run": [*_leaves(settings), *rest],
            "Seeds": list(_leaves(provenance["seeds"])),
            "Versions": list(_leaves(provenance["versions"])),
        },
    }


def _leaves(node: Node, name: str = "", without: Sequence[str] = ()) -> Iterator[tuple[str, Node]]:
    """Every value below a node, with its path in words; nulls are left out."""
    if isinstance(node.value, dict):
        for key in (key for key in node.value if key not in without):
            words = key.replace("_", " ").replace("sha256", "SHA-256")
            yield from _leaves(node[key], f"{name} {words}".strip())
    elif isinstance(node.value, list):
        for index, child in enumerate(node):
            yield from _leaves(child, f"{name} {index + 1}".strip())
    elif node.value is not None:
        yield name, node
