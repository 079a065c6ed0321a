"""Both models' outcomes -> what an audit found: for the report of an evaluation, and as a folder
with audit.json and a picture of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from evals.attacks import membership
from evals.attacks.attack import Attack, Outcome
from evals.attacks.audit import Audited, Protocol, attack_of
from evals.attacks.picture import draw_audit
from evals.attacks.result import Audit, Tried
from evals.memorization.measures import Flags
from evals.models import check_precision
from evals.statistics import judged, mcnemar, paired_difference, rate
from surgery.output import atomic_folder, known_by, write_lines
from surgery.record.manifest import versions

owned = known_by("audit.json", ("attacks", "limits"), "audit.png", "audit.svg")


def result_of(
    protocol: Protocol, base: Audited, edited: Audited, counted: Flags | None = None
) -> Audit:
    """Both models' outcomes side by side, in the order of the protocol.

    `counted`: bool [N], the passages that count; by default all do.

    Raises `MeasurementError` where they ran in different precisions.
    """
    ours = edited.provenance
    check_precision(base.provenance["dtype"], ours["dtype"], ours["model"])
    if counted is None:
        counted = np.ones(len(protocol.passages), dtype=np.bool_)
    return Audit.model_validate(
        {
            "n": int(counted.sum()),
            "control": {
                "kind": "text" if protocol.samples.trained_on.all() else "non-members",
                "n": len(protocol.control),
            },
            "attacks": [_tried(name, base, edited, counted) for name in protocol.attacks],
        }
    )


def report(
    protocol: Protocol, base: Audited, edited: Audited, limits: Mapping[str, float]
) -> dict[str, Any]:
    """The JSON object of `audit --json`. `limits`: attack → the highest rate that is allowed."""
    found = result_of(protocol, base, edited)
    return {
        **found.to_dict(),
        "prefix_length": protocol.samples.prefix_length,
        "suffix_length": protocol.samples.suffix_length,
        "limits": [_limit(one, limits[one.name]) for one in found.rated if one.name in limits],
        "provenance": {
            "base": base.provenance,
            "edited": edited.provenance,
            "samples_sha256": protocol.samples.sha256,
            "versions": versions(),
        },
    }


def write_audit(
    folder: Path, result: Mapping[str, Any], *, overwrite: bool = False, config: str | None = None
) -> None:
    """What `report` gives, and config.yaml: all at once."""
    with atomic_folder(folder, owned, overwrite=overwrite, config=config) as partial:
        write_lines(partial / "audit.json", [json.dumps(result, indent=2)])
        draw_audit(result, partial)


def described(name: str) -> dict[str, str]:
    """The texts of the attack that is named so. Raises `MeasurementError` for any other name."""
    if name == membership.NAME:
        return membership.DESCRIBED
    attack = attack_of(name)
    return {key: getattr(attack, key) for key in ("setting", "definition", "source", "cost")}


def _tried(name: str, base: Audited, edited: Audited, counted: Flags) -> dict[str, Any]:
    seconds = base.seconds[name] + edited.seconds[name]
    record: dict[str, Any] = {"name": name, **described(name), "seconds": seconds}
    if name == membership.NAME:
        both = {"base": base.scores, "edited": edited.scores}
        areas = {key: found and membership.areas(found, counted) for key, found in both.items()}
        return {**record, **areas}
    before, after = (one.passages[name].part(counted) for one in (base, edited))
    outcomes = {"base": before, "edited": after, "control": edited.control.get(name)}
    record |= {key: outcome and _share(outcome) for key, outcome in outcomes.items()}
    record["paired"] = _paired(before, after)
    if (attack := attack_of(name)).stages and after.tried.any():
        record["curve"] = {key: made and _curve(attack, made) for key, made in outcomes.items()}
    return record


def _counted(outcome: Outcome) -> Flags:
    """Of 2 or 3 passages none may be left: the one held back may be the one that was relearned."""
    return outcome.recovered[outcome.tried]


def _curve(attack: Attack, outcome: Outcome) -> dict[str, Any]:
    rates = {
        measure: [float(flags.mean()) for flags in stages[:, outcome.tried]]
        for measure, stages in outcome.curve.items()
    }
    return {"stages": list(attack.stages), **rates}


def _share(outcome: Outcome) -> dict[str, Any]:
    flags = _counted(outcome)
    return {"n": len(flags), **rate(flags)}


def _paired(base: Outcome, edited: Outcome) -> dict[str, Any]:
    before, after = _counted(base), _counted(edited)
    lost, gained = int((before & ~after).sum()), int((after & ~before).sum())
    return {
        "no_longer": lost,
        "newly": gained,
        "difference": (gained - lost) / max(1, len(after)),
        "ci95": paired_difference(lost, gained, len(after)).as_list(),
        "p_value": mcnemar(lost, gained),
    }


def _limit(tried: Tried, limit: float) -> dict[str, Any]:
    found = tried.edited
    ok, conclusive = judged(found.rate, found.ci95, limit)
    return {
        "name": tried.name,
        "ok": ok,
        "limit": limit,
        "value": found.rate,
        "ci95": list(found.ci95),
        "n": found.n,
        "conclusive": conclusive,
    }
