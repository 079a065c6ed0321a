"""The audit: every attack on the base and on the edited model, beside text never trained on."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from evals.attacks import membership
from evals.attacks.attack import Attack, Attacked, Outcome, Passages
from evals.attacks.one_pass import near, one_pass
from evals.attacks.perturbed import perturbed
from evals.attacks.quantized import quantized
from evals.attacks.relearn import parted, relearn
from evals.memorization.measures import Scores
from evals.memorization.recovery import FORMS, NAMES, numbered
from evals.models import LoadedModel
from evals.running.processes import Processes
from evals.samples import Samples, Tokens
from surgery.errors import MeasurementError, SamplesError

CHEAP = NAMES
ALL = (
    *CHEAP, "near", "perturbed", "quantized:8", "quantized:4", "relearn", "relearn-benign",
    membership.NAME,
)  # fmt: skip
GROUPS = {"cheap": CHEAP, "all": ALL}


def named(names: Sequence[str]) -> tuple[str, ...]:
    """The attacks that are asked for, each once. Raises `MeasurementError` for an unknown one."""
    found = dict.fromkeys(name for given in names for name in GROUPS.get(given, (given,)))
    for name in found:
        if name != membership.NAME:
            attack_of(name)
    return tuple(found)


def chosen(attacks: Sequence[str], limited: Collection[str]) -> tuple[str, ...]:
    """The attacks to run: those that are named, or all, and every one that has a limit.

    Raises as `named`.
    """
    return named([*(attacks or ("all",)), *limited])


def untried(names: Collection[str]) -> list[str]:
    """What an attacker could try beside these, fine-tuning first. Of the cheap attacks `any` alone,
    which stands for the others."""
    kinds = {name.partition(":")[0] for name in names}
    left = [name for name in ("any", *ALL[len(CHEAP) :]) if name.partition(":")[0] not in kinds]
    tuning = [name for name in left if name.startswith("relearn")]
    rest = [name for name in left if name not in tuning]
    return [*([f"fine-tuning ({', '.join(tuning)})"] if tuning else []), *rest]


def shortened(names: Sequence[str]) -> list[str]:
    """What `named` makes these of again: a group stands for those that it holds all of."""
    left, found = list(names), []
    for group in ("all", "cheap"):
        if set(GROUPS[group]) <= set(left):
            found.append(group)
            left = [name for name in left if name not in GROUPS[group]]
    return found + left


def attack_of(name: str) -> Attack:
    """The attack that is named so. Raises `MeasurementError` for any other name."""
    others: dict[str, Callable[[], Attack]] = {
        "near": near,
        "perturbed": perturbed,
        "relearn": partial(relearn, benign=False),
        "relearn-benign": partial(relearn, benign=True),
    }
    kind, _, number = name.partition(":")
    try:
        if name in others:
            return others[name]()
        if kind == "quantized":
            return quantized(int(number))
        return one_pass(name)
    except ValueError:
        forms = f"{FORMS}, {', '.join(others)}, quantized:BITS or {membership.NAME}"
        fix = numbered(name, ALL)
        raise MeasurementError(f"no attack {name!r}", expected=forms, fix=fix) from None


@dataclass(frozen=True)
class Protocol:
    """What is tried, and on what: the same for both models.

    - `samples`: members are attacked, where membership is known; non-members are the control.
    - `unrelated`: int32 [M, T] windows of held-out text, as long as a passage: the control where no
      non-members are known, and what `perturbed` and `relearn-benign` need.
    - `attacks`: their names.

    Raises `SamplesError` for fewer than two passages, or where `relearn` leaves none to count.
    """

    samples: Samples
    unrelated: Tokens
    attacks: tuple[str, ...]
    batch_size: int | None = None

    def __post_init__(self) -> None:
        if self.samples.trained_on.sum() < 2:
            raise SamplesError(
                "too few passages to attack",
                where=self.samples.source,
                expected="at least 2 that were trained on",
                got=int(self.samples.trained_on.sum()),
            )
        if "relearn" in self.attacks and not parted(self.passages.tokens)[1].any():
            raise SamplesError(
                "every passage overlaps those that relearn learns again, so that none is left",
                where=self.samples.source,
                fix="give passages that do not overlap, or name other attacks with `attack`",
            )

    @property
    def passages(self) -> Passages:
        return self._of(self.samples.tokens[self.samples.trained_on])

    @property
    def control(self) -> Passages:
        rows = self.samples.tokens[~self.samples.trained_on]
        return self._of(rows if len(rows) else self.unrelated)

    def _of(self, tokens: Tokens) -> Passages:
        return Passages(tokens, self.samples.prefix_length, self.unrelated)


@dataclass(frozen=True)
class Audited:
    """One model's outcomes: by attack, on the passages and on the control, with seconds of each.

    `scores`: of membership, by name, of the passages and then of the control.
    """

    passages: dict[str, Outcome]
    control: dict[str, Outcome]
    scores: dict[str, Scores] | None
    seconds: dict[str, float]
    provenance: dict[str, Any]


def audit(
    loaded: LoadedModel,
    protocol: Protocol,
    *,
    with_control: bool = True,
    processes: Processes | None = None,
    advance: Callable[[int], None] = lambda done: None,
) -> Audited:
    """Tries every attack of `protocol` on one model. `advance` is told of attacks done.

    `with_control`: whether the control is tried; membership reads it anyway. It is tried apart, so
    that passages are read the same way with it and without.
    """
    on, beside = (
        Attacked(loaded.model, loaded.tokenizer, passages, protocol.batch_size, processes)
        for passages in (protocol.passages, protocol.control)
    )
    found: dict[str, Outcome] = {}
    control: dict[str, Outcome] = {}
    scores, seconds = None, {}
    for name in protocol.attacks:
        begun = time.perf_counter()
        if name == membership.NAME:
            if not protocol.samples.trained_on.all():
                scores = membership.scores(on, beside)
        else:
            attack = attack_of(name)
            found[name] = attack.run(on)
            if with_control and (outcome := attack.run(beside)).tried.any():
                control[name] = outcome
        seconds[name] = time.perf_counter() - begun
        advance(1)
    provenance = (processes or Processes()).once(lambda: loaded.provenance)
    return Audited(found, control, scores, seconds, provenance)
