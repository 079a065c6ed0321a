"""Contract of `benchmarks.rivals`: a rival's setting is chosen by the rule of a search, each
loss is that of its paper, and a rival that did not finish has no figures.
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from reciting import recited_rows, write_rows
from tiny_tokenizer import TEXT, save_tiny, tiny_model

from benchmarks.asked import check_asked, hash_files
from benchmarks.rivals import measuring, methods
from benchmarks.rivals.__main__ import SHARED, choose_methods, list_longer, main
from benchmarks.rivals.balanced_subnet import balanced_subnet, drop_lowest, make_scores
from benchmarks.rivals.bed import Bed, measure_text, mlp_layers, recover, run_passes, token_kl
from benchmarks.rivals.choosing import (
    Candidate,
    Choice,
    Trial,
    ask,
    choose,
    choose_candidate,
    list_rounds,
    measure_relearned,
)
from benchmarks.rivals.erased import erased
from benchmarks.rivals.methods import METHODS, RIVALS, Made
from benchmarks.rivals.rmu import rmu
from benchmarks.rivals.table import list_settings, make_rows, read_runs
from benchmarks.rivals.table import main as print_several
from benchmarks.rivals.training import gradient_difference_kl, npo_kl, simnpo
from benchmarks.rivals.undo import SCALE, make_teacher, replace_by_noise, undo
from evals.choose.search.opened import open_search
from evals.choose.search.request import SearchRequest
from evals.data import Samples, load_samples
from evals.measure.attacks.attack import UNTRAINED, AttackOutcome, Setting, split
from evals.measure.attacks.relearn import SHARE
from evals.measure.attacks.tuning import RATES
from evals.measure.edits.costs import MEASURES, find_worst
from evals.run.models import open_model


@pytest.fixture
def bed() -> Bed:
    """12 passages that the tiny model recites, and numbers as other text."""
    rows = np.array([one["tokens"] for one in recited_rows(tiny_model(), 12)], dtype=np.int32)
    text = np.random.default_rng(0).integers(0, 60, (40, 11)).astype(np.int32)
    samples = Samples(rows, 6, tuple(map(str, range(12))), "text")
    return Bed("tiny", None, samples, text[:30], heldout=text[30:])


def make() -> Any:
    return tiny_model()


def scale(model: Any, bed: Bed, *, by: float) -> Iterator[None]:
    """Forgets all if the weights become zero or random enough; a look for each step."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(by * torch.randn(weight.shape, generator=draw))
    yield


def test_the_cheapest_setting_that_keeps_the_limit_is_the_choice(bed: Bed, tmp_path: Path) -> None:
    settings = [{"by": by} for by in (3.0, 1e-6, 1.0)]
    choice = choose(
        "scale", scale, settings, make, bed, seconds=60, limits=(0.0, 1.0), folder=tmp_path
    )
    found = choice.candidate
    assert found is not None
    assert choice.tried == 3
    costs = {}
    for one in settings:
        model = make()
        list(scale(model, bed, **one))
        if bed.measure_recovered(model) == 0:
            _, costs[one["by"]] = find_worst(measure_text(make(), model, bed.heldout))
    assert costs.keys() == {3.0, 1.0}, "1e-6 changes nothing"
    assert costs[1.0] != costs[3.0]
    assert found.setting["by"] == min(costs, key=costs.__getitem__)
    assert found.cost == pytest.approx(min(costs.values()))
    assert found.recovered == 0
    assert found.label.startswith("by ")
    none = choose(
        "none", scale, settings[1:2], make, bed, seconds=9, limits=(0.0, 1.0), folder=tmp_path
    )
    assert (none.candidate, none.lowest) == (None, 1.0)


def scale_more(model: Any, bed: Bed, *, looks: int) -> Iterator[None]:
    """Every look costs more than the one before and forgets all."""
    for _ in range(looks):
        yield from scale(model, bed, by=1.0)


def test_several_looks_of_a_rival_with_one_setting_are_attacked(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The last one first, then by bisection: the dearer ones give less back."""
    attacked = []

    def attack(name: str) -> Any:
        def run(target: Any) -> Any:
            attacked.append(measure_text(make(), target.model, bed.heldout)["kl"])
            flags = np.array([attacked[-1] < threshold])
            return replace(AttackOutcome.of_all(flags), variants={UNTRAINED: flags})

        return type("Attack", (), {"run": staticmethod(run)})

    monkeypatch.setattr("benchmarks.rivals.choosing.find_attack", attack)
    threshold = 0.0
    given = ("more", scale_more, [{"looks": 8}], make, bed)
    cheapest = choose(*given, seconds=60, limits=(0.0, 0.05), folder=tmp_path).candidate
    assert cheapest is not None
    assert (cheapest.looks, cheapest.relearned) == (1, 0)
    threshold = cheapest.cost + 1e-3
    second = choose(*given, seconds=60, limits=(0.0, 0.05), folder=tmp_path).candidate
    assert second is not None
    assert second.cost > cheapest.cost
    assert second.relearned == 0
    assert second.looks in (2, 4, 8)


@given(
    st.lists(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=8), max_size=4),
    st.floats(0, 1),
    st.integers(1, 20),
)
def test_the_cheapest_that_is_known_to_keep_the_limit_is_the_choice(
    given_trials: list[list[tuple[float, float]]], limit: float, tries: int
) -> None:
    """Costs and shares of the candidates of each setting, the best setting first."""
    left: dict[int, float] = {}
    trials = []
    for some in given_trials:
        kept = []
        for cost, share in sorted(some):
            kept.append(Candidate({}, len(left), 0.0, cost, Path()))
            left[len(left)] = share
        trials.append(Trial(9, tuple(kept), 0.0, ended=False, seconds=1.0))
    attacked: list[Candidate] = []

    def attack(one: Candidate) -> Candidate:
        attacked.append(replace(one, relearned=left[one.looks]))
        return attacked[-1]

    choice = choose_candidate(trials, attack, limit, lambda: len(attacked) >= tries)
    every = [one for trial in trials for one in trial.kept]
    if not every:
        assert choice is None
        return
    assert choice in attacked
    assert choice is not None
    assert len({one.looks for one in attacked}) == len(attacked) <= 1 + tries
    keeping = [one for one in attacked if left[one.looks] <= limit]
    if keeping:
        assert choice.cost == min(one.cost for one in keeping)
    else:
        assert left[choice.looks] == min(left[one.looks] for one in attacked)
        assert min(every, key=lambda one: one.cost).cost in {one.cost for one in attacked}
    first = next(trial for trial in trials if trial.kept)
    assert attacked[0].looks == first.last.looks, "what the best setting ended with"
    if len(attacked) < tries:  # there was time for every setting
        for trial in trials:
            rates = [left[one.looks] for one in trial.kept]
            if trial.kept and rates == sorted(rates, reverse=True):  # the dearer, the less
                best = next((one for one in trial.kept if left[one.looks] <= limit), None)
                assert best is None or choice.cost <= best.cost


def test_a_third_of_the_settings_goes_on(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Those that recover least, and of those that keep the limit, the cheapest."""
    clock, begun = [0.0], []
    monkeypatch.setattr("benchmarks.rivals.choosing.read_seconds", lambda: clock[0])

    def run(model: Any, bed: Bed, *, by: float) -> Iterator[None]:
        begun.append(by)
        for _ in range(200):
            clock[0] += 0.25
            yield from scale(model, bed, by=by)

    settings = [{"by": by} for by in (1e-6, 1e-7, 1e-8, 3.0, 1e-6, 1e-6, 1e-6)]
    choice = choose("run", run, settings, make, bed, seconds=50, limits=(0.0, 1.0), folder=tmp_path)
    assert begun[:7] == [one["by"] for one in settings]
    assert begun[7] == begun[-1] == 3.0, "it alone forgets"
    assert len(begun) == 7 + 3 + 1
    assert choice.tried == 7
    assert choice.candidate is not None
    assert choice.candidate.setting == {"by": 3.0}


@given(
    st.dictionaries(
        st.integers(0, 11),
        st.tuples(st.floats(0, 1), st.booleans(), st.floats(0, 1)),
        min_size=1,
    ),
    st.integers(1, 4),
    st.floats(0, 1),
)
def test_the_cheapest_settings_are_attacked_until_as_many_keep_the_limit_as_go_on(
    given_trials: dict[int, tuple[float, bool, float]], number: int, limit: float
) -> None:
    """Those that keep it go on first, and a cheap one that misses it does not."""
    trials, left = {}, {}
    for index, (cost, found, share) in given_trials.items():
        kept = (Candidate({}, index, 0.0, cost, Path()),) if found else ()
        trials[index] = Trial(1, kept, 0.0 if found else 0.5, ended=False, seconds=1.0)
        left[index] = share
    attacked: list[int] = []

    def attack(one: Candidate) -> float:
        attacked.append(one.looks)
        return left[one.looks]

    asked = ask(trials, number, attack, limit, lambda: False)
    costs = [trials[index].kept[0].cost for index in attacked]
    assert costs == sorted(costs)
    keeping = [index for index in attacked if left[index] <= limit]
    assert len(keeping) <= number
    able = sum(bool(one.kept) for one in trials.values())
    assert len(keeping) == number or len(attacked) == able
    best = sorted(asked, key=lambda index: asked[index].rank(limit))
    assert sorted(best[: len(keeping)]) == sorted(keeping)
    assert all(asked[index].kept for index in best[:able])
    assert ask(trials, number, attack, limit, lambda: True) == trials, "no time"


def test_a_choice_is_attacked_as_a_search_does(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the share of the passages that it gives an attacker."""
    seen: list[Any] = []

    def run(target: Any) -> AttackOutcome:
        seen.append(target)
        nothing, half = np.zeros(4, dtype=np.bool_), np.arange(4) < 2
        settings = {UNTRAINED: nothing, Setting("all weights", 1e-3, 5): half}
        return replace(AttackOutcome.of_all(np.ones_like(half)), variants=settings)

    attack = type("Attack", (), {"run": staticmethod(run)})
    monkeypatch.setattr("benchmarks.rivals.choosing.find_attack", lambda name: attack)
    assert measure_relearned(make(), bed.samples, bed.text) == 0.5
    given = (Setting("all weights", 1e-3, 20),)
    assert measure_relearned(make(), bed.samples, bed.text, given) == 0.5
    assert [(one.brief, one.of, one.trainings) for one in seen] == [
        (True, 24, None), (True, 24, given)
    ]  # fmt: skip


@pytest.mark.parametrize("relearned", [0.04, 0.06])
def test_a_choice_that_misses_the_limit_is_marked(
    relearned: float, bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    torch.save(make().state_dict(), tmp_path / "weights.pt")
    found = Candidate({"rate": 1e-3}, 7, 0.0, 0.5, tmp_path / "weights.pt", relearned)
    monkeypatch.setattr(
        methods, "choose", lambda *given, **more: Choice(found, 0.0, 3, cheapest=0.125)
    )
    loaded: Any = SimpleNamespace(model=make())
    workshop = methods.Workshop(loaded, bed, 9.0, [], [], None, None, tmp_path)
    monkeypatch.setattr(methods.Workshop, "make", lambda self, name: make())
    made = workshop.tune("simnpo")
    assert (made.left, made.cheapest) == (relearned, 0.125)
    figures = dict.fromkeys(("no training", *MEASURES), 0.5) | {"by": "any", "seconds": 1.0}
    run = {**figures, "setting": made.setting, "left": made.left, "any alone": made.cheapest}
    head, *_, row = make_rows([{"not edited": {**run, "left": 0.9}, "simnpo": run}])
    assert row[head.index("`any` alone")] == "0.125"
    assert row[0] == ("`simnpo` †" if relearned > 0.05 else "`simnpo`")
    base = list(make_rows([{"not edited": {**run, "left": 0.9}, "simnpo": run}]))[2]
    assert base[0] == "`not edited`"


def test_rounds() -> None:
    assert [list_rounds(number) for number in (1, 8, 12, 16)] == [
        [1], [8, 3, 1], [12, 4, 2, 1], [16, 6, 2, 1]
    ]  # fmt: skip


def test_no_setting_begins_after_the_time(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A setting that cannot be stopped midway, as of `erased`, takes the time of the later ones."""
    clock = [0.0]
    monkeypatch.setattr("benchmarks.rivals.choosing.read_seconds", lambda: clock[0])

    def dawdle(model: Any, bed: Bed, *, takes: float) -> Iterator[None]:
        clock[0] += takes
        yield

    settings = [{"takes": 5.0}, {"takes": 4.0}, {"takes": 1.0}]
    choice = choose(
        "slow", dawdle, settings, make, bed, seconds=10, limits=(0.0, 1.0), folder=tmp_path
    )
    assert choice.tried == 2
    quick = choose(
        "quick", dawdle, settings, make, bed, seconds=100, limits=(0.0, 1.0), folder=tmp_path
    )
    assert quick.tried == 3


def test_settings_share_what_is_prepared_once(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("benchmarks.rivals.undo.MOST", 1)
    monkeypatch.setattr("benchmarks.rivals.training.STEPS", 1)
    clock = count()
    monkeypatch.setattr("benchmarks.rivals.choosing.read_seconds", lambda: float(next(clock)))
    prepared = []

    def prepare(model: Any, bed: Bed, seconds: float) -> dict[str, Any]:
        assert seconds == 20 / 4
        prepared.append(make_teacher(model, bed, seconds))
        return prepared[-1]

    noise = [{"noise": 0.0, "rate": 0.0}, {"noise": 1.0, "rate": 0.0}]
    choice = choose(
        "undo",
        undo,
        noise,
        make,
        bed,
        seconds=20,
        limits=(1.0, 1.0),
        folder=tmp_path,
        prepare=prepare,
    )
    assert (len(prepared), choice.tried) == (1, 2)
    assert choice.candidate is not None
    taught = prepared[0]["teacher"].state_dict()
    weights = choice.candidate.load_into(make()).state_dict()
    assert all(one.equal(taught[name]) for name, one in weights.items())
    assert any(not one.equal(make().state_dict()[name]) for name, one in taught.items())


def test_balanced_subnet_drops_the_lowest_scores_of_each_layer() -> None:
    weights = [torch.ones(2, 4), torch.ones(1, 2)]
    intact = [torch.full_like(one, 3.0) for one in weights]
    scores = [torch.tensor([[5.0, -4, 3, 2], [1, 0.5, -9, 8]]), torch.tensor([[2.0, 1.0]])]
    drop_lowest(weights, intact, scores, 0.25)
    assert weights[0].tolist() == [[3.0, 3, 3, 3], [0, 0, 3, 3]]
    assert weights[1].tolist() == [[3.0, 3.0]], "a quarter of two weights is none"


def test_balanced_subnet_changes_no_weight_that_it_keeps(bed: Bed) -> None:
    model, before = make(), make()
    next(balanced_subnet(model, bed, share=0.1, rate=1e-2))
    layers = mlp_layers(model)
    for name, now in model.state_dict().items():
        was = before.state_dict()[name]
        if name.removesuffix(".weight") in layers:
            gone = now == 0
            assert int(gone.sum()) == int(0.1 * now.numel())
            assert now[~gone].equal(was[~gone])
        else:
            assert now.equal(was)


def test_balanced_subnet_forgets_more_than_random_weights_do(bed: Bed) -> None:
    """It drops weights that the passages need, and keeps those that other text needs."""
    passages = torch.from_numpy(bed.samples.tokens).long()
    found = []
    for rate in (0.0, 0.02):
        model = make()
        looks = balanced_subnet(model, bed, share=0.05, weight=0.5, rate=rate)
        for _ in range(6):
            next(looks)
        found.append(bed.suffix_nll(model, passages).mean().item())
    assert found[1] > found[0] + 1.0


def test_scores_have_the_width_of_the_inputs_and_are_the_same_for_a_seed() -> None:
    weights = [torch.zeros(300, 16), torch.zeros(4, 400)]
    first, again = make_scores(weights, 0), make_scores(weights, 0)
    assert all(one.equal(two) for one, two in zip(first, again, strict=True))
    assert first[0].abs().max().item() == pytest.approx(1 / 4, rel=0.01)
    assert first[1].abs().max().item() == pytest.approx(1 / 20, rel=0.01)


def test_the_base_always_runs_and_a_method_that_cannot_is_refused() -> None:
    methods = {
        name: lambda: Made(None, "") for name in METHODS if name not in ("token-swap", "twin")
    }
    assert list(choose_methods(methods, ["rmu"], {})) == ["not edited", "rmu"]
    assert list(choose_methods(methods, ["rmu"], {"rmu": {}})) == ["not edited"]
    assert choose_methods(methods, [], {}) == methods
    for name, option in (("token-swap", "helper"), ("twin", "twin")):
        with pytest.raises(click.UsageError, match=f"{name} needs another model: give --{option}"):
            choose_methods(methods, [name], {})
    with pytest.raises(click.UsageError, match="needs the result of erased"):
        choose_methods(methods, ["erased-and-cut"], {})
    assert "erased-and-cut" in choose_methods(methods, ["erased-and-cut"], {"erased": {}})
    with pytest.raises(click.UsageError, match="healed needs the result of search-relearn"):
        choose_methods(methods, ["healed"], {})
    assert list(choose_methods(methods, ["healed", "search-relearn"], {"not edited": {}})) == [
        "search-relearn", "healed"
    ]  # fmt: skip


def test_a_setting_that_cannot_get_further_does_not_run_again(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    clock, begun = [0.0], []
    monkeypatch.setattr("benchmarks.rivals.choosing.read_seconds", lambda: clock[0])

    def dawdle(model: Any, bed: Bed, *, by: float) -> Iterator[None]:
        begun.append(by)
        for _ in range(9):
            clock[0] += 10
            yield from scale(model, bed, by=by)

    settings = [{"by": by} for by in (1.0, 2.0, 3.0, 4.0)]
    choose("slow", dawdle, settings, make, bed, seconds=60, limits=(0.0, 1.0), folder=tmp_path)
    assert begun == [1.0, 2.0, 3.0, 4.0], "8 s are left, and each took 10"


def test_results_of_other_options_are_not_continued(tmp_path: Path) -> None:
    check_asked(tmp_path, {"seed": 0, "text": (Path("a"),)})
    assert read_runs(tmp_path) == {}
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "rmu.json").write_text('{"seconds": 1}')
    check_asked(tmp_path, {"seed": 0, "text": (Path("a"),)})
    assert read_runs(tmp_path) == {"rmu": {"seconds": 1}}
    with pytest.raises(click.UsageError, match="another seed \\(0\\): give another --output"):
        check_asked(tmp_path, {"seed": 1, "text": (Path("a"),)})
    (tmp_path / "file").write_text("one")
    check_asked(tmp_path / "other", {"content": hash_files("lab:pythia", tmp_path / "file")})
    (tmp_path / "file").write_text("two")
    with pytest.raises(click.UsageError, match="other content in the files that are named"):
        check_asked(tmp_path / "other", {"content": hash_files("lab:pythia", tmp_path / "file")})


@pytest.mark.parametrize("form", ["{} 1", "{}=1", "--grain blocks {}=1"])
@pytest.mark.parametrize("option", SHARED)
def test_a_search_holds_back_what_all_do(tmp_path: Path, option: str, form: str) -> None:
    """With options of its own, it would choose on passages that the table calls held back."""
    words = ["lab:pythia", "--search", form.format(option), "--output", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2
    assert f"--search has {option}, which all methods share" in done.output
    assert not (tmp_path / "out").exists()


def test_bfloat16_passes_see_each_change_of_a_weight(bed: Bed) -> None:
    """Autocast would keep the weights of the first pass for all that follow."""
    model, passages = make(), torch.from_numpy(bed.samples.tokens).long()
    with run_passes(torch.bfloat16):
        model(input_ids=passages)
        losses = []
        for _ in zip(range(3), gradient_difference_kl(model, bed, rate=1e-2), strict=False):
            with torch.no_grad():
                losses.append(bed.suffix_nll(model, passages).mean().item())
    with torch.no_grad():
        outside = bed.suffix_nll(model, passages).mean().item()
    assert len(set(losses)) == 3
    assert losses[-1] == pytest.approx(outside, rel=0.05)


def test_a_setting_that_breaks_the_model_ends_and_others_go_on(bed: Bed, tmp_path: Path) -> None:
    settings = [{"by": by} for by in (float("nan"), 1.0)]
    choice = choose(
        "scale", scale, settings, make, bed, seconds=60, limits=(0.0, 1.0), folder=tmp_path
    )
    assert choice.candidate is not None
    assert choice.candidate.setting == {"by": 1.0}


def test_erased_gives_up_when_the_time_is_over(bed: Bed) -> None:
    late = replace(bed, end=0.0)
    assert list(erased(make(), late, blocks="0-1", variant="zero", steps=2)) == []


def test_a_search_that_had_more_time_than_the_rivals_is_named() -> None:
    runs = {"search-any": {"seconds": 754.2}, "search-relearn": {"seconds": 90.0}}
    (line,) = list_longer(runs, 240.0)
    assert "search-any took 754 s" in line
    assert "--seconds 754" in line


def test_the_learning_rate_falls_in_the_last_round(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Over twice as many looks as the first limit took, then four times, as time allows."""
    clock, asked = [0.0], []
    monkeypatch.setattr("benchmarks.rivals.choosing.read_seconds", lambda: clock[0])

    def run(model: Any, bed: Bed, *, by: float) -> Iterator[None]:
        asked.append((by, bed.looks))
        for number in range(bed.looks or 100):
            clock[0] += 1
            if number == 1:  # nothing is forgotten at the first look
                yield from scale(model, bed, by=0.8 * by if bed.looks else by)
            else:
                yield

    settings = [{"by": by} for by in (1.0, 1e-6)]
    given = (settings, make, bed)
    more: Any = {"seconds": 60, "limits": (0.0, 1.0), "folder": tmp_path}
    choice = choose("simnpo", run, *given, **more)
    assert asked == [(1.0, None), (1e-6, None), (1.0, 4), (1.0, 8), (1.0, 16)]
    assert choice.candidate is not None
    assert choice.candidate.label.startswith("by 1, falling True, ")
    assert choice.candidate.looks in (4, 8, 16), "all cost the same"
    assert choice.tried == 2
    weights = choice.candidate.load_into(make()).state_dict()
    model = make()
    list(run(model, replace(bed, looks=choice.candidate.looks), by=1.0))
    assert all(one.equal(weights[name]) for name, one in model.state_dict().items())
    asked.clear()
    choose("kfac", run, *given, **more)
    assert [looks for _, looks in asked] == 3 * [None], "it has no rate"


def test_a_falling_rate_ends_at_zero(bed: Bed) -> None:
    """So the last steps change next to nothing, and a run has just the looks it was given."""
    states = []
    for _ in gradient_difference_kl(model := make(), replace(bed, looks=4), rate=1e-3):
        states.append(torch.cat([one.detach().flatten().clone() for one in model.parameters()]))
    assert len(states) == 4
    first, *_, last = ((a - b).norm().item() for a, b in itertools.pairwise(states))
    assert 0 < last < first / 2


def test_the_last_look_need_not_be_the_dearest() -> None:
    kept = tuple(Candidate({}, looks, 0.0, cost, Path()) for looks, cost in ((8, 0.1), (1, 0.5)))
    trial = Trial(8, kept, 0.0, ended=False, seconds=1.0, left=0.0)
    assert (trial.last.looks, trial.rank(0.05)) == (8, (0, 0.1))
    attacked = []
    ask({0: replace(trial, left=None)}, 1, lambda one: attacked.append(one.looks) or 0.0, 0.05,
        lambda: False)  # fmt: skip
    assert attacked == [8]


@pytest.mark.parametrize("rival", [gradient_difference_kl, npo_kl, simnpo, rmu])
def test_each_trains_what_it_says_and_stays_finite(
    bed: Bed, rival: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    if rival is not rmu:  # it works on other things than the loss of the passages
        passages = torch.from_numpy(bed.samples.tokens).long()
        after, first = (bed.suffix_nll(one, passages).mean() for one in (model, make()))
        assert after > first


def test_a_student_of_undo_learns_what_its_teacher_predicts(
    bed: Bed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the passages and on other text. The noise that it starts from changes it already."""
    monkeypatch.setattr("benchmarks.rivals.undo.MOST", 1)
    teacher = make_teacher(make(), bed)["teacher"]
    distances = []
    for rate in (0.0, 1e-3):
        model = make()
        next(undo(model, bed, rate=rate))
        assert all(one.isfinite().all() for one in model.parameters())
        distances.append(
            [
                token_kl(teacher, model, torch.from_numpy(rows).long()).mean().item()
                for rows in (bed.samples.tokens, bed.text)
            ]
        )
    for untrained, trained in zip(*distances, strict=True):
        assert 0 < trained < 0.9 * untrained


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
        else:
            most = SCALE * (6 / sum(was.shape)) ** 0.5  # of Glorot's uniform
            assert now.abs().max().item() == pytest.approx(most, rel=0.1)
            assert now.std().item() == pytest.approx(most / 3**0.5, rel=0.1)
            assert abs((now * was).mean().item()) < 0.2 * was.std().item() * now.std().item() + 1e-9


def test_erased_trains_the_model_and_leaves_its_attention(bed: Bed) -> None:
    model = make()
    list(erased(model, bed, blocks="0-1", variant="zero", steps=2))
    changed = {n for n, one in model.state_dict().items() if not one.equal(make().state_dict()[n])}
    assert any("attention" in name for name in changed)
    assert model.state_dict().keys() == make().state_dict().keys()


def test_erased_hardens_if_asked(bed: Bed, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    monkeypatch.setattr(
        "surgery.training.distillation.harden", lambda *given: asked.append(True) or 0.0
    )
    for harden in (False, True):
        assert not asked
        list(erased(make(), bed, blocks="0-1", variant="zero", steps=2, harden=harden))
    assert asked == 2 * [True]


@pytest.mark.parametrize("seed", [0, 3])
def test_what_is_measured_is_the_half_that_no_method_saw(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search with that seed holds the same passages and windows back."""
    folder = save_tiny(tmp_path / "tiny")
    write_rows(tmp_path / "rows.jsonl", recited_rows(make(), 24))
    (tmp_path / "text.txt").write_text(TEXT * 30)
    loaded = open_model(str(folder), device="cpu")
    lengths = {"prefix_length": 6, "suffix_length": 5}
    rows, text = tmp_path / "rows.jsonl", (tmp_path / "text.txt",)
    passages = load_samples(str(rows), tokenizer=loaded.tokenizer, **lengths)
    bench = measuring.make_bench(
        str(folder), loaded, passages, text, text, "", (), None, seed, torch.float32
    )
    request = SearchRequest.of(
        model=str(folder), samples=str(rows), heldout=text, max_extraction=0.1, seed=seed,
        device="cpu", variant=("zero",), **lengths,
    )  # fmt: skip
    first, second = open_search(request).halves
    assert bench.bed.samples.ids == first.samples.ids
    assert bench.held_back.ids == second.samples.ids
    assert np.array_equal(bench.bed.heldout, first.windows)
    assert np.array_equal(bench.heldout, second.windows)

    monkeypatch.setattr(measuring, "QUIET", ("any",))
    tuned: list[set[tuple[int, ...]]] = []

    def tune(model: Any, rows: Any, *, steps: Any, **more: Any) -> list[Any]:
        tuned.append({tuple(row) for row in rows.tolist()})
        return [model] * len(steps)

    monkeypatch.setattr("evals.measure.attacks.relearn.fine_tune", tune)
    wrong = bench.held_back.tokens.copy()
    held = split(wrong, SHARE)[0]
    wrong[~held, 6:] = wrong[~held, 6:][:, ::-1]  # only what is trained on is recited
    other = replace(bench.held_back, tokens=wrong)
    found = replace(bench, held_back=other).measure(make())
    assert found["any, seen"] == 1
    assert found["any, not seen"] < 0.5
    windows = {tuple(row) for row in bench.heldout.tolist()}
    assert set().union(*tuned) - windows == {tuple(row) for row in wrong[held].tolist()}
    assert found["relearn"] == recover(make(), other)[~held].mean() < found["any, seen"]


def test_a_rival_that_did_not_finish_has_no_figures() -> None:
    figures = dict.fromkeys(("no training", "relearn"), 0.5)
    figures |= {"any, seen": 0.25, "any, not seen": 0.5, "by": "any", "never trained": 0.125}
    figures |= dict.fromkeys(MEASURES, 0.0625)
    figures |= {"membership": 0.75, "revive": None, "graft": None}
    figures["left"] = 0.0
    runs = {
        "not edited": {"seconds": 0.0, "setting": "", **figures, "lab_copy": 0.5},
        "rmu": {"seconds": 9.0, "setting": "not finished"},
        "undo": {"seconds": 9.0, "setting": "noise 0.1", **figures, "lab_copy": 0.375},
    }
    runs["undo"]["revive"] = 0.25
    head, rule, _, none, done = make_rows([runs])
    assert {len(row) for row in (head, rule, none, done)} == {len(head)}
    assert none[1:-1] == ["not finished", *[""] * (len(head) - 3)]
    *_, last = list_settings([runs])
    part = "of the half that chose, relearn 0.0 %, any 25.0 %; of the other, any 50.0 %"
    assert last == f"- `undo`: noise 0.1; {part}"
    assert done[head.index("lab_copy")] == "-12.5"
    assert done[head.index("AUC")] == "0.75"
    assert done[head.index("`revive`")] == "25.0"
    assert done[head.index("`relearn`")] == "50.0"
    assert "`graft`" not in head, "there was no second model"
    assert done[head.index("no training")] == "50.0 (`any`)"


def test_several_seeds_give_a_median_and_a_range(tmp_path: Path) -> None:
    figures = dict.fromkeys(("no training", *MEASURES), 0.5) | {"by": "any", "never trained": 0.0}
    figures["left"] = 0.0
    for seed, left in enumerate((0.0, 0.25, 0.125)):
        runs = {"not edited": figures, "rmu": figures | {"no training": left}, "undo": {}}
        if seed == 1:
            runs["undo"] = figures | {"left": 0.06}
            runs["simnpo"] = figures
        (tmp_path / str(seed) / "runs").mkdir(parents=True)
        (tmp_path / str(seed) / "asked.json").write_text(json.dumps({"seed": seed, "limit": 1}))
        for name, run in runs.items():
            path = tmp_path / str(seed) / "runs" / f"{name}.json"
            path.write_text(json.dumps({"seconds": seed, "setting": f"s{seed}", **run}))
    done = CliRunner().invoke(print_several, [str(tmp_path / str(seed)) for seed in range(3)])
    lines = done.output.splitlines()
    _, _, base, simnpo, rmu, undo = (line.strip("| ").split(" | ") for line in lines[:6])
    assert (base[1], rmu[1]) == ("50.0 (`any`)", "12.5 (0.0 to 25.0) (`any`)")
    none = "; of the half that chose, relearn 0.0 %"
    assert rmu[-1] == "1 (0 to 2)"
    assert f"- `rmu`: s0{none} / s1{none} / s2{none}" in lines
    assert simnpo[0] == "`simnpo` (1 of 3 ran)"
    assert undo[0] == "`undo` † 1 of 1 (1 of 3 finished)"
    assert undo[1] == "50.0 (`any`)"
    (tmp_path / "empty").mkdir()
    (tmp_path / "3" / "runs").mkdir(parents=True)
    (tmp_path / "3" / "asked.json").write_text(json.dumps({"seed": 3, "limit": 2}))
    (tmp_path / "3" / "runs" / "not edited.json").write_text(json.dumps(figures))
    for names, text in (
        (["empty"], "holds no run"),
        (["0", "0"], "the same seed twice"),
        (["0", "3"], "which holds a run with another limit (1)"),
    ):
        refused = CliRunner().invoke(print_several, [str(tmp_path / name) for name in names])
        assert refused.exit_code == 2
        assert text in refused.output


def test_no_rival_has_more_than_16_settings() -> None:
    assert all(len(settings) <= 16 for _, settings in RIVALS.values())


def test_fewer_settings_are_tried_if_asked(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As the seed draws them, at lower rates for a wide model. What a stopped run left is gone."""
    asked: list[Any] = []
    monkeypatch.setattr(
        methods, "choose", lambda *given, **more: asked.append(given[2]) or Choice(None, 1.0, 0)
    )
    (tmp_path / "erased.pt").touch()
    loaded: Any = SimpleNamespace(model=make())
    workshop = methods.Workshop(loaded, bed, 9.0, [], [], None, None, tmp_path, most=5)
    for name in ("simnpo", "erased"):
        assert workshop.tune(name).setting == "not finished: no look; 0 of 5 settings tried"
    order = np.random.default_rng(bed.seed).permutation(12)
    assert asked[0] == [RIVALS["simnpo"][1][place] for place in order[:5]]
    assert asked[1] == RIVALS["erased"][1][:5]
    loaded.model.config.hidden_size = 4 * 192
    workshop.tune("simnpo")
    for narrow, wide in zip(asked[0], asked[2], strict=True):  # as rates of healing and erasing
        assert wide == {**narrow, "rate": narrow["rate"] / 4}
    assert not (tmp_path / "erased.pt").exists()


def test_deep_blocks_that_miss_the_limit_are_not_finished(
    bed: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Bed, "measure_recovered", lambda self, model: 0.5)
    loaded: Any = SimpleNamespace(model=make())
    made = methods.Workshop(loaded, bed, 9.0, [], [], None, None, tmp_path).cut_deep()
    assert (made.model, made.setting[:12]) == (None, "not finished")


def test_fine_tuning_that_breaks_the_model_leaves_what_it_gave_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_tiny(tmp_path / "tiny")
    write_rows(tmp_path / "rows.jsonl", recited_rows(make(), 24))
    (tmp_path / "text.txt").write_text(TEXT * 30)
    loaded, text = open_model(str(folder), device="cpu"), (tmp_path / "text.txt",)
    passages = load_samples(str(tmp_path / "rows.jsonl"), prefix_length=6, suffix_length=5)
    bench = measuring.make_bench(
        str(folder), loaded, passages, text, text, "", (), None, 0, torch.float32
    )
    monkeypatch.setattr(measuring, "QUIET", ("any",))

    def tune(*given: Any, steps: Any, **more: Any) -> list[Any]:
        broken = make()
        with torch.no_grad():
            next(broken.parameters()).fill_(torch.nan)
        return [broken] * len(steps)

    monkeypatch.setattr("evals.measure.attacks.relearn.fine_tune", tune)
    monkeypatch.setattr(measuring, "TUNING", ("relearn",))
    found = bench.measure(make())
    tried = tuple(Setting("all weights", rate, 20) for rate in RATES)
    assert bench.trainings == {"relearn": tried}, "none leaves the base what it gives"
    assert (found["relearn"], found["any, not seen"]) == (1.0, 1.0)
