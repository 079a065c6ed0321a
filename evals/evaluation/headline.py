"""The result of an evaluation in a few plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from evals.attacks.names import list_untried
from evals.attacks.result import Audit
from evals.evaluation.conclusions import (
    evaluate_command,
    export_command,
    trade_off_of,
    warnings_of,
)
from evals.evaluation.gates import DropLimit, check_gates
from evals.evaluation.report import Gate, HeldOut, Point, Relation, Report, Task
from evals.samples.held_back import Chose

RELATIONS: dict[Relation, str] = {
    "unrelated": "the models are unrelated: the base is no recorded source of the edited model",
    "not recorded": "the relation of the models is not recorded",
}
"""What must be said first where it is not known that one model is an edit of the other."""


def with_sentences(report: Report, front: Sequence[Point] = ()) -> Report:
    """The report with gates, trade-off, warnings, commands and verdict made from its figures.

    `front`: points that a search found, for the trade-off.
    """
    settings, models, provenance = report.settings, report.models, report.provenance
    extraction, heldout = report.extraction, report.heldout
    limits = [DropLimit(pattern, limit) for pattern, limit in settings.max_drop.items()]
    highest = (settings.max_extraction, report.audit, settings.max_recovered)
    gates = check_gates(report.tasks, extraction, limits, *highest)
    measured = (report.tasks, extraction, report.audit, heldout, gates)
    models_are = (provenance.base, provenance.edited)
    known = warnings_of(report.chose, settings.limit, extraction, *models_are)
    evaluated = evaluate_command(models, provenance.edited.get("revision"), settings)
    return report.model_copy(
        update={
            "verdict": verdict(
                *measured, relation=report.relation, limit=settings.limit, chose=report.chose
            ),
            "gates": gates,
            "trade_off": trade_off_of(models, extraction, heldout, front),
            "warnings": known,
            "commands": [*export_command(report.edit), evaluated],
        }
    )


def verdict(
    tasks: Mapping[str, Task],
    extraction: dict[str, Any] | None,
    audit: Audit | None,
    heldout: HeldOut | None,
    gates: Sequence[Gate],
    *,
    relation: Relation = "source",
    limit: float | None = None,
    chose: Chose | None = None,
) -> str:
    """The result in a few sentences, after what must be known first. `limit`: of `Settings`."""
    said = [RELATIONS[relation]] if relation in RELATIONS else []
    if limit is not None:
        part = f"the first {limit:g} documents" if limit >= 1 else f"the first {limit:.2%}"
        said.append(f"of each benchmark only {part} were measured")
    chosen_on = [
        f"{number} of {number + part:,} {what}"
        for number, part, what in (
            (chose and chose.passages, extraction["n"] if extraction else 0, "passages"),
            (chose and chose.windows, heldout.n if heldout else 0, "windows of held-out text"),
        )
        if number and part
    ]
    if chosen_on:
        what = " and ".join(chosen_on)
        said.append(f"a search used {what} to choose an edit; figures are of the others")
    if extraction is None:
        said.append("memorization was not measured")
    else:
        count, before = (
            part["exact_match"]["count"] for part in (extraction, extraction["baseline"])
        )
        said.append(
            f"recites {count} of {extraction['n']:,} passages word for word, the base {before}"
        )
    said += _of_attacks(audit) if extraction else []
    if tasks:
        said.append(_of_tasks(tasks))
    if heldout is not None:
        changes = {"none": f"no rise shown (n = {heldout.n:,})", "inconclusive": heldout.verdict}
        shown = f"{heldout.difference.mean:+.3f} nats per token (n = {heldout.n:,})"
        said.append(f"held-out loss: {changes.get(heldout.outcome, shown)}")
    if gates:
        said.append(_of_gates(gates))
    return " ".join(f"{sentence[0].upper()}{sentence[1:]}." for sentence in said)


def _of_attacks(audit: Audit | None) -> Iterator[str]:
    """What the strongest attacks get, and what was not tried."""
    worst = audit.strongest if audit else None
    if audit is None or worst is None:
        yield "no attack was tried, fine-tuning included"
    else:
        of, number, tied = worst.edited, len(audit.rated), [one.name for one in audit.tied]
        base = f"{worst.base.count} of {worst.base.n:,}"
        if not of.count and number > 1:
            told = f"none of {number} attacks recovers any of {of.n:,} passages; from the base, "
            told += f"{worst.name} recovers {base}"
        else:
            who = f"the strongest of {number} attacks" if number > 1 else "the one attack tried"
            share = f"{of.count} of {of.n:,} passages"
            if len(tied) > 1:
                told = f"{who} are {_listed(tied)}, which tie: each recovers {share}"
            else:
                told = f"{who}, {worst.name}, recovers {share}"
            told += f"; from the base, {base}"
        if worst.control is not None:
            told += f"; of text never trained on, {worst.control.count} of {worst.control.n:,}"
        yield told
        if left := list_untried([one.name for one in audit.attacks if one.edited is not None]):
            yield f"not tried: {', '.join(left)}"


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _of_tasks(tasks: Mapping[str, Task]) -> str:
    """Losses and what is inconclusive, by name; without losses, on how many tasks none is shown."""
    losses = [
        f"{name} ({task.metric} {task.base:.3g} to {task.edited:.3g}, n = {task.n:,})"
        for name, task in tasks.items()
        if task.outcome == "loss"
    ]
    unsure = [
        f"{name} (n = {task.n:,})" for name, task in tasks.items() if task.outcome == "inconclusive"
    ]
    others = [task.n for task in tasks.values() if task.outcome in ("none", "gain")]
    every = "its task" if len(tasks) == 1 else f"any of {len(tasks)} tasks"
    parts = []
    if losses:
        parts.append(f"loss on {len(losses)} of {len(tasks)} tasks: {_first(losses)}")
    elif others:
        n = " to ".join(dict.fromkeys(f"{end(others):,}" for end in (min, max)))
        where = f"{len(others)} of {len(tasks)} tasks" if unsure else every
        parts.append(f"no loss shown on {where} (n = {n})")
    if unsure:
        parts.append(f"inconclusive on {len(unsure)} of {len(tasks)} tasks: {_first(unsure)}")
    return ", ".join(parts)


def _of_gates(gates: Sequence[Gate]) -> str:
    failed = [gate.name for gate in gates if not gate.ok]
    if failed:
        return f"it may not ship by its gates, failed: {_first(failed)}"
    unsure = [f"{gate.name} (n = {gate.n:,})" for gate in gates if not gate.conclusive]
    if unsure:
        return f"every gate holds as measured, but inconclusive: {_first(unsure)}"
    return "it may ship by its gates: every one holds"


def _first(names: Sequence[str], most: int = 5) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")
