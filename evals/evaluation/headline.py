"""A report's sentences, made from its figures: verdicts, gates, warnings, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from evals.attacks.names import list_untried
from evals.attacks.result import Audit
from evals.evaluation.conclusions import list_warnings
from evals.evaluation.gates import check_gates
from evals.evaluation.report import EditReport, EditSummary, Gate, Relation, Report, TaskResult

RELATIONS: dict[Relation, str] = {
    "unrelated": "the models are unrelated: the base is no recorded source of the edited model",
    "not recorded": "the relation of the models is not recorded",
}
"""What must be said first where it is not known that one model is an edit of the other."""


def write_sentences(report: Report) -> Report:
    """The report with the gates, warnings, verdicts and commands that follow from its figures."""
    settings, edits = report.settings, []
    for edit in report.edits:
        gates = check_gates(edit, settings)
        known = {
            "gates": gates,
            "passed": all(gate.ok for gate in gates) if gates else None,
            "warnings": list_warnings(edit, report.base, settings.limit),
        }
        edit = edit.model_copy(update=known)
        edits.append(edit.model_copy(update={"verdict": verdict(edit, settings.limit)}))
    made = [command for edit in edits for command in _export_command(edit.edit)]
    commands = [*dict.fromkeys(made), settings.to_command()]
    return report.model_copy(update={"edits": edits, "commands": commands})


def _export_command(edit: EditSummary | None) -> list[str]:
    """The command that made the edit; empty where no single one did."""
    if edit is None or edit.variant == "mixed" or edit.earlier_edits:
        return []
    command = ["attn-surgery", "export", edit.source, "--drop-attn", edit.drop_attn]
    command += ["--variant", edit.variant, "--layout", edit.layout]
    for source in (edit.calibration or {}).get("sources", ()):
        if source.get("sha256"):
            command += ["--calibration", source["name"]]
    return [shlex.join([*command, "--output", "OUT"])]


def verdict(edit: EditReport, limit: float | None = None) -> str:
    """The result in a few sentences, after what must be known first. `limit`: of the request."""
    extraction, heldout, chose = edit.extraction, edit.heldout, edit.chose
    said = [RELATIONS[edit.relation]] if edit.relation in RELATIONS else []
    if limit is not None:
        part = f"the first {limit:g} documents" if limit >= 1 else f"the first {limit:.2%}"
        said.append(f"of each benchmark only {part} were measured")
    chosen_on = [
        f"{number} of {number + part:,} {what}"
        for number, part, what in (
            (chose.passages, extraction["n"] if extraction else 0, "passages"),
            (chose.windows, heldout.n if heldout else 0, "windows of held-out text"),
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
    said += _of_attacks(edit.audit) if extraction else []
    if edit.tasks:
        said.append(_of_tasks(edit.tasks))
    if heldout is not None:
        changes = {"none": f"no rise shown (n = {heldout.n:,})", "inconclusive": heldout.verdict}
        shown = f"{heldout.difference.mean:+.3f} nats per token (n = {heldout.n:,})"
        said.append(f"held-out loss: {changes.get(heldout.outcome, shown)}")
    if edit.gates:
        said.append(_of_gates(edit.gates))
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


def _of_tasks(tasks: Mapping[str, TaskResult]) -> str:
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
