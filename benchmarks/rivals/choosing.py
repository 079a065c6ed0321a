"""Chooses a rival's setting as a search chooses an edit: limits kept, then least cost.

Every setting gets an equal share of the time. Each look at a setting is a candidate: the model as
it then is. The candidates that recover at most the limit are attacked by fine-tuning (`relearn`,
brief, as a search does it), the cheapest first, and the first that keeps that limit is the choice.
If none does, the one that leaves least is. If no look kept the first limit, the rival is not
finished. The cost is that of `search`: the worst of the measures that count.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import click
import torch

from benchmarks.rivals.bed import Bed, Rival, measure_text
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


def read_seconds() -> float:
    """Processor seconds of this process and those that it started: others do not disturb them."""
    return sum(os.times()[:4])


def choose(
    name: str,
    rival: Rival,
    settings: Sequence[Setting],
    make: Any,
    bed: Bed,
    *,
    seconds: float,
    limits: tuple[float, float],
) -> Candidate | None:
    """The choice; None if the rival is not finished. `make`: gives a fresh model to change.

    `limits`: on `any`, and on `relearn`.
    """
    begun, base = read_seconds(), make().requires_grad_(False)
    found: list[Candidate] = []
    for place, setting in enumerate(settings):
        left = seconds * (1 - TRYING) - (read_seconds() - begun)
        best = run_setting(
            rival, setting, make(), base, bed, left / (len(settings) - place), limits[0]
        )
        if best is not None:
            found.append(best)
            click.echo(f"{name}: {best.label}: cost {best.cost:.3f}", err=True)
    tried: list[Candidate] = []
    for one in sorted(found, key=lambda one: one.cost)[:TRIED]:
        if tried and read_seconds() - begun > seconds:
            break
        model = make()
        model.load_state_dict(one.weights)
        target = Target(model, None, bed.samples, bed.text, draws=1, brief=True)
        rate = float(find_attack("relearn").run(target).counted.mean())
        tried.append(replace(one, relearned=rate))
        if rate <= limits[1]:
            return tried[-1]
    return min(tried, key=lambda one: one.relearned or 0.0, default=None)


def run_setting(
    rival: Rival, setting: Setting, model: Any, base: Any, bed: Bed, seconds: float, limit: float
) -> Candidate | None:
    """The cheapest look that recovers at most `limit`."""
    assert bed.heldout is not None
    begun, best = read_seconds(), None
    model.requires_grad_(True)
    looks: Iterator[None] = rival(model, bed, **setting)
    for number, _ in enumerate(looks, 1):
        recovered = bed.measure_recovered(model)
        if recovered <= limit:
            _, cost = find_worst(measure_text(base, model, bed.heldout))
            if best is None or cost < best.cost:
                weights = {key: value.clone() for key, value in model.state_dict().items()}
                best = Candidate(setting, number, recovered, cost, weights)
        if read_seconds() - begun > seconds:
            break
    return best
