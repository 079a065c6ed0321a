"""Writes a report's sentences from what was found: verdicts, warnings, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence

from evals.measure.attacks.result import AttackResult
from evals.measure.differences import HeldOut
from evals.measure.verdicts import describe_limits, join_sentences, settle, shorten_list
from evals.report.attacks import UNTRAINED, describe_attacks, describe_taught, has_trained
from evals.report.costs import TaskResult
from evals.report.figures import Finding, Findings
from surgery.card.command import describe_training, name_texts, write_export_command
from surgery.card.percent import format_percent
from surgery.hub.embedded import find_lab
from surgery.record.report import Limit, MeasuredModel, Relation, Summary
from surgery.selection import format_selection, variant_name

RELATIONS: dict[Relation, str] = {
    "unrelated": "the base is not a recorded source of the edited model, so differences may have "
    "other causes than the edit",
    "not recorded": "no record says whether the edited model was made from the base",
}
"""What a verdict says first unless the one model is known to be an edit of the other."""
_FEW = 3
"""How many names of attacks a sentence may list."""


def write_commands(found: Findings) -> list[str]:
    """The commands that make the edits and their report again."""
    made = [command for edit in found.edits for command in _write_export_command(edit)]
    return [*dict.fromkeys(made), found.settings.to_command()]


def list_warnings(edit: Finding, base: MeasuredModel, limit: float | None) -> list[str]:
    """What to know before you rely on a figure. `limit`: of the request."""
    found = ["memorization was not measured; to measure it, give passages with --samples"]
    if edit.extraction is not None:
        found = list(edit.extraction["warnings"])
    tokenizers = {model.provenance.get("tokenizer_sha256") for model in (base, edit)}
    known = {
        "only a part of each benchmark was measured (--limit), so the model card leaves these "
        "figures out; evaluate without --limit before you publish": limit is not None,
        edit.chose.warning or "": edit.chose.warning,
        edit.void or "": edit.void,
        f"this is one of {edit.rivals + 1} results that were compared on these passages: the one "
        "that was kept for its figures may look a little better than it is, so evaluate it on "
        "other passages if you have them": edit.rivals > 0,
        "the base and the edited model have different tokenizers": len(tokenizers) > 1,
    }
    return found + [text for text, applies in known.items() if applies]


def _write_export_command(found: Finding) -> list[str]:
    """The command that made the edit, in the folder that was measured; empty if no single one did.

    Of a Hub id, the folder has the last part.
    """
    edit = found.edit
    if edit is None or edit.variant == "mixed" or edit.earlier_edits:
        return []
    erasing, drop_attn, variant = edit.erasing, edit.drop_attn, edit.variant
    if not edit.parts and erasing is not None:
        teacher = tuple(erasing.teacher)
        drop_attn, variant = format_selection(teacher, edit.num_heads or 0), variant_name(teacher)
        if variant == "mixed":
            return []
    plan = "plan.json" if edit.taught_by_choice else None  # of the search: only it says which
    text = edit.calibration or (erasing and erasing.calibration)
    taught, healed = (one.model_dump() if one else None for one in (erasing, edit.healing))
    lab = find_lab(edit.source) or "lab:pythia"  # all have the same text
    words = write_export_command(
        edit.source,
        revision=edit.commit,
        drop_attn=None if plan else drop_attn,
        plan=plan,
        variant=None if plan else variant,
        calibration=name_texts([source.name for source in (text.sources if text else ())]),
        **describe_training(taught, healed, lab),
        layout=edit.layout,
        family=edit.family,
        max_shard_size=edit.max_shard_size,
        output=found.name.rpartition("/")[2],
        cut=bool(edit.parts),
    )
    return [shlex.join(words)]


def write_verdict(edit: Finding, gates: Sequence[Limit] = (), limit: float | None = None) -> str:
    """The result in a few sentences, with reservations first. `limit`: of the request."""
    said = [RELATIONS[edit.relation]] if edit.relation in RELATIONS else []
    said += _describe_part(limit)
    said += [*_describe_choice(edit), _describe_recital(edit), *_describe_attacks(edit)]
    said += _describe_taught(edit)
    said += _describe_training(edit) if edit.audit and edit.audit.rated else ()
    said += _describe_cost(edit)
    if gates:
        said.append(_describe_gates(edit, gates))
    return join_sentences(said)


def summarize(edit: Finding, gates: Sequence[Limit] = (), limit: float | None = None) -> Summary:
    """The same for a reader in a hurry, in sentences. `limit`: of the request."""
    line = [RELATIONS[edit.relation]] if edit.relation in RELATIONS else []
    line.append(_describe_gates(edit, gates) if gates else _describe_shares(edit))
    line += _describe_training(edit)
    measured = edit.extraction is not None
    attacked = list(_describe_attacks(edit)) if measured else ["no attack was tried"]
    if measured and edit.audit is not None and edit.audit.rated and not edit.audit.not_tried:
        attacked.append("every kind of attack that attn-surgery knows was tried")
    cost = list(_describe_cost(edit)) or ["neither benchmarks nor held-out text were measured"]
    return Summary(
        line=join_sentences(line),
        recited=join_sentences(
            [_describe_recital(edit), *_describe_choice(edit), *_describe_taught(edit)]
        ),
        attacked=join_sentences(attacked),
        cost=join_sentences([*cost, *_describe_part(limit)]),
    )


def _describe_shares(edit: Finding) -> str:
    if edit.extraction is None:
        return "no limit was set, and memorization was not measured"
    return f"{_describe_recital(edit)}; no limit was set"


def _describe_part(limit: float | None) -> Iterator[str]:
    if limit is not None:
        part = f"{limit:g} documents" if limit >= 1 else f"{100 * limit:g}%"
        verb = "were" if limit >= 1 else "was"
        yield f"only the first {part} of each benchmark {verb} measured"


def _describe_cost(edit: Finding) -> Iterator[str]:
    if edit.tasks:
        yield _describe_tasks(edit.tasks)
    if edit.heldout is not None:
        yield _describe_loss(edit.heldout)


def _describe_choice(edit: Finding) -> Iterator[str]:
    """How much a search used that chose this edit, or another of the same report, if one did."""
    extraction, heldout, chose = edit.extraction, edit.heldout, edit.chose
    parts = [
        f"{number} of {number + part:,} {what}"
        for number, part, what in (
            (chose.passages, extraction["n"] if extraction else 0, "passages"),
            (chose.windows, heldout.n if heldout else 0, "windows of held-out text"),
        )
        if number and part
    ]
    if parts:
        yield f"a search used {' and '.join(parts)}; the figures leave these out"
    if chose.taught and not edit.is_whole:
        yield f"it was taught {chose.taught:,} passages; the figures leave these out"
    if extraction is not None and chose.doubt is not None:
        yield chose.doubt


def _describe_recital(edit: Finding) -> str:
    if (found := edit.extraction) is None:
        return "memorization was not measured"
    count, before = (one["exact_match"]["count"] for one in (found, found["baseline"]))
    which = f"{count} of {found['n']:,} passages"
    if edit.is_whole:
        which = f"{count or 'none'} of the {found['n']:,} passages that were listed"
    return f"recites {which} word for word; the base recites {before}"


def _describe_taught(edit: Finding) -> Iterator[str]:
    """What is left of the passages that it was taught, where the figures are of others."""
    if (taught := edit.taught) is None or not edit.chose.includes(taught.n):
        return
    count = taught.recited.edited.count
    yield f"of the {taught.n:,} passages that it was taught, it recites {count or 'none'}"
    if taught.recovered:
        yield describe_taught(taught.n, taught.recovered)


def _describe_attacks(edit: Finding) -> Iterator[str]:
    """What the strongest attacks recover, and what was not tried."""
    if edit.extraction is None:
        return
    if edit.audit is None or not edit.audit.rated:
        yield "no attack was tried, not even fine-tuning"
    else:
        yield from describe_attacks(edit.audit)
        for name, needs in edit.audit.skipped.items():
            yield f"{name} was asked for, but not possible: it needs {needs}"
        left = [name for name in edit.audit.not_tried if name not in edit.audit.skipped]
        if len(left) > _FEW:
            yield f"{len(left)} kinds of attack were not tried; the report's details name them"
        elif left:
            yield f"not tried: {', '.join(left)}"


def _describe_tasks(tasks: Mapping[str, TaskResult]) -> str:
    """Losses and inconclusive tasks by name; without losses, on how many tasks none is shown."""
    losses = [
        f"{name} ({task.metric} {task.base:.3g} to {task.edited:.3g}, n = {task.n:,})"
        for name, task in tasks.items()
        if task.outcome == "loss"
    ]
    unsure = [
        f"{name} (n = {task.n:,})" for name, task in tasks.items() if task.outcome == "inconclusive"
    ]
    others = [task.n for task in tasks.values() if task.outcome in ("none", "gain")]
    every = "the one task" if len(tasks) == 1 else f"any of {len(tasks)} tasks"
    parts = []
    if losses:
        parts.append(f"loss on {len(losses)} of {len(tasks)} tasks: {shorten_list(losses)}")
    elif others:
        n = " to ".join(dict.fromkeys(f"{end(others):,}" for end in (min, max)))
        where = f"{len(others)} of {len(tasks)} tasks" if unsure else every
        parts.append(f"no loss shown on {where} (n = {n})")
    if unsure:
        parts.append(f"inconclusive on {len(unsure)} of {len(tasks)} tasks: {shorten_list(unsure)}")
    return ", ".join(parts)


def _describe_loss(heldout: HeldOut) -> str:
    change = f"{heldout.difference.mean:+.3f} nats per token (n = {heldout.n:,})"
    if heldout.outcome == "none":
        change = f"no rise shown (n = {heldout.n:,})"
    elif heldout.outcome == "inconclusive":
        change = heldout.verdict
    return f"held-out loss: {change}"


def _describe_gates(edit: Finding, gates: Sequence[Limit]) -> str:
    alone = edit.unlisted is None
    said, state = describe_limits(gates, alone=alone), settle(gate.state for gate in gates)
    made = edit.edit
    if state != "missed" and made is not None and made.missed_alone:
        said = f"no edit of the search kept its limits on the passages that it used; here, {said}"
    if state == "kept" and edit.chose.doubt is not None:
        said = f"{said}, but {edit.chose.doubt}"
    on_tasks = all(gate.name.startswith("max-drop") for gate in gates)
    if state == "kept" and on_tasks:
        return f"{said}, but no limit was set on memorization: {_describe_recital(edit)}"
    if state == "kept" and (open_one := _find_unlimited(edit, gates)) is not None:
        share = f"{format_percent(open_one.edited.rate)}%"
        said += f", {'and' if ', but ' in said else 'but'} none is set on {open_one.name}, "
        said += f"which recovers {share}"
    return said


def _find_unlimited(edit: Finding, gates: Sequence[Limit]) -> AttackResult | None:
    """The strongest attack without a limit, if it recovers more than limits allow others."""
    limits = {
        gate.name.removeprefix("max ").replace("max-extraction", "greedy"): gate.limit
        for gate in gates
        if gate.name.startswith("max ") or gate.name == "max-extraction"
    }
    counting = edit.audit.counting if edit.audit else ()
    free = [one for one in counting if one.name not in limits]
    strongest = max(free, key=lambda one: one.strength, default=None)
    if strongest is None or not limits:
        return None
    return strongest if strongest.edited.rate > min(limits.values()) else None


def _describe_training(edit: Finding) -> Iterator[str]:
    """Says where the passages met no attack that trains, which brings back most."""
    if edit.extraction is not None and not has_trained(edit.audit):
        yield UNTRAINED
