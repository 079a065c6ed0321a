"""A report as `evaluate` writes it: extraction is measured on tiny models, the rest is made up.

Every section is there, and every key that docs/report.md names; the schema has checked it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from blank import blank_pictures
from reciting import PREFIX, SUFFIX, model_named, passages

from evals.measure.attacks.names import list_untried, make_attack
from evals.measure.memorization.protocol import Protocol, measure, report_extraction
from evals.report.figures import Findings
from evals.report.page import render_pages
from evals.report.report import make_report
from evals.run.models import LoadedModel
from evals.run.statistics import rate
from surgery.hub.resolved import ResolvedModel
from surgery.layouts.one_hot import OneHot
from surgery.proof.report import record_reports
from surgery.record.manifest import Source, read_manifest
from surgery.record.report import Report, summarize_edit

BASE, EDITED = "neox-parallel", "neox-parallel compact identity"


def share(count: int, n: int) -> dict[str, Any]:
    return {"n": n, **rate(np.arange(n) < count), "draws": None}


TWIN = {
    "name": "twin",
    "recited": share(1, 24),
    "loss": 4.0,
    "toward_recited": 0.97,
    "toward_loss": None,
}


@lru_cache
def _extraction() -> dict[str, Any]:
    samples = passages(BASE, rows=24)
    counts = np.asarray([0, 1, 8, 256] * 6)
    samples = replace(samples, counts=counts, members=counts > 0)
    controls = np.random.default_rng(0).integers(2, 80, (16, PREFIX + SUFFIX)).astype(np.int32)
    protocol = Protocol(samples, controls, full=True)
    base, edited = (
        measure(LoadedModel(ResolvedModel(Path(), source), model_named(name), None), protocol)
        for name in (BASE, EDITED)
        for source in [Source(model=name, content="a" * 64)]
    )
    return report_extraction(edited, base)


def task(base: float, edited: float, half: float = 0.02, **changes: Any) -> dict[str, Any]:
    """A task whose difference has an interval of ± `half`."""
    difference = edited - base
    lost, n = difference + half < 0, 1267
    sure = "no loss shown" if 2 * half <= 0.05 else f"inconclusive (n = {n:,})"
    figures = {
        "base": base,
        "edited": edited,
        "difference": difference,
        "ci95": [difference - half, difference + half],
        "p_value": 3.2e-9 if lost else 0.3141,
        "test": "mcnemar",
        "outcome": "loss" if lost else "none" if 2 * half <= 0.05 else "inconclusive",
        "verdict": f"loss of {-difference - half:.2f} to {half - difference:.2f}" if lost else sure,
        "n": n,
        "resolution": 0.05,
        "higher_is_better": True,
        "drop": -difference,
        "drop_is_relative": False,
        **changes,
    }
    named = {"metric": "acc", "num_fewshot": 0, "batch_size": 8, "version": "1.0"}
    return {**figures, **named, "metrics": {"acc": figures}}


def audit() -> dict[str, Any]:
    """What an audit found: a plain attack, one with a curve and no control, and membership."""

    def curve(*rates: float) -> dict[str, Any]:
        return {"n": 22, "stages": [5, 10, 20], "any": list(rates), "near": list(rates)}

    def area(auc: float) -> dict[str, Any]:
        return {"loss": {"auc": auc, "ci95": [auc - 0.05, auc + 0.02], "overcorrected": False}}

    paired = {"no_longer": 20, "newly": 0, "difference": -0.8, "ci95": [-0.9, -0.6], "p_value": 0.0}
    names = ("greedy", "relearn", "membership")
    greedy, relearn, membership = (make_attack(name).description for name in names)
    return {
        "n": 24,
        "control": {"kind": "non-members", "n": 6},
        "attacks": [
            {**greedy, "seconds": 1.5, "base": share(21, 24), "edited": share(1, 24),
             "control": share(0, 6), "paired": paired},
            {**relearn, "seconds": 20.25, "base": share(21, 22), "edited": share(6, 22),
             "control": None, "paired": paired,
             "curve": {"base": curve(0.9, 0.9, 1.0), "edited": curve(0.1, 0.2, 0.2727),
                       "control": None}},
            {**membership, "seconds": 0.5, "base": area(0.97), "edited": area(0.5125)},
        ],
        "skipped": {},
        "not_tried": list_untried(names),
    }  # fmt: skip


SHARED = ("created", "base", "front", "map", "settings", "provenance")
"""Keys at the top; all others are of the edit."""


def found(**changes: Any) -> Findings:
    """What was found of one edit; `changes` replace keys at the top or of the edit."""
    extraction = _extraction()
    before = extraction["baseline"]
    rise = {**extraction["paired"]["control_nll_difference"], "p_value": 0.0021}
    run = {"dtype": "float32", "device": "cpu", "attn_implementation": "sdpa", "revision": None}
    heldout = {
        "kind": "text",
        "n": 16,
        "base": before["control"]["nll"],
        "edited": extraction["control"]["nll"],
        "difference": {**rise, "test": "wilcoxon"},
        "resolution": 0.02,
        "outcome": "loss",
        "verdict": "loss of 0.10 to 0.20",
    }
    sizes = [
        {"parameters": n, "weight_bytes": 2 * n, "cache_bytes_per_token": cache}
        for n, cache in ((2_183_680, 7_680), (1_951_840, 3_840))
    ]
    edited = {
        "name": EDITED,
        "size": sizes[1],
        "provenance": {"model": EDITED, "content": "c" * 64, **run},
        "relation": "source",
        "chose": {"passages": 24, "windows": 16},
        "tasks": {
            "lambada_openai": task(0.6123, 0.5871),
            "arc/easy~1": task(0.312, 0.315),
            "perplexity": task(
                24.31, 61.77, 2.6, higher_is_better=False, drop=1.54, drop_is_relative=True
            ),
            "copy": task(0.934, 0.702),
        },
        "extraction": extraction,
        "audit": audit(),
        "heldout": heldout,
        "all_passages": {
            "n": 48,
            "recited": {"base": share(40, 48), "edited": share(1, 48)},
            "recovered": {"greedy": {"base": share(41, 48), "edited": share(2, 48)}},
            "heldout": {**heldout, "n": 32},
        },
        "edit": {
            "source": BASE,
            "family": "gpt_neox",
            "num_blocks": 4,
            "num_heads": 4,
            "drop_attn": "1,2.0-1,2.3,3",
            "blocks": [1, 2, 3],
            "parts": [
                {"block": 1, "heads": [0, 1, 2, 3], "variant": "identity"},
                {"block": 2, "heads": [0, 1, 3], "variant": "mean"},
                {"block": 3, "heads": [0, 1, 2, 3], "variant": "linear"},
            ],
            "variant": "mixed",
            "layout": "stock",
            "attention_free": {"1": "identity", "3": "linear"},
            "one_hot": OneHot(3, 2, 276.3125, 104.0, 1, 64),
            "calibration": {
                "sources": [{"name": "calibration.txt", "sha256": "c" * 64}],
                "tokens": 65_536,
                "window": 256,
                "sha256": "d" * 64,
                "blocks": {"2": {"ridge": 100.0, "r2": None}, "3": {"ridge": 0.0001, "r2": 0.6123}},
            },
            "earlier_edits": 1,
        },
        "passages": [
            {
                "id": "row-0",
                "hash": "0123456789abcdef" * 4,
                "exact": False,
                "first_divergence": 4,
                "next_token_accuracy": 0.5556,
                "nll": 2.5,
                "count": 8,
                "member": True,
                "baseline": {
                    "exact": True,
                    "first_divergence": None,
                    "next_token_accuracy": 1.0,
                    "nll": 0.1,
                },
            }
        ],
    }
    report = {
        "created": "2026-03-09T07:05:31+00:00",
        "base": {
            "name": BASE,
            "size": sizes[0],
            "provenance": {"model": BASE, "content": "a" * 64, **run},
        },
        "front": [
            {
                "label": label,
                "exact_match": rate,
                "heldout_loss": 5 + rise,
                "loss_increase": rise,
            }
            for label, rate, rise in (("2 identity", 0.2, 0.1), ("1-2 identity", 0.1, 0.2))
        ],
        "settings": {
            "models": [EDITED],
            "baseline": BASE,
            "tasks": ["lambada_openai", "arc/easy~1", "perplexity", "copy"],
            "samples": "passages.jsonl",
            "prefix_length": PREFIX,
            "suffix_length": SUFFIX,
            "heldout": ["control.txt"],
            "max_drop": {"copy": 0.05},
            "max_extraction": 0.25,
            "attack": ["greedy", "relearn", "membership"],
            "max": {"relearn": 0.2},
            "dtype": "float32",
            "batch_size": 8,
        },
        "provenance": {
            "seeds": {"bootstrap": 20_250_501, "random": 0, "torch": 1234},
            "versions": {"attn-surgery": "0.1.0", "lm-eval": "0.4.13"},
            "baseline_from_cache": True,
            "samples_sha256": "e" * 64,
            "controls": [{"name": "control.txt", "sha256": "f" * 64}],
        },
    }
    report |= {key: value for key, value in changes.items() if key in SHARED}
    edited |= {key: value for key, value in changes.items() if key not in SHARED}
    return Findings.model_validate({**report, "edits": [edited]})


def example(**changes: Any) -> Report:
    """The whole report of one edit. `changes`: as of `found`."""
    return make_report(found(**changes))


def several(*each: Findings) -> Report:
    """The report of the edits of each, which are numbered."""
    named = {"edits": [], "settings": each[0].settings}
    for at, one in enumerate(each, start=1):
        named["edits"].append(one.edits[0].model_copy(update={"name": f"edit-{at}"}))
    models = tuple(edit.name for edit in named["edits"])
    named["settings"] = each[0].settings.model_copy(update={"models": models})
    return make_report(each[0].model_copy(update=named))


def found_of(folder: Path, **changes: Any) -> Findings:
    """As `found`, of the edited model in the folder, against its source."""
    manifest = read_manifest(folder)
    assert manifest is not None
    made = found(**{"edit": summarize_edit(manifest), **changes})
    (edit,) = made.edits
    known = {"provenance": {**edit.provenance, "content": manifest.content}}
    return made.model_copy(update={"edits": [edit.model_copy(update=known)]})


def example_of(folder: Path, **changes: Any) -> Report:
    """The report of `found_of`."""
    return make_report(found_of(folder, **changes))


def put_report(folder: Path, report: Report, **more: str) -> None:
    """Writes a report into a model's folder as `evaluate` does. `more`: other files, by name."""
    manifest = read_manifest(folder)
    assert manifest is not None
    with blank_pictures():
        pages = {"report.json": report.to_text(), **render_pages(report), **more}
    for name, text in pages.items():
        (folder / name).write_text(text)
    (folder / "surgery.json").write_text(record_reports(manifest, pages).to_text())


def lacking(**changes: Any) -> Findings:
    """The least that a report can hold: benchmarks alone, no gates, an edit without a manifest.

    `changes`, as of `found`, add to it.
    """
    absent = dict.fromkeys(("extraction", "audit", "heldout", "all_passages", "edit"))
    empty: dict[str, Any] = {key: [] for key in ("passages", "front")}
    empty |= {"chose": {"passages": 0, "windows": 0}}
    unlimited = {"max_drop": {}, "max_extraction": None, "max": {}, "attack": ()}
    least = {**absent, **empty, "tasks": {"copy": task(0.934, 0.702)}}
    settings = found().settings.model_copy(update=unlimited).model_dump()
    return found(**{"settings": settings, **least, **changes})


def bare(**changes: Any) -> Report:
    """The report of `lacking`."""
    return make_report(lacking(**changes))
