"""Contract: the best edits of a search are healed for a few steps before one of them is chosen.

What decides is the cost that is left then, and whether the passages are still gone. Without enough
text, the search says so, and chooses as before.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import attn_surgery
from grids import read_search, take
from test_search import make_point
from test_search_command import call, model, samples, texts

from evals.choose.search.opened import open_search
from evals.choose.search.report import SearchResult
from evals.choose.search.request import SearchRequest
from evals.choose.search.run import _heal
from evals.choose.search.trials import HALVES, Trials
from evals.measure.edits.costs import MEASURES
from surgery.errors import SamplesError
from surgery.selection import Selection, parse_selection

pytestmark = pytest.mark.usefixtures("blank_pictures")
__all__ = ["model", "samples", "texts"]
GIVEN = ("--max-extraction", 0.3, "--variant", "zero", "--variant", "identity", "--grain", "blocks")


def open_one(model: Path, samples: Path, texts: Any, **more: Any) -> Trials:
    given = {"prefix_length": 6, "suffix_length": 5, "device": "cpu", "max_extraction": 0.3}
    given |= {"model": str(model), "samples": str(samples), "heldout": (texts[0],), **more}
    opened = open_search(SearchRequest.of(**given))
    return Trials(opened, opened.engines())


def test_the_best_edits_are_healed_and_the_best_of_them_then_is_chosen(
    model: Path, samples: Path, texts: Any, tmp_path: Path
) -> None:
    options = (*GIVEN, "--judge-steps", 2, "--output", tmp_path / "out")
    outcome = call(model, samples, texts, *options, "--json")
    found = read_search(outcome)
    assert found.settings["judge_steps"] == 2
    assert found.finalists[0] == found.selected
    assert len(found.finalists) > 1
    deep = {edit.of for edit in found.edits if (edit.spec, edit.variant) == ("1", "identity")}
    assert deep & {*found.finalists}, "the last quarter of the blocks"
    costs = []
    for of in found.finalists:
        for on in HALVES:
            for name in (*MEASURES, "heldout", "recited", "recovered.any", "recovered.hints:8"):
                assert take(found, f"healed.{name}", of, on).value is not None
        healed = found.healed_point(of)
        costs.append((healed.recovered > 0.3, healed.cost))
        assert found.point(of).cost != healed.cost
    kept = [
        cost
        for of, cost in zip(found.finalists, costs, strict=True)
        if found.point(of).recovered <= 0.3
    ]
    assert kept == sorted(kept)
    shown = call(model, samples, texts, *options).stdout
    assert "(chosen)" in shown
    again = SearchResult.model_validate_json(json.dumps(found.to_dict()))
    assert again.point(found.finalists[0]).plain == found.point(found.finalists[0]).plain
    plan = tmp_path / "out" / "plan.json"
    assert attn_surgery("export", model, "--plan", plan, "--output", tmp_path / "cut").code == 0


def test_healing_reads_no_window_that_measures_it(model: Path, samples: Path, texts: Any) -> None:
    opened = open_one(model, samples, texts, judge_steps=2, variant=("zero",)).opened
    healing, windows = opened.short_healing
    trained = {row.tobytes() for row in healing.text.windows}
    apart = *windows, *opened.halves[1].windows
    assert trained.isdisjoint(row.tobytes() for row in apart)
    assert trained < {row.tobytes() for row in opened.halves[0].windows}
    assert healing.passages is None


def test_text_that_fits_variants_heals_as_well(model: Path, samples: Path, texts: Any) -> None:
    given = {"calibration": (str(texts[1]),), "variant": ("mean",), "judge_steps": 2}
    opened = open_one(model, samples, texts, **given).opened
    healing, windows = opened.short_healing
    assert healing.text.windows.shape[1] == 64, "no more than the model reads"
    np.testing.assert_array_equal(windows, opened.halves[0].windows)


def test_without_enough_text_a_search_says_so(
    model: Path, samples: Path, texts: Any, tmp_path: Path
) -> None:
    outcome = call(model, samples, texts, *GIVEN, "--output", tmp_path / "out", "--json")
    said = "the best edits are compared without healing them: too little text to heal on"
    assert said in outcome.stderr
    assert "(expected 128 windows of held-out text, or calibration text, got 108)" in outcome.stderr
    found = read_search(outcome)
    assert found.finalists == []
    with pytest.raises(SamplesError, match="for 20 steps"):
        assert open_one(model, samples, texts, variant=("zero",)).opened.short_healing
    off = call(model, samples, texts, *GIVEN, "--judge-steps", 0, "--output", tmp_path / "off")
    assert off.code == 0
    assert "healing" not in off.stderr


def test_an_edit_that_recites_again_once_healed_comes_after_those_that_do_not(
    model: Path, samples: Path, texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = open_one(model, samples, texts, judge_steps=2, variant=("zero",))
    cheap, dear, deep = (parse_selection(spec, "zero", 2, 2) for spec in ("0", "1", "0-1"))
    known = {cheap: (0.5, 0.1), dear: (0.2, 0.9), deep: (0.0, 0.01)}

    def heal(self: Trials, selection: Selection) -> Any:
        point = make_point(selection, *known[selection])
        return replace(point, measure="any"), point

    monkeypatch.setattr(Trials, "heal", heal)
    assert list(_heal(trials, [cheap, dear], [deep])) == [dear, cheap, deep]
