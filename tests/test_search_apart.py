"""Contract: a search takes nothing from another search that was on other passages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evals.choose.search import trials
from evals.choose.search.opened import open_search
from evals.choose.search.request import SearchRequest
from evals.choose.search.trials import Trials
from evals.lab import samples_path


def test_healed_figures_are_of_the_passages_of_their_own_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Short healing trains on no passages, so its key must name those that are measured."""
    monkeypatch.setenv("ATTN_SURGERY_CACHE", str(tmp_path / "cache"))
    rows = samples_path("pythia").read_text(encoding="utf-8").splitlines()
    healed = list[Any]()

    def heal(base: Any, model: Any, *given: Any, **options: Any) -> Any:
        healed.append(model)
        return model

    monkeypatch.setattr(trials, "heal_model", heal)
    figures = []
    for at, some in enumerate((rows[:80], rows[80:160], rows[80:160])):
        file = tmp_path / f"{at}.jsonl"
        file.write_text("\n".join(some), encoding="utf-8")
        given: dict[str, Any] = {"samples": str(file), "variant": ("zero",), "grain": "blocks"}
        request = SearchRequest.of(
            model="lab:pythia", max_extraction=0.01, judge_steps=1, device="cpu", **given
        )
        opened = open_search(request)
        figures.append(Trials(opened, opened.engines()).heal((opened.offered[-1],)))
    assert len(healed) == 2, "the second search measures, and the third is like the second"
    assert figures[0] != figures[1] == figures[2]
