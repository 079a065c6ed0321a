"""What was done and what it weighs: the edit, sizes and speed, some passages, provenance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from evals.evaluation.page.drawings import columns
from evals.evaluation.page.figures import Figure, Interval, Node

VARIANTS = {
    "identity": "every token attends to itself alone",
    "zero": "the attention branch adds nothing",
    "mean": "the branch adds its mean on calibration text",
    "linear": "an affine map fitted on calibration text",
}
SIZES = (  # label, key, how it is shown, key of the ratio where speed was measured
    ("parameters", "parameters", "count", "parameters"),
    ("weights on disk", "weight_bytes", "size", None),
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
    """The edit, and the picture of the blocks: heads stand above each other in a block's column."""
    variants = dict.fromkeys(part["variant"] for part in edit.value["parts"])
    variants |= dict.fromkeys(edit.value["attention_free"].values())
    return {
        "columns": columns(edit.value),
        "heads": edit.value["num_heads"] or 1,
        "num_heads": edit["num_heads"].count() if edit.has("num_heads") else None,
        "num_blocks": edit["num_blocks"].count(),
        "source": edit["source"].text(),
        "family": edit["family"].text(),
        "drop_attn": edit["drop_attn"].text(),
        "variant": edit["variant"].text(),
        "variants": [(name, VARIANTS.get(name, "")) for name in sorted(variants)],
        "layout": edit["layout"].text(),
        "gap": edit["one_hot"]["gap"].number(1) if edit.has("one_hot", "gap") else None,
        "earlier_edits": edit["earlier_edits"].count() if edit.value["earlier_edits"] else None,
        "calibration": _calibration(edit["calibration"]) if edit.has("calibration") else None,
    }


def _calibration(record: Node) -> dict[str, Any]:
    """The text that variants were fitted on, and how well each block could be fitted."""
    fits = record["blocks"].items() if record.has("blocks") else ()
    return {
        "text": [
            leaf
            for name, node in record.items()
            if name != "blocks"
            for leaf in _leaves(node, _words(name))
        ],
        "fits": [
            (
                block,
                fit["r2"].number() if fit.has("r2") else "none",
                fit["ridge"].text() if fit.has("ridge") else "none",
            )
            for block, fit in fits
        ],
    }


def sizes_of(root: Node) -> dict[str, Any]:
    """Sizes always, speed and memory where they were measured."""
    pairs = []
    for label, key, show, ratio in SIZES:
        base, edited = (getattr(root["sizes"][part][key], show)() for part in ("base", "edited"))
        known = ratio is not None and root.has("speed", "ratios", ratio)
        shown = root.at("speed", "ratios", ratio).number(2) if known and ratio else None
        pairs.append(Pair(label, base, edited, shown))
    if not root.has("speed"):
        return {"pairs": pairs, "settings": None}
    speed = root["speed"]
    ratios = speed["ratios"]
    for label, key in (("reading the prompt", "prefill"), ("writing", "decode")):
        name = f"{key}_tokens_per_second"
        before, after = (_spread(speed[part][name], 0) for part in ("base", "edited"))
        noise = "within noise" if ratios.value[name]["within_noise"] else None
        ratio_of_both = _spread(ratios[name], 2)
        pairs.append(Pair(f"{label}, tokens per second", before, after, ratio_of_both, noise))
    base, edited = (speed[part]["peak_memory_bytes"].size() for part in ("base", "edited"))
    pairs.append(Pair("peak memory", base, edited, ratios["peak_memory_bytes"].number(2)))
    return {"pairs": pairs, "settings": _settings(speed["settings"])}


def _spread(node: Node, digits: int) -> Interval:
    return Interval(*(node[key].number(digits) for key in ("median", "min", "max")))


def _settings(settings: Node) -> dict[str, Figure]:
    return {
        name: node.count() if isinstance(node.value, int) else node.text()
        for name, node in settings.items()
    }


def passages_of(passages: Node) -> list[dict[str, Any]]:
    """Rows of the memorization test; text only where the report holds it."""
    return [
        {
            "id": row["id"].text(),
            "hash": row["hash"].text(),
            "count": row["count"].count() if row.has("count") else None,
            "base": _outcome(row["baseline"]) if row.has("baseline") else None,
            "edited": _outcome(row),
            "text": [row[part].text() for part in ("prefix", "suffix")]
            if row.has("prefix")
            else None,
        }
        for row in passages
    ]


def _outcome(row: Node) -> dict[str, Any]:
    """Recited to the end, or until which token; and the share of tokens that are right."""
    diverges = row.has("first_divergence")
    return {
        "exact": row.value["exact"],
        "until": row["first_divergence"].count() if diverges else None,
        "score": row["score"].rate(),
    }


def provenance_of(provenance: Node, settings: Node) -> dict[str, Any]:
    models = [dict(_leaves(provenance[part])) for part in ("base", "edited")]
    groups = ("base", "edited", "versions", "seeds")
    rest = {name: node for name, node in provenance.items() if name not in groups}
    return {
        "models": [
            (name, [model.get(name) for model in models]) for name in {**models[0], **models[1]}
        ],
        "run": [
            *_leaves(settings),
            *(leaf for name, node in rest.items() for leaf in _leaves(node, _words(name))),
        ],
        "seeds": list(_leaves(provenance["seeds"])),
        "versions": list(_leaves(provenance["versions"])),
    }


def _words(name: str) -> str:
    return name.replace("_", " ").replace("sha256", "SHA-256")


def _leaves(node: Node, name: str = "") -> Iterator[tuple[str, Figure]]:
    """Every value below a node, with its path in words; nulls are left out."""
    if isinstance(node.value, dict):
        for key, child in node.items():
            yield from _leaves(child, f"{name} {_words(key)}".strip())
    elif isinstance(node.value, list):
        for index, child in enumerate(node):
            yield from _leaves(child, f"{name} {index + 1}".strip())
    elif node.value is not None:
        yield name, node.text()
