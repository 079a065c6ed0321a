"""Figures of two versions are compared by name: a result of an earlier shape, one for each command,
gives the same figures as the rows of today that say the same."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "benchmarks"
SHARE = {"count": 3, "ci95": [0.1, 0.6], "bound": 0.55}
BEFORE = {"count": 9, "ci95": [0.6, 0.98], "bound": 0.97}
CHANGE = {"ci95": [-0.8, -0.2], "p_value": 0.03}
LIMIT = {
    "limit": 0.5, "state": "undecided", "value": 0.3, "ci95": [0.1, 0.6], "n": 10, "bound": 0.55,
    "needed": 20, "lacks": "10 passages cannot", "description": "share is 0.3",
}  # fmt: skip


def row(name: str, of: str, on: str, value: float, told: Any = None, **more: Any) -> dict[str, Any]:
    """A row of today."""
    details = {key: one for key, one in (told or {}).items() if key != "ci95"}
    known = {"ci95": told["ci95"]} if told else {}
    return {"name": name, "of": of, "on": on, "value": value, "details": details, **known, **more}


def both(name: str, on: str = "all") -> list[dict[str, Any]]:
    """A share of base and edited model, with its change."""
    moved = {"difference": -0.6, **CHANGE, "lost": 7, "gained": 1}
    return [
        row(name, "base", on, 0.9, BEFORE, n=10),
        row(name, "edited", on, 0.3, SHARE, n=10, change=moved),
    ]


EXTRACTION = {
    "n": 10, "exact_match": {"rate": 0.3, **SHARE}, "suffix_nll": {"mean": 3.25, "ci95": [3, 4]},
    "by_count": [{"count": "8", "n": 4, "suffix_nll": {"mean": 2.5, "ci95": [2, 3]}}],
    "probabilistic_extraction": {"curve": [{"n": 10, "p": 0.5, "rate": 0.3, **SHARE}]},
    "non_members": {"n": 5, "suffix_nll": {"mean": 4.5, "ci95": [4, 5]}},
    "control": {"n": 16, "nll": {"mean": 3.5, "ci95": [3, 4]}},
    "baseline": {"n": 10, "exact_match": {"rate": 0.9, **BEFORE}},
    "paired": {
        "forgotten": 7, "newly_extracted": 1, "p_value": 0.03, "by_count": [{}],
        "exact_match_difference": {"value": -0.6, "ci95": [-0.8, -0.2]},
        "control_nll_difference": {"mean": 0.2, "ci95": [0.1, 0.3]},
    },
}  # fmt: skip
EXTRACTED = [
    *both("recited"),
    row("suffix_nll", "edited", "all", 3.25, {"ci95": [3, 4]}, n=10),
    row("suffix_nll.8", "edited", "all", 2.5, {"ci95": [2, 3]}, n=4),
    row("probabilistic_extraction 10 0.5", "edited", "all", 0.3, SHARE, n=10),
    row("suffix_nll", "edited", "never trained on", 4.5, {"ci95": [4, 5]}, n=5),
    row("heldout", "edited", "all", 3.5, {"ci95": [3, 4]}, n=16,
        change={"difference": 0.2, "ci95": [0.1, 0.3]}),
]  # fmt: skip
ATTACK = {
    "name": "near", "base": {"rate": 0.9, "n": 10, **BEFORE}, "twin": None, "curve": None,
    "edited": {"rate": 0.3, "n": 10, **SHARE}, "control": {"rate": 0.3, "n": 10, **SHARE},
    "paired": {"difference": -0.6, "no_longer": 7, "newly": 1, **CHANGE}, "above_twin": None,
    "reached": {"steps": 20, "tried": 4}, "trainings": [], "doubt": None,
}  # fmt: skip
AUDITED = both("recovered.near")
AUDITED[1]["details"] |= {"steps": 20, "settings": 4}
AUDITED.append(row("recovered.near", "edited", "never trained on", 0.3, SHARE, n=10))
FIGURE = {
    "key": "recited", "n": 10, "base": {"value": 0.9, "ci95": [0.6, 0.98], "details": {"count": 9}},
    "edits": [
        {
            "value": 0.3, "ci95": [0.1, 0.6], "change": {"value": -0.6, **CHANGE},
            "details": {"count": 3, "bound": 0.55, "no_longer": 7, "newly": 1},
            "limit": {"name": "max-extraction", **LIMIT},
        }
    ],
}  # fmt: skip
SIDE = {
    "key": "taught.recited", "n": 4, "base": None,
    "edits": [{"value": 0.5, "ci95": None, "details": {}, "change": None, "limit": None}],
}  # fmt: skip
REPORTED = [*both("recited"), row("recited", "edited", "taught", 0.5, n=4, ci95=None)]
del REPORTED[0]["details"]["bound"]
SWEPT = {
    "base": {"spec": "", "variant": None, "exact_match": 0.9, "recovered": {"any": 0.95}},
    "edits": [{"spec": "0", "variant": "zero", "exact_match": 0.3, "heldout_kl": 0.25,
               "exact_count": 3, "exact_ci95": [0.1, 0.6]}],
    "estimates": [{"spec": "1", "variant": "zero", "kl": 0.5, "margin": 1.5}],
}  # fmt: skip
SWEPT_ROWS = [
    row("recited", "base", "all", 0.9), row("recovered.any", "base", "all", 0.95),
    row("recited", "edit-1", "all", 0.3, {"count": 3, "ci95": [0.1, 0.6]}),
    row("kl", "edit-1", "all", 0.25), row("estimated_kl", "unit-1", "all", 0.5),
    row("estimated_margin", "unit-1", "all", 1.5),
]  # fmt: skip
POINT = {"exact_match": 0.3, "exact_match_ci95": [0.1, 0.6], "heldout_loss": 3.5, "limits": [],
         "costs": {"kl": 0.25, "tail": 2.5}, "recovered": {"any": 0.35}}  # fmt: skip
SEARCHED = {
    "base": {**POINT, "held_back": None}, "deep_blocks": None, "nearest": None, "selected": POINT,
    "held_back": {**POINT, "limits": [{"name": "any", **LIMIT}]}, "front": [], "measured": [],
}  # fmt: skip
SEARCHED_ROWS = [
    one
    for of, ons in (("base", ["chosen on"]), ("edit-1", ["chosen on", "held back"]))
    for on in ons
    for one in (
        row("recited", of, on, 0.3, {"ci95": [0.1, 0.6]}),
        row("heldout", of, on, 3.5),
        row("kl.tail", of, on, 2.5),
        row("recovered.any", of, on, 0.35),
    )
]


@pytest.mark.parametrize(
    ("command", "earlier", "rows", "more"),
    [
        ("extract", EXTRACTION, EXTRACTED, {}),
        ("audit", {"attacks": [ATTACK], "limits": [{"name": "near", **LIMIT}]}, AUDITED,
         {"limits": [{"name": "recovered.near", "of": "edited", "on": "all", **LIMIT}]}),
        ("evaluate", {"figures": [FIGURE, SIDE], "edits": [{}]}, REPORTED,
         {"limits": [{"name": "recited", "of": "edited", "on": "all", **LIMIT}], "edits": [{}]}),
        ("sweep", SWEPT, SWEPT_ROWS,
         {"edits": [{"of": "edit-1", "spec": "0", "variant": "zero"}],
          "estimates": [{"of": "unit-1", "spec": "1", "variant": "zero"}]}),
        ("search", SEARCHED, SEARCHED_ROWS,
         {"limits": [{"name": "recovered.any", "of": "edit-1", "on": "held back", **LIMIT}],
          "edits": [{"of": "edit-1"}], "selected": "edit-1", "nearest": None, "front": [],
          "deep_blocks": None}),
    ],
)  # fmt: skip
def test_an_earlier_result_gives_the_figures_of_today(
    monkeypatch: pytest.MonkeyPatch, command: str, earlier: Any, rows: Any, more: Any
) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("compare_versions")
    today = {"command": command, "names": {}, "limits": [], "figures": rows, **more}
    before = dict(script.list_figures(command, earlier))
    after = dict(script.list_figures(command, today))
    # an edit of a search has its place among those that were measured, too
    measured = {key for key in after if "measured 1" in key}
    assert bool(measured) == (command == "search")
    assert {key: one for key, one in after.items() if key not in measured} == before
