"""Chooses a rival's setting as a search chooses an edit: limits kept, then least cost.

Every setting gets an equal share of the time that is left, and none begins after it. Each look at a
setting is a candidate: the model as it then is. Of those that recover at most the limit, the
cheapest of each setting, and then the cheapest of the others, are attacked by fine-tuning
(`relearn`, brief, as a search does it): a few, the cheapest first. The first that keeps that limit
is the choice. If none does, the one that leaves least is. If no look kept the first limit, the
rival is not finished. The cost is that of `search`: the worst of the measures that count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
import torch

from benchmarks.rivals.bed import Bed, Rival, measure_text
from benchmarks.rivals.token_swap import get_held
from evals.measure.attacks.attack import Target
from evals.measure.attacks.names import find_attack
from evals.measure.edits.costs import find_worst

Setting = Mapping[str, Any]
TRIED, TRYING = 4, 0.2
"""Candidates that are fine-tuned at most, and the share of the time that this may take."""


@dataclass(frozen=True)
class Candidate:
    """A setting, after so many looks. Shares are of the half that chooses; cost in nats."""

    setting: Setting
    looks: int
    recovered: float
    cost: float
    weights: dict[str, torch.Tensor]
    relearned: float | None = None

    @property
    def label(self) -> str:
        said = [f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                for name, value in self.setting.items()]  # fmt: skip
        return ", ".join([*said, f"{self.looks} looks"])


@dataclass(frozen=True)
class Choice:
    """The candidate, or None if the rival is not finished.

    `lowest`: the least that any look recovered; `tried`: how many settings the time was enough for.
    """

    candidate: Candidate | None
    lowest: float
    tried: int


def read_seconds() -> float:
    """Processor seconds of this process and those that it started: others do not disturb them."""
    return sum(os.times()[:4])


def choose(
    name: str,
    rival: Rival,
    settings: Sequence[Setting],
    make: Callable[[], Any],
    bed: Bed,
    *,
    seconds: float,
    limits: tuple[float, float],
    prepare: Callable[[Any, Bed], Mapping[str, Any]] | None = None,
) -> Choice:
    """Tries the settings in turn. `make`: gives a fresh model to change.

    `limits`: on `any`, and on `relearn`. `prepare`: makes, from a fresh model, what all settings
    share: more arguments of the rival. This counts as the rival's time.
    """
    begun, base = read_seconds(), make().requires_grad_(False)
    shared = prepare(make().requires_grad_(True), bed) if prepare else {}
    found: list[Candidate] = []
    lowest, tried = 1.0, 0
    while tried < len(settings):
        left = seconds * (1 - TRYING) - (read_seconds() - begun)
        if tried and left <= 0:
            break
        model, setting = make().requires_grad_(True), settings[tried]
        looks = rival(model, bed, **setting, **shared)
        share = left / (len(settings) - tried)
        kept, least = run_setting(looks, setting, model, base, bed, share, limits[0])
        found, lowest, tried = shortlist([*found, *kept]), min(lowest, least), tried + 1
        for one in kept[:1]:
            click.echo(f"{name}: {one.label}: cost {one.cost:.3f}", err=True)
    attacked: list[Candidate] = []
    for one in found:
        if attacked and read_seconds() - begun > seconds:
            break
        model = make()
        model.load_state_dict(one.weights)
        target = Target(get_held(model), None, bed.samples, bed.text, draws=1, brief=True)
        rate = float(find_attack("relearn").run(target).counted.mean())
        attacked.append(replace(one, relearned=rate))
        if rate <= limits[1]:
            return Choice(attacked[-1], lowest, tried)
    best = min(attacked, key=lambda one: one.relearned or 0.0, default=None)
    return Choice(best, lowest, tried)


def run_setting(
    looks: Iterator[None],
    setting: Setting,
    model: Any,
    base: Any,
    bed: Bed,
    seconds: float,
    limit: float,
) -> tuple[list[Candidate], float]:
    """The cheapest looks that recover at most `limit`, and the least that any look recovered."""
    assert bed.heldout is not None
    begun, lowest = read_seconds(), 1.0
    kept: list[Candidate] = []
    for number, _ in enumerate(looks, 1):
        recovered = bed.measure_recovered(model)
        lowest = min(lowest, recovered)
        if recovered <= limit:
            _, cost = find_worst(measure_text(base, model, bed.heldout))
            if len(kept) < TRIED or cost < kept[-1].cost:
                weights = {key: value.clone() for key, value in model.state_dict().items()}
                kept.append(Candidate(setting, number, recovered, cost, weights))
                kept = sorted(kept, key=lambda one: one.cost)[:TRIED]
        if read_seconds() - begun > seconds:
            break
    return kept, lowest


def shortlist(found: Sequence[Candidate]) -> list[Candidate]:
    """At most `TRIED`, the cheapest first: the cheapest of each setting go before all others.

    So a rival with one setting, such as K-FAC, is not judged by a single look at it.
    """
    ordered = sorted(found, key=lambda one: one.cost)
    firsts: dict[str, Candidate] = {}
    for one in ordered:
        firsts.setdefault(str(one.setting), one)
    others = [one for one in ordered if firsts[str(one.setting)] is not one]
    return sorted([*firsts.values(), *others][:TRIED], key=lambda one: one.cost)
