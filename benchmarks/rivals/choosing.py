"""Chooses a rival's setting as a search chooses an edit: limits kept, then least cost.

Settings meet in rounds. All of them share the time of the first; the best third of each round, from
the start again, that of the next; one setting has the last for itself. No run begins after the
time, nor one that could not get further than before. Each look at a setting is a candidate: the
model as it then is, which a file keeps. The best settings are those whose candidates recover at
most the limit, the cheapest first.

Then candidates are attacked by fine-tuning (`relearn`, brief, as a search does it). As the dearer
ones give less back, bisection finds the cheapest that keeps that limit, which is the choice. If
none does, the one that leaves least is. If no look kept the first limit, the rival is not finished.
The cost is that of `search`: the worst of the measures that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks.rivals.bed import Bed, Rival, measure_text, read_seconds
from benchmarks.rivals.token_swap import get_held
from evals.measure.attacks.attack import Target
from evals.measure.attacks.names import find_attack
from evals.measure.attacks.tuning import cast_weights
from evals.measure.edits.costs import find_worst
from surgery.errors import MeasurementError

Setting = Mapping[str, Any]
EVERY = {"kfac"}
"""Rivals that change settings from look to look."""
ONCE = {"erased", "token-swap"}
"""Rivals with one look, so that more time changes nothing."""
TRYING = 0.2
"""The share of the time that fine-tuning candidates may take."""
PREPARING = 0.25
"""The share of the time that may pass until settings begin."""


@dataclass(frozen=True)
class Candidate:
    """A setting, after so many looks. Shares are of the half that chooses; cost in nats.

    `weights`: the file that holds the model's.
    """

    setting: Setting
    looks: int
    recovered: float
    cost: float
    weights: Path
    relearned: float | None = None

    @property
    def label(self) -> str:
        said = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in self.setting.items()]  # fmt: skip
        return ", ".join([*said, f"{self.looks} looks"])

    def load_into(self, model: Any) -> Any:
        model.load_state_dict(torch.load(self.weights))
        return model


@dataclass(frozen=True)
class Choice:
    """The candidate, or None if the rival is not finished.

    `lowest`: the least that any look recovered; `tried`: how many settings the time was enough for.
    """

    candidate: Candidate | None
    lowest: float
    tried: int


def choose(
    name: str,
    rival: Rival,
    settings: Sequence[Setting],
    make: Callable[[], Any],
    bed: Bed,
    *,
    seconds: float,
    limits: tuple[float, float],
    folder: Path,
    prepare: Callable[[Any, Bed, float], Mapping[str, Any]] | None = None,
) -> Choice:
    """Tries the settings in rounds. `make`: gives a fresh model to change.

    `limits`: on `any`, and on `relearn`. `folder`: for the candidates. `prepare`: makes, from a
    fresh model and in a share of the seconds, what all settings share: more arguments of the rival.
    This counts as the rival's time.
    """
    begun, base = read_seconds(), make().requires_grad_(False)
    shared = prepare(make().requires_grad_(True), bed, seconds * PREPARING) if prepare else {}
    trials: dict[int, Trial] = {}
    sizes = list_rounds(len(settings))
    best = list(range(len(settings)))
    for number, size in enumerate(sizes):
        runs = [index for index in best[:size] if index not in trials or not trials[index].ended]
        end = begun + seconds * (1 - TRYING)
        after = (end - read_seconds()) * (1 - 1 / (len(sizes) - number))  # for later rounds
        for place, index in enumerate(runs):
            left = end - read_seconds()
            if trials and left <= 0:
                break
            share = (left - after) / (len(runs) - place)
            if index in trials and share <= trials[index].seconds:
                continue
            model, setting = make().requires_grad_(True), settings[index]
            looks = rival(model, replace(bed, end=end), **setting, **shared)
            given = looks, setting, model, base, bed, share, limits[0]
            trial = run_setting(*given, folder / str(index), every=name in EVERY)
            trial = replace(trial, ended=trial.ended or name in ONCE)
            if index not in trials or trial.looks > trials[index].looks:
                trials[index] = trial
            for one in trials[index].kept[:1]:
                click.echo(f"{name}: {one.label}: cost {one.cost:.3f}", err=True)
        best = sorted(trials, key=lambda index: trials[index].rank)
    found = sorted((one for trial in trials.values() for one in trial.kept), key=lambda c: c.cost)
    lowest = min(trial.lowest for trial in trials.values())

    def attack(one: Candidate) -> Candidate:
        model = cast_weights(one.load_into(make()), bed.passes)
        half = 2 * len(bed.samples)  # as a search attacks a half
        target = Target(get_held(model), None, bed.samples, bed.text, draws=1, of=half)
        return replace(one, relearned=float(find_attack("relearn").run(target).counted.mean()))

    def is_over() -> bool:
        return read_seconds() - begun > seconds

    tried = sum(trial.looks > 0 for trial in trials.values())
    return Choice(bisect_candidates(found, attack, limits[1], is_over), lowest, tried)


def list_rounds(number: int) -> list[int]:
    """How many settings run in each round: a third of those before, until one is left."""
    sizes = [number]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 3))
    return sizes


def bisect_candidates(
    found: Sequence[Candidate],
    attack: Callable[[Candidate], Candidate],
    limit: float,
    is_over: Callable[[], bool],
) -> Candidate | None:
    """The cheapest of `found`, which are in order of cost, that keeps `limit` once attacked.

    If none of those attacked does, the one that leaves least. None if nothing was found.
    """
    attacked: dict[int, Candidate] = {}
    low, high = 0, len(found)
    while low < high and not (attacked and is_over()):
        middle = (low + high) // 2
        attacked[middle] = attack(found[middle])
        if (attacked[middle].relearned or 0.0) <= limit:
            high = middle
        else:
            low = middle + 1
    keeping = [one for one in attacked.values() if (one.relearned or 0.0) <= limit]
    if keeping:
        return min(keeping, key=lambda one: one.cost)
    if attacked and 0 not in attacked:  # the cheapest may give back no more than these
        attacked[0] = attack(found[0])
    return min(attacked.values(), key=lambda one: (one.relearned or 0.0, one.cost), default=None)


@dataclass(frozen=True)
class Trial:
    """A run of one setting.

    `kept`: candidates, in order of cost; `lowest`: the least that any of its `looks` recovered;
    `ended`: the rival ended by itself, so that more time changes nothing; `seconds`: it took.
    """

    looks: int
    kept: tuple[Candidate, ...]
    lowest: float
    ended: bool
    seconds: float

    @property
    def rank(self) -> tuple[float, float]:
        """The lower, the better: first those with a candidate, by the cost of their cheapest."""
        return (0.0, self.kept[0].cost) if self.kept else (self.lowest, 0.0)


def run_setting(
    looks: Iterator[None],
    setting: Setting,
    model: Any,
    base: Any,
    bed: Bed,
    seconds: float,
    limit: float,
    folder: Path,
    *,
    every: bool = False,
) -> Trial:
    """Runs a setting for a while. Of the looks that recover at most `limit`, it keeps the first,
    the second, the fourth, and so on, and the last. `every`: it keeps all, each a setting."""
    assert bed.heldout is not None
    folder.mkdir(parents=True, exist_ok=True)
    begun, lowest = read_seconds(), 1.0
    kept: list[Candidate] = []
    last: list[Candidate] = []
    met, number, ended = 0, 0, True
    for number, _ in enumerate(looks, 1):
        try:
            recovered = bed.measure_recovered(model)
        except MeasurementError as error:  # the setting broke the model
            click.echo(f"{error}", err=True)
            break
        lowest = min(lowest, recovered)
        if recovered <= limit:
            met += 1
            _, cost = find_worst(measure_text(base, model, bed.heldout))
            for one in last:
                one.weights.unlink()
            weights = folder / f"{number}.pt"
            torch.save(model.state_dict(), weights)
            last = [Candidate(setting, number, recovered, cost, weights)]
            if every or met & (met - 1) == 0:  # a power of two
                kept, last = [*kept, *last], []
        if read_seconds() - begun > seconds:
            ended = False
            break
    ordered = tuple(sorted([*kept, *last], key=lambda one: one.cost))
    return Trial(number, ordered, lowest, ended, read_seconds() - begun)
