"""Contract of `benchmarks.rivals.fair`: a rival's setting is chosen by the rule of a search, each
loss is that of its paper, and a rival that did not finish has no figures.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reciting import recited_rows
from tiny_tokenizer import tiny_model

from benchmarks.rivals.bed import Bed, measure_text
from benchmarks.rivals.choosing import choose
from benchmarks.rivals.erased import erased
from benchmarks.rivals.fair import RIVALS, make_rows
from benchmarks.rivals.rmu import rmu
from benchmarks.rivals.training import gradient_difference_kl, npo_kl, simnpo
from benchmarks.rivals.undo import replace_by_noise, undo
from evals.data import Samples
from evals.measure.edits.costs import MEASURES


@pytest.fixture
def bed() -> Bed:
    """12 passages that the tiny model recites, and numbers as other text."""
    rows = np.array([one["tokens"] for one in recited_rows(tiny_model(), 12)], dtype=np.int32)
    text = np.random.default_rng(0).integers(0, 60, (40, 11)).astype(np.int32)
    samples = Samples(rows, 6, tuple(map(str, range(12))), "text")
    return Bed("tiny", Path(), None, samples, text[:30], heldout=text[30:])


def make() -> Any:
    return tiny_model()


def scale(model: Any, bed: Bed, *, by: float) -> Iterator[None]:
    """Forgets all if the weights become zero or random enough; a look for each step."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=draw))
    yield


def test_the_cheapest_setting_that_keeps_the_limit_is_the_choice(bed: Bed) -> None:
    settings = [{"by": by} for by in (3.0, 1e-6, 1.0)]
    found = choose("scale", scale, settings, make, bed, seconds=60, limits=(0.0, 1.0))
    assert found is not None
    costs = {}
    for one in settings:
        model = make()
        list(scale(model, bed, **one))
        if bed.measure_recovered(model) == 0:
            costs[one["by"]] = measure_text(make(), model, bed.heldout)["kl"]
    assert 1e-6 not in costs, "this one changes nothing"
    assert found.setting["by"] in costs
    assert found.recovered == 0
    assert found.label.startswith("by ")
    assert choose("none", scale, settings[1:2], make, bed, seconds=9, limits=(0.0, 1.0)) is None


@pytest.mark.parametrize("rival", [gradient_difference_kl, npo_kl, simnpo, rmu, undo])
def test_each_trains_what_it_says_and_stays_finite(
    bed: Bed, rival: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("benchmarks.rivals.undo.MOST", 1)
    monkeypatch.setattr("benchmarks.rivals.training.STEPS", 2)
    model = make()
    before = copy.deepcopy(model.state_dict())
    steps = rival(model, bed, rate=1e-3)
    next(steps)
    changed = {name for name, one in model.state_dict().items() if not one.equal(before[name])}
    assert changed
    assert all(one.isfinite().all() for one in model.parameters())
    if rival is rmu:
        assert all(".mlp." in name for name in changed)
    if rival not in (rmu, undo):  # these work on other things than the loss of the passages
        passages = torch.from_numpy(bed.samples.tokens).long()
        after, first = (bed.suffix_nll(one, passages).mean() for one in (model, make()))
        assert after > first


def test_a_clamped_loss_lets_go_of_a_passage(bed: Bed) -> None:
    """At 0 nats at most, nothing is forgotten: only the predictions on other text are held."""
    passages = torch.from_numpy(bed.samples.tokens).long()
    rises = []
    for most in (0.0, 6.0):
        model = make()
        next(gradient_difference_kl(model, bed, rate=1e-3, most=most))
        after, before = (bed.suffix_nll(one, passages).mean().item() for one in (model, make()))
        rises.append(after - before)
    assert rises[0] < rises[1] / 4


def test_noise_replaces_a_share_of_each_matrix() -> None:
    model, before = make(), make()
    replace_by_noise(model, 1.0, 0)
    for (name, now), was in zip(model.named_parameters(), before.parameters(), strict=True):
        if was.ndim != 2:
            assert now.equal(was), name
        elif was.std() > 0:
            assert now.std().item() == pytest.approx(was.std().item(), rel=0.1)
            assert abs((now * was).mean().item()) < 0.2 * was.var().item() + 1e-6


def test_erased_trains_the_model_and_leaves_its_attention(bed: Bed) -> None:
    model = make()
    list(erased(model, bed, blocks="0-1", variant="zero", steps=2))
    changed = {n for n, one in model.state_dict().items() if not one.equal(make().state_dict()[n])}
    assert any("attention" in name for name in changed)
    assert model.state_dict().keys() == make().state_dict().keys()


def test_a_rival_that_did_not_finish_has_no_figures() -> None:
    figures = dict.fromkeys(("no training", "relearn 0.0001", "relearn 0.001"), 0.5)
    figures |= {"any, seen": 0.25, "any, not seen": 0.5, "by": "any", "never trained": 0.125}
    figures |= dict.fromkeys(MEASURES, 0.0625)
    runs = {
        "not edited": {"seconds": 0.0, "setting": "", **figures, "lab_copy": 0.5},
        "rmu": {"seconds": 9.0, "setting": "not finished"},
        "undo": {"seconds": 9.0, "setting": "noise 0.1", **figures, "lab_copy": 0.375},
    }
    head, rule, _, none, done = make_rows(runs)
    assert {len(row) for row in (head, rule, none, done)} == {len(head)}
    assert none[1:-2] == [""] * (len(head) - 3)
    assert none[-1] == "not finished"
    assert done[head.index("lab_copy")] == "-12.5"
    assert done[head.index("no training")] == "50.0% (any)"


def test_no_rival_has_more_than_16_settings() -> None:
    assert all(len(settings) <= 16 for _, settings in RIVALS.values())
