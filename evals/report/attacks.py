"""What attackers recovered: as figures of a report, in sentences, and in pictures of an audit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.measure.attacks.names import TRAINING
from evals.measure.attacks.result import (
    AttackResult,
    Audit,
    MembershipResult,
    Reached,
    SharePair,
)
from evals.report.charts.dots import Dot, draw_dots
from evals.report.charts.lines import LinePanel, draw_lines
from evals.report.charts.panels import Point, Series
from evals.report.values import describe_way, make_figure, make_share, make_value
from surgery.card.facts import make_printable
from surgery.record.report import MOST_LETTERS, EditValue, Figure

UNTRAINED = "no attack that trains the model was run"
Area = tuple[float, Sequence[float] | None]
"""An area under a ROC curve, and its interval."""


def list_attacked(audits: Sequence[Audit]) -> Iterator[Figure]:
    """What each attack recovers, at each of its steps and learning rates if it has any, and
    membership."""
    for found in zip(*(audit.attacks for audit in audits), strict=True):
        if isinstance(found[0], AttackResult):
            yield _make_attack(found)
            yield from _list_steps(found)
            yield from _list_trainings(found)
        elif all(one.base and one.edited for one in found):
            yield from _list_membership(found, audits[0].n)


def _list_membership(found: Sequence[MembershipResult], n: int) -> Iterator[Figure]:
    name, hint = found[0].name, "area under the ROC curve; 0.5 is chance"
    for score in found[0].base or ():
        areas = [one[score] for one in (found[0].base, *(one.edited for one in found)) if one]
        base, *edits = (
            make_value(one.auc, one.ci95, overcorrected=one.overcorrected) for one in areas
        )
        key, label = f"{name}.{score}", f"{name} by {score}"
        yield make_figure("attacked", key, label, "number", n, base, edits, hint=hint)


def _make_attack(found: Sequence[AttackResult]) -> Figure:
    first, n, runs = found[0], found[0].edited.n, found[0].edited.runs
    alike = len({(one.edited.runs, one.edited.n) for one in found}) == 1
    key, label = f"recovered.{first.name}", f"recovered by {first.name}"
    label += f", {runs}" if runs and alike else ""
    facts = first.model_dump(include={"name", "setting", "source", "cost"})
    facts["hint"] = first.definition
    known = {at: make_printable(text)[:MOST_LETTERS] for at, text in facts.items()}
    assert first.base is not None  # an evaluation has one
    base, edits = make_share(first.base), [_make_attacked(one, alike=alike) for one in found]
    return make_figure("attacked", key, label, "share", n, base, edits, main=True, **known)


def _make_attacked(one: AttackResult, *, alike: bool) -> EditValue:
    """`alike`: whether it ran as often, on as many passages, on every edit."""
    paired, notes, about = one.paired, [], dict[str, Any](seconds=one.seconds)
    assert paired is not None
    if not alike:
        notes.append(", ".join(filter(None, (one.edited.runs, f"n = {one.edited.n:,}"))))
    about |= {"no_longer": paired.no_longer, "newly": paired.newly}
    if (control := one.control) is not None:
        ends = ", ".join(f"{100 * end:.1f}" for end in control.ci95 or ())
        notes.append(f"never trained on {control.rate:.1%} [{ends}]")
        about |= {"control": control.rate, "control_n": control.n}
    if (twin := one.twin) is not None:
        way = describe_way(one.toward_twin)
        notes.append(", ".join(filter(None, (f"twin {twin.rate:.1%}", way))))
        about |= {"twin": twin.rate, "toward_twin": one.toward_twin}
        if (above := one.above_twin) is not None:
            about |= {"above_twin": above.difference, "above_twin_p": above.p_value}
    if one.reached is not None:
        about |= one.reached.model_dump()
    change = (paired.difference, paired.ci95, paired.p_value)
    return make_share(one.edited, change, "; ".join(notes), **about)


def _list_steps(found: Sequence[AttackResult]) -> Iterator[Figure]:
    """What an attack that trains recovers after each of its stages, at its best rate there."""
    curves, name = [one.curve for one in found if one.curve is not None], found[0].name
    if len(curves) < len(found):
        return
    runs = found[0].edited.runs and ", one run"
    assert curves[0].base is not None
    shown = [curves[0].base, *(one.edited for one in curves)]
    for place, steps in enumerate(shown[0].stages):
        base, *edits = (make_value(one.any[place], near=one.near[place]) for one in shown)
        key, label = f"recovered.{name} {steps}", f"by any, after {steps:,} steps of {name}{runs}"
        yield make_figure("attacked", key, label, "share", curves[0].edited.n, base, edits)


def _list_trainings(found: Sequence[AttackResult]) -> Iterator[Figure]:
    """What each training of an attack with several settings recovers, and what it leaves the base:
    one that leaves little shows nothing where it recovers nothing."""
    name, runs = found[0].name, found[0].edited.runs
    for place, one in enumerate(found[0].trainings):
        every = [edit.trainings[place] if place < len(edit.trainings) else None for edit in found]
        if any(other is None or other.key != one.key for other in every):
            return
        left = one.base_left
        note = "" if left is None else f"{left:.0%} of what it gave is left after the last step"
        base = None if one.base is None else make_value(one.base, note=note, base_left=left)
        edits = [make_value(other.edited) for other in every if other is not None]
        key, label = f"recovered.{name} at {one.key}", f"by any, {name} at {one.key}"
        label += f", {runs}" if runs else ""
        yield make_figure("attacked", key, label, "share", found[0].edited.n, base, edits)


def describe_attacks(audit: Audit) -> Iterator[str]:
    """What the strongest attacks recover, and which count nothing."""
    if audit.strongest is not None:
        yield _describe_strongest(audit, audit.strongest)
    for one in audit.rated:
        if one.reached is not None and one.edited.count:
            yield f"{one.name} recovers most after {describe_setting(one.reached)}"
        if (doubt := one.find_doubt(one.edited.rate)) is not None:
            yield doubt
    if empty := [one.name for one in audit.rated if not one.edited.n]:
        yield f"no passage counts for {', '.join(empty)}"


def describe_taught(n: int, recovered: Mapping[str, SharePair]) -> str:
    """What the attacks recover of the `n` passages that the edit was taught: all there are."""
    found = {name: pair.edited for name, pair in recovered.items() if pair.edited.n}
    worst = max(found, key=lambda name: found[name].rate, default=None)
    if worst is None:
        return f"no passage that it was taught counts for the attacks (n = {n:,})"
    if not found[worst].count:
        return f"no attack recovers any of the {n:,} passages that it was taught"
    return f"of the {n:,} passages that it was taught, {worst} recovers {found[worst].told}"


def describe_setting(reached: Reached) -> str:
    how = f"training {reached.learned}"
    if reached.steps:
        how += f" for {reached.steps} steps at {reached.learning_rate:g}"
    every = reached.tried + reached.left_out
    some = f"{reached.tried} of its {every}" if reached.left_out else f"of {every}"
    return f"{how} ({some} settings{' ran' if reached.left_out else ''})"


def has_trained(audit: Audit | None) -> bool:
    """Whether an attack trained the model, and counts any passage. One of your own may, if it has a
    curve."""
    counting = audit.counting if audit else ()
    return any(one.name in TRAINING or one.curve is not None for one in counting)


def _describe_strongest(audit: Audit, worst: AttackResult) -> str:
    after, number, tied = worst.edited, len(audit.counting), [one.name for one in audit.tied]
    ns = [one.edited.n for one in audit.tied]
    n = " to ".join(dict.fromkeys(f"{end(ns):,}" for end in (min, max)))
    share = after.told if min(ns) == max(ns) else f"{after.rate:.1%} of {n}"
    what = "passages" if after.ci95 is not None else "passages that were listed"
    base = f"from the base, {worst.name} recovers {worst.base.told}" if worst.base else ""
    tail = base and f"; {base}"
    if not after.count and number > 1:
        text = f"none of {number} attacks recovers any of {n} {what}{tail}"
    elif len(tied) > 1:
        names = " and ".join([", ".join(tied[:-1]), tied[-1]])
        text = f"the strongest of {number} attacks tie: {names} each recover {share} {what}{tail}"
    else:
        only = "tried" if len(audit.rated) == 1 else "that counts any passage"
        which = f"strongest of {number} attacks" if number > 1 else f"only attack {only}"
        text = f"the {which}, {worst.name}, recovers {share} {what}"
        text += f"; from the base, {worst.base.told}" if worst.base else ""
    if worst.control is not None:
        text += f"; of text never trained on, {worst.control.told}"
    if not after.count:
        text += f"; {describe_membership(audit.areas)}"
    return text


def describe_membership(areas: Mapping[str, Area]) -> str:
    """What membership scores still tell of passages that no attack recovers. `areas`: by score."""
    if not areas:
        return "membership, which may still tell that they were trained on, was not tried"
    name, (area, ends) = max(areas.items(), key=lambda one: abs(one[1][0] - 0.5))
    if ends is not None and ends[0] <= 0.5 <= ends[1]:
        return f"no membership score is shown to tell that they were trained on (AUC {area:.2f})"
    said = "a membership score still tells that they were trained on"
    return f"{said} (AUC {area:.2f} by {name}; chance is 0.5)"


PICTURES = ("audit", "curves")


def draw_audit(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draws the object of `audit --json`.

    `audit`: a line per attack, with its shares and 95 % intervals. `curves`: what comes back over
    the steps of fine-tuning, for attacks that train.
    """
    rated = [attack for attack in result["attacks"] if "paired" in attack]
    drawn, n = [], result["n"]
    if rated:
        alone = rated[0]["base"] is None
        names = {} if alone else {"base": "base"}
        names |= {"edited": "the model" if alone else "edited", "control": "never trained on"}
        if all(attack["control"] is None for attack in rated):
            del names["control"]
        dots = {name: [_make_dot(attack[key]) for attack in rated] for key, name in names.items()}
        limits = {limit["name"]: limit["limit"] for limit in result["limits"]}
        chart = draw_dots(
            f"What an attacker recovers of {n} passages",
            "passages recovered, 95 % intervals",
            [_name_row(attack, n) for attack in rated],
            dots,
            [limits.get(attack["name"]) for attack in rated],
        )
        drawn += chart.save(folder, "audit")
    curves = {one["name"]: one["curve"]["edited"] for one in rated if one.get("curve")}
    if curves:
        series = [
            Series(
                name, [Point(x, 100 * y) for x, y in zip(one["stages"], one["any"], strict=True)]
            )
            for name, one in curves.items()
        ]
        panel = LinePanel("steps of fine-tuning", "recovered (any), %", series)
        title = "What comes back of the passages by fine-tuning"
        drawn += draw_lines(title, [[panel]]).save(folder, "curves")
    return drawn


def _make_dot(share: Mapping[str, Any] | None) -> Dot | None:
    return Dot(share["rate"], share["ci95"] or ()) if share is not None and share["n"] else None


def _name_row(attack: Mapping[str, Any], n: int) -> str:
    """With the number of passages that the attack counts, where it is not the number of all."""
    counted, name = attack["edited"]["n"], str(attack["name"])
    return (
        name if counted == n else f"{name} (n = {counted})" if counted else f"{name} (none counts)"
    )
