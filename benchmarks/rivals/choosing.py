"""Chooses a rival's setting as a search chooses an edit: limits kept, then least cost.

A rival yields after every few steps. The model as it then is counts as a look. A look is a
candidate if it recovers at most the first limit (on `any`); a file keeps its weights.

Settings meet in rounds, which share four fifths of the time. All of them run in the first round,
and the best third of each round in the next, until one setting has the last round for itself. A
setting that goes on starts anew, with more time, unless that time would not take it any further. No
run begins after the time.

A rival that trains with a learning rate does so at a constant one, as nobody knows yet for how many
steps. The last round of such a rival starts again with a rate that falls to zero, as in healing and
erasing: over twice as many looks as the setting needed for the first limit, then over four times as
many, and so on, while there is time. The end of each of these runs is a candidate.

The second limit is on fine-tuning (`relearn`, as a search does it). After each round, the last
candidates of the settings are attacked so, on some of the passages, those of the cheapest settings
first, until as many keep the limit as go on. The best settings are those that kept it, the cheapest
first.

In the end, candidates are attacked on all passages of the half: first the last one of the best
setting, then those of that setting that may be cheaper, by bisection, and then those of the other
settings that are cheaper than any that is known to keep the limit, while there is time. The
cheapest that keeps it is the choice. If none does, the one that leaves least is, and it is marked.
If no look kept the first limit, the rival is not finished. The cost is that of `search`: the worst
of the measures that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from benchmarks.rivals.bed import Bed, Rival, measure_text, read_seconds
from benchmarks.rivals.token_swap import get_held
from evals.data import Samples, Tokens
from evals.measure.attacks.attack import AttackOutcome, Target, Trainings
from evals.measure.attacks.names import find_attack
from evals.measure.edits.costs import find_worst
from surgery.errors import MeasurementError
from surgery.training.student import cast_weights

Setting = Mapping[str, Any]
EVERY = {"kfac"}
"""Rivals that change settings from look to look."""
FALLING = {"gradient-difference-kl", "npo-kl", "simnpo", "rmu", "undo"}
"""Rivals that train with a learning rate, which falls in the last round."""
ONCE = {"erased", "token-swap"}
"""Rivals with one look, so that more time changes nothing."""
TRYING = 0.2
"""The share of the time that fine-tuning candidates may take at the end."""
ASKING, ASKED = 0.3, 64
"""The share of a round's time that fine-tuning may take, and on how many passages."""
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
        said = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in self.setting.items()]  # fmt: skip
        return ", ".join([*said, f"{self.looks} looks"])

    def load_into(self, model: Any) -> Any:
        model.load_state_dict(torch.load(self.weights))
        return model


@dataclass(frozen=True)
class Choice:
    """The candidate, or None if the rival is not finished.

    `lowest`: the least that any look recovered; `tried`: how many settings had a look;
    `cheapest`: the cost of the cheapest candidate, whatever fine-tuning brings back.
    """

    candidate: Candidate | None
    lowest: float
    tried: int
    cheapest: float | None = None


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
    base = cast_weights(make(), bed.passes)
    trainings = run_relearn(base, bed.samples, bed.text).trainings
    begun = read_seconds()
    shared = prepare(make().requires_grad_(True), bed, seconds * PREPARING) if prepare else {}
    trials: dict[int, Trial] = {}
    sizes = [*list_rounds(len(settings)), 0]
    best = range(len(settings))
    end = begun + seconds * (1 - TRYING)
    some = bed.samples.spread(np.ones(len(bed.samples), dtype=np.bool_), ASKED)

    def start(index: int, bed: Bed) -> tuple[Any, Iterator[None]]:
        model = make().requires_grad_(True)
        return model, rival(model, bed, **settings[index], **shared)

    def relearn(one: Candidate, samples: Samples) -> float:
        model = cast_weights(one.load_into(make()), bed.passes)
        return measure_relearned(model, samples, bed.text, trainings)

    for number, (size, after) in enumerate(pairwise(sizes)):
        going = [index for index in best if index not in trials or not trials[index].ended]
        runs = going[:size]
        until = read_seconds() + (end - read_seconds()) / (len(sizes) - 1 - number)
        stop = until - (ASKING * (until - read_seconds()) if after else 0.0)
        for place, index in enumerate(runs):
            if trials and read_seconds() >= end:
                break
            share = (stop - read_seconds()) / (len(runs) - place)
            given = settings[index], base, bed, limits[0], folder / str(index)
            if name in FALLING and not after and index in trials:
                trials[index] = fall(partial(start, index), trials[index], *given, end)
            elif index not in trials or share > trials[index].seconds:
                model, looks = start(index, replace(bed, end=end))
                trial = run_setting(looks, model, *given, share, every=name in EVERY)
                trial = replace(trial, ended=trial.ended or name in ONCE)
                if index not in trials or trial.looks > trials[index].looks:
                    trials[index] = trial
            for one in trials[index].kept[:1]:
                click.echo(f"{name}: {one.label}: cost {one.cost:.3f}", err=True)
        over = partial(_is_after, until)
        trials = ask(trials, after, partial(relearn, samples=some), limits[1], over)
        best = sorted(trials, key=lambda index: trials[index].rank(limits[1]))

    def attack(one: Candidate) -> Candidate:
        return replace(one, relearned=relearn(one, bed.samples))

    over = partial(_is_after, begun + seconds)
    choice = choose_candidate([trials[index] for index in best], attack, limits[1], over)
    lowest = min(trial.lowest for trial in trials.values())
    tried = sum(trial.looks > 0 for trial in trials.values())
    costs = [trial.kept[0].cost for trial in trials.values() if trial.kept]
    return Choice(choice, lowest, tried, min(costs, default=None))


def _is_after(time: float) -> bool:
    return read_seconds() > time


def measure_relearned(
    model: Any, samples: Samples, text: Tokens, trainings: Trainings | None = None
) -> float:
    """What fine-tuning brings back, as a share: at the rate and step that bring most.

    `samples`: of a half. `trainings`: those that the base gets.
    """
    _, most = run_relearn(model, samples, text, trainings).take_strongest(None)
    return float(most.counted.mean())


def run_relearn(
    model: Any, samples: Samples, text: Tokens, trainings: Trainings | None = None
) -> AttackOutcome:
    """Fine-tunes, as a search attacks a half."""
    given: dict[str, Any] = {"draws": 1, "of": 2 * len(samples), "trainings": trainings}
    return find_attack("relearn").run(Target(get_held(model), None, samples, text, **given))


def ask(
    trials: Mapping[int, Trial],
    number: int,
    attack: Callable[[Candidate], float],
    limit: float,
    is_over: Callable[[], bool],
) -> dict[int, Trial]:
    """Attacks the last candidate of trials, the cheapest first, until `number` keep the limit."""
    asked = dict(trials)
    keeping = sum(one.left is not None and one.left <= limit for one in trials.values())
    open_ones = [at for at, one in trials.items() if one.kept and one.left is None]
    for index in sorted(open_ones, key=lambda at: trials[at].kept[0].cost):
        if keeping >= number or is_over():
            break
        last = trials[index].last
        assert last is not None
        left = attack(last)
        asked[index] = replace(trials[index], left=left)
        keeping += left <= limit
    return asked


def list_rounds(number: int) -> list[int]:
    """How many settings run in each round: a third of those before, until one is left."""
    sizes = [number]
    while sizes[-1] > 1:
        sizes.append(-(-sizes[-1] // 3))
    return sizes


def choose_candidate(
    trials: Sequence[Trial],
    attack: Callable[[Candidate], Candidate],
    limit: float,
    is_over: Callable[[], bool],
) -> Candidate | None:
    """The cheapest candidate that keeps `limit` once attacked. `trials`: the best setting first.

    Bisection within a setting assumes that its dearer candidates give less back. Different settings
    need not agree on that. If none of those attacked keeps the limit, the one that leaves least is
    the choice. None if there is no candidate.
    """
    attacked: list[Candidate] = []
    best: Candidate | None = None

    def keeps(one: Candidate) -> bool:
        attacked.append(attack(one))
        return (attacked[-1].relearned or 0.0) <= limit

    for trial in trials:
        open_ones = [one for one in trial.kept if best is None or one.cost < best.cost]
        low, high = 0, len(open_ones)
        middle = open_ones.index(trial.last) if trial.last in open_ones else high - 1
        while low < high and not (attacked and is_over()):
            if keeps(open_ones[middle]):
                best, high = attacked[-1], middle
            else:
                low = middle + 1
            middle = (low + high) // 2
    cheapest = min((one for trial in trials for one in trial.kept), key=_cost, default=None)
    if best is None and cheapest is not None:
        known = [replace(one, relearned=None) for one in attacked]
        if cheapest not in known:  # it may give back no more than these
            keeps(cheapest)
        best = min(attacked, key=lambda one: (one.relearned or 0.0, one.cost))
    return best


def _cost(one: Candidate) -> float:
    return one.cost


@dataclass(frozen=True)
class Trial:
    """A run of one setting.

    `kept`: candidates, in order of cost; `lowest`: the least that any of its `looks` recovered;
    `ended`: the rival ended by itself, so that more time changes nothing; `seconds`: it took, and
    `working`, without the measuring; `left`: what fine-tuning its last candidate brings back, None
    before that was tried.
    """

    looks: int
    kept: tuple[Candidate, ...]
    lowest: float
    ended: bool
    seconds: float
    working: float = 0.0
    left: float | None = None

    @property
    def last(self) -> Candidate | None:
        """After the most looks. It need not be the dearest: distilling lowers the cost."""
        return max(self.kept, key=lambda one: one.looks, default=None)

    def rank(self, limit: float) -> tuple[int, float]:
        """The lower, the better: first those that keep the limit on fine-tuning, the cheapest
        first; then those that were not attacked, those that miss it, and those without a candidate.
        """
        if not self.kept:
            return 3, self.lowest
        if self.left is None or self.last is None:
            return 1, self.kept[0].cost
        return (0, self.last.cost) if self.left <= limit else (2, self.left)


def run_setting(
    looks: Iterator[None],
    model: Any,
    setting: Setting,
    base: Any,
    bed: Bed,
    limit: float,
    folder: Path,
    seconds: float,
    *,
    every: bool = False,
) -> Trial:
    """Runs a setting for a while. Of the looks that recover at most `limit`, it keeps the first,
    the second, the fourth, and so on, and the last. `every`: it keeps all, each a setting."""
    begun, lowest = read_seconds(), 1.0
    kept: list[Candidate] = []
    last: list[Candidate] = []
    met, number, ended, working, since = 0, 0, True, 0.0, begun
    for number, _ in enumerate(looks, 1):
        working += read_seconds() - since
        try:
            path = folder / f"{number}.pt"
            recovered, found = look_at(model, setting, number, base, bed, limit, path)
        except MeasurementError as error:  # the setting broke the model
            click.echo(f"{error}", err=True)
            break
        lowest = min(lowest, recovered)
        if found is not None:
            met += 1
            for one in last:
                one.weights.unlink()
            last = [found]
            if every or met & (met - 1) == 0:  # a power of two
                kept, last = [*kept, *last], []
        since = read_seconds()
        if since - begun > seconds:
            ended = False
            break
    ordered = tuple(sorted([*kept, *last], key=_cost))
    return Trial(number, ordered, lowest, ended, read_seconds() - begun, working)


def fall(
    start: Callable[[Bed], tuple[Any, Iterator[None]]],
    trial: Trial,
    setting: Setting,
    base: Any,
    bed: Bed,
    limit: float,
    folder: Path,
    end: float,
) -> Trial:
    """Adds ends of runs whose learning rate falls to zero to the candidates of a trial."""
    found, lowest = [*trial.kept], trial.lowest
    looks = 2 * min((one.looks for one in trial.kept), default=trial.looks)
    each = trial.working / max(trial.looks, 1)
    measuring = trial.seconds / max(trial.looks, 1) - each
    while looks and (begun := read_seconds()) + looks * each + measuring <= end:
        model, run = start(replace(bed, end=end, looks=looks))
        for _ in run:
            pass
        path, falling = folder / f"falling-{looks}.pt", {**setting, "falling": True}
        try:
            recovered, kept = look_at(model, falling, looks, base, bed, limit, path)
        except MeasurementError as error:
            click.echo(f"{error}", err=True)
            break
        lowest = min(lowest, recovered)
        found += [kept] if kept is not None else []
        each, looks = (read_seconds() - begun) / looks, 2 * looks
    ordered = tuple(sorted(found, key=_cost))
    return replace(trial, kept=ordered, lowest=lowest)


def look_at(
    model: Any, setting: Setting, looks: int, base: Any, bed: Bed, limit: float, path: Path
) -> tuple[float, Candidate | None]:
    """What the model recovers, in the dtype in which it is measured in the end; a candidate, its
    weights in a file, if that is at most the limit.
    """
    assert bed.heldout is not None
    seen = model if bed.passes is torch.float32 else cast_weights(model, bed.passes)
    recovered = bed.measure_recovered(seen)
    if recovered > limit:
        return recovered, None
    _, cost = find_worst(measure_text(base, seen, bed.heldout))
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(seen.state_dict(), path)
    return recovered, Candidate(setting, looks, recovered, cost, path)
