"""Results of a sweep and of a search, with figures that are made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evals.choose.grid import GridEdit, describe_edit
from evals.choose.search.report import SearchResult, Units
from evals.choose.sweep.report import SweepResult
from evals.measure.memorization.recovery import NAMES
from evals.measure.naming import name_figures
from evals.table.limits import Asked, decide
from evals.table.measured import measure_value
from surgery.record.measured import BASE, Measured, On
from surgery.record.report import MeasuredModel, Named, SamplesRecord
from surgery.selection import EditedHeads

HALVES: tuple[On, On] = ("chosen on", "held back")
SHARES = ("recited", "recovered.", "next_token_accuracy")


def rows(
    of: str, figures: Mapping[str, float | None], on: On = "all", n: int = 120, **more: Any
) -> list[Measured]:
    """Figures of the base, or of an edit. What is no share, and no task, is in nats."""
    found = []
    for name, value in figures.items():
        share = name.removeprefix("healed.").startswith(SHARES)
        unit: Any = "share" if share else "number" if name.startswith("task.") else "nats"
        found.append(measure_value(name, value, of=of, on=on, n=n, unit=unit, **more))
    return found


def edit_of(
    of: str,
    blocks: Sequence[int],
    variant: str,
    kind: Any = None,
    *,
    heads: Sequence[int] = (0, 1),
    num_heads: int = 2,
) -> GridEdit:
    """An edit of these heads of some blocks."""
    parts = tuple(EditedHeads(block, tuple(heads), variant) for block in blocks)
    return describe_edit(of, parts, num_heads, kind=kind)


def _describe(figures: Sequence[Measured]) -> dict[str, Any]:
    return {
        "names": name_figures(figures),
        "figures": list(figures),
        "model": MeasuredModel(name="model", provenance={}),
        "family": "gpt_neox",
        "num_heads": 2,
        "samples": SamplesRecord(
            source="s", sha256="e" * 64, rows=120, left_out=0, prefix_length=32,
            suffix_length=32, secrets=False, longer=0, untested_tokens=0,
        ),
        "heldout": {},
        "calibration": None,
        "warnings": [],
        "provenance": {},
        "n": 120,
    }  # fmt: skip


def sweep_of(
    edits: Sequence[GridEdit],
    figures: Sequence[Measured],
    tasks: Mapping[str, Mapping[str, Any]] | None = None,
    **more: Any,
) -> SweepResult:
    """`tasks`: task → how it was asked."""
    made = _describe(figures)
    asked = {"metric": "acc", "share": True, "higher_is_better": True, "ability": None}
    made["names"] |= {
        f"task.{name}": Named(label=name, main=True, details={**asked, **known, "task": name})
        for name, known in (tasks or {}).items()
    }
    given = {"command": "sweep", "num_blocks": 24}
    return SweepResult(**{**made, **given, "edits": list(edits), **more})


def search_of(edits: Sequence[GridEdit], figures: Sequence[Measured], **more: Any) -> SearchResult:
    """The first edit is the choice."""
    settings = {
        "limit": 0.01,
        "grain": "mixed",
        "variants": ["identity"],
        "max": {},
        "max_drop": {},
        **more.pop("settings", {}),
    }
    given: dict[str, Any] = {
        "command": "search",
        "num_blocks": 24,
        "edits": list(edits),
        "settings": settings,
        "measure": "any",
        "key": "0" * 64,
        "n_held_back": 60,
        "chosen_on_ids": [],
        "held_back_ids": [],
        "evaluations": 64,
        "exhaustive": False,
        "units": Units(offered=288, estimated=288, measured=64),
        "selected": edits[0].of,
        "nearest": None,
        "deep_blocks": None,
        "front": [],
        "state": "missed",
    }
    return SearchResult(**{**_describe(figures), **given, **more})


def on_halves(of: str, *halves: Mapping[str, float | None]) -> list[Measured]:
    """Figures on the half that was searched, and on the one that was held back."""
    both = zip(HALVES, halves, strict=True)
    return [row for on, figures in both for row in rows(of, figures, on, 60)]


def recover(share: float) -> dict[str, float]:
    """Every measure of recovery, of the same share."""
    return {f"recovered.{name}": share for name in NAMES}


def searched() -> SearchResult:
    """A choice of mixed units, which is healed, and deep blocks that were not on offer."""

    def figures(share: float, loss: float, kl: float) -> dict[str, float]:
        known = {"kl": kl, "kl.copied": 9 * kl}
        return {**recover(share), "heldout": loss, **known}

    units = [(0, "identity"), (1, "linear"), (11, "mean"), (17, "zero")]
    parts = tuple(EditedHeads(block, (0, 2, 3, 5, 7, 9), variant) for block, variant in units)
    choice, deep = (
        describe_edit("edit-1", parts, 12),
        edit_of("deep-blocks", range(20, 24), "identity", heads=range(12), num_heads=12),
    )
    healed = {"ci95": (0.01, 0.1), "bound": 0.09}
    tried = rows("edit-1", {"healed.recovered.relearn": 0.04}, "held back", 54, **healed)
    before = rows(BASE, {"healed.recovered.relearn": 1.0}, "held back", 54, bound=1.0)
    asked = Asked("healed.recovered.relearn", "recovered", "relearn", 0.05)
    every = [
        *on_halves(BASE, figures(1, 3.25, 0), figures(0.998, 3.5, 0)),
        *on_halves("deep-blocks", figures(0.01, 4, 0.1), figures(0.12, 4.5, 0.8)),
        *on_halves("edit-1", figures(0, 3.375, 0.125), figures(0.013, 3.75, 0.5)),
        *rows("edit-1", {"healed.heldout_rise": 0.0625}, "held back", 60),
        *tried,
    ]
    return search_of(
        [choice, deep],
        every,
        limits=decide([*before, *tried], [asked], "edit-1"),
        num_heads=12,
        n=60,
        deep_blocks="deep-blocks",
        front=["edit-1"],
        deep_meets_goal=True,
        passed_over={"doubtful": 2, "untried": 0},
    )
