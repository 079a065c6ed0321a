"""Checks that a report's figures agree: computes again what follows from other figures.

Anybody can edit a report. Nothing here can know whether a passage was recited. But a rate is its
count over n, an interval follows from both, and a difference from what it compares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.benchmarks.running import SEEDS
from evals.evaluation.comparing import draw_conclusion, find_resolution
from evals.evaluation.gates import find_limit
from evals.memorization.membership import is_overcorrected
from evals.statistics import SEED, Interval, count_flips, recover_discordant, wilson

_MIDDLES = ("mean", "value", "difference", "auc", "rate")
_SHARES = ("next_token_accuracy", "extraction_strength")
_SUMS = (*_SHARES, "suffix_nll")


def recompute_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """Computes again everything in a report that follows from other figures.

    `report`: from `Report.to_dict`. An untouched report stays the same, except for roundings. The
    facts about the edit are checked against its manifest instead. Raises ValueError, KeyError and
    similar errors for an invalid report.
    """
    made: dict[str, Any] = _redo_figures(report)
    settings, base = report["settings"], report["base"]
    named = {"models": [edit["name"] for edit in report["edits"]], "baseline": base["name"]}
    seeds = {"bootstrap": SEED, **SEEDS}
    return {
        **made,
        "base": _redo_model(made["base"], settings),
        "edits": [
            _redo_edit(edit, said, base, settings, report["provenance"]["samples_sha256"])
            for edit, said in zip(made["edits"], report["edits"], strict=True)
        ],
        "settings": {**settings, **named},
        "provenance": {**made["provenance"], "seeds": seeds},
    }


def _redo_model(model: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    ran = {"model": model["name"], "dtype": settings["dtype"]}
    return {**model, "provenance": {**model["provenance"], **ran}}


def _redo_edit(
    made: dict[str, Any],
    said: Mapping[str, Any],
    base: Mapping[str, Any],
    settings: Mapping[str, Any],
    whole: str | None,
) -> dict[str, Any]:
    """`whole`: the hash of all passages, including a half that chose the edit."""
    made = _redo_model(made, settings)
    made["tasks"] = {
        name: _redo_task(task, find_limit(settings["max_drop"], name), settings)
        for name, task in made["tasks"].items()
    }
    if said["all_passages"] is None:  # the figures leave none out
        made["chose"] = {key: value and 0 for key, value in said["chose"].items()}
    extraction = made["extraction"]
    if extraction is not None:
        samples = whole if said["all_passages"] is None else extraction["samples"]["sha256"]
        models = {"base": base["provenance"], "edited": made["provenance"]}
        made["extraction"] = _redo_extraction(extraction, models, settings, samples)
        made["passages"] = [_redo_row(row, settings["suffix_length"]) for row in said["passages"]]
    if said["audit"] is not None:
        made["audit"] = _redo_audit(made["audit"], settings)
    if said["heldout"] is not None:
        made["heldout"] = _redo_heldout(made["heldout"], extraction)
    return made


def _redo_figures(value: Any, n: int = 0) -> Any:
    """Makes each rate from its count and n, and keeps figures within their intervals.

    `n`: of the enclosing object. If an object has both `n` and `p`, they are its own terms.
    """
    if isinstance(value, list):
        return [_redo_figures(item, n) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "p" not in value:
        n = value.get("n", n)
    made = {key: _redo_figures(inner, n) for key, inner in value.items()}
    if {"count", "rate", "ci95"} <= value.keys():
        n = max(n, 1)
        count = min(max(value["count"], 0), n)
        made |= {"count": count, "rate": count / n, "ci95": wilson(count, n).as_list()}
        return {**made, "n": n} if "n" in made and "p" not in made else made
    middle = next((key for key in _MIDDLES if isinstance(value.get(key), int | float)), None)
    if middle is not None and "ci95" in value:
        low, high = value["ci95"]
        made["ci95"] = [min(low, value[middle]), max(high, value[middle])]
    if "overcorrected" in value:
        made["overcorrected"] = is_overcorrected(value["auc"], value["ci95"][1])
        made["auc"] = min(max(value["auc"], 0.0), 1.0)
    if isinstance(p := value.get("p_value"), float):
        made["p_value"] = min(max(p, 0.0), 1.0)
    return made


def _redo_task(
    task: dict[str, Any], gate: float | None, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """`gate`: the limit on the main metric."""
    main, limit = task["metric"], settings["limit"]
    size = settings["batch_size"]
    if size is None:
        size = max(task["batch_size"], 1)
    metrics = {
        key: _redo_metric(metric, gate if key == main else None, limit)
        for key, metric in task["metrics"].items()
    }
    kept = {"verdict": task["verdict"], "batch_size": size}
    return {**task, **metrics[main], "metrics": metrics, **kept}


def _redo_metric(metric: dict[str, Any], gate: float | None, limit: float | None) -> dict[str, Any]:
    """`limit`: a number of documents if it is 1 or more."""
    n, difference = max(metric["n"], 1), metric["edited"] - metric["base"]
    n = min(n, int(limit)) if limit is not None and limit >= 1 else n
    relative = metric["drop_is_relative"]
    drop = difference / (metric["base"] or 1.0) if relative else difference
    made = {**metric, "n": n, "difference": difference}
    made["drop"] = -drop if metric["higher_is_better"] else drop
    made["resolution"] = find_resolution(metric["base"], gate, relative=relative)
    if metric["test"] == "mcnemar":
        made |= {role: round(metric[role] * n) / n for role in ("base", "edited")}
        lost, gained = recover_discordant(difference, Interval(*metric["ci95"]), n)
        flips = count_flips(lost, gained, n)
        made |= {"ci95": flips.ci95, "p_value": flips.p_value}
    elif n == 1:  # every resample of one document is that document
        made["ci95"] = [difference, difference]
    return {**made, "outcome": _redo_outcome(made)}


def _redo_outcome(compared: Mapping[str, Any]) -> str:
    return draw_conclusion(
        Interval(*compared["ci95"]),
        compared["p_value"],
        compared["resolution"],
        compared["n"],
        higher_is_better=compared.get("higher_is_better", False),
        resampled=compared.get("test") != "mcnemar",
    )


def _redo_extraction(
    found: dict[str, Any],
    provenance: Mapping[str, Any],
    settings: Mapping[str, Any],
    samples: str | None,
) -> dict[str, Any]:
    lengths = {key: settings[key] for key in ("prefix_length", "suffix_length")}
    after, before = (_redo_summary({**one, **lengths}) for one in (found, found["baseline"]))
    rows = after["n"] + after.get("non_members", {"n": 0})["n"]
    ran = {}
    for role, name in (("edited", "model"), ("base", "baseline")):
        known, recorded = provenance[role], found["provenance"][name]
        ran[name] = {key: known.get(key, value) for key, value in recorded.items()}
    before["n"] = after["n"]
    if "control" in before and "control" in after:
        alike = {key: after["control"][key] for key in ("kind", "n", "sha256")}
        before["control"] = {**before["control"], **alike}
    return {
        **after,
        "baseline": before,
        "paired": _redo_paired(found["paired"], before, after),
        "samples": {**found["samples"], "rows": rows, "sha256": samples},
        "provenance": {
            **found["provenance"],
            **ran,
            "samples_sha256": samples,
            "seeds": {"bootstrap": SEED},
        },
    }


def _redo_summary(summary: dict[str, Any]) -> dict[str, Any]:
    """One model's figures: the sum over all strata, minus the passages never trained on.

    The share of right tokens is at least the share of passages recited whole.
    """
    made, suffix = dict(summary), summary["suffix_length"]
    if strata := summary.get("by_count"):
        parts = [(1, part) for part in strata]
        parts += [(-1, part) for key, part in summary.items() if key == "non_members"]
        n = max(sum(sign * part["n"] for sign, part in parts), 1)
        count = sum(sign * part["exact_match"]["count"] for sign, part in parts)
        made |= {"n": n, "exact_match": {**summary["exact_match"], "count": count}}
        for name in (name for name in _SUMS if name in strata[0]):
            total = sum(sign * part["n"] * part[name]["mean"] for sign, part in parts)
            made[name] = {**summary[name], "mean": total / n}
    for part in (made, *made.get("by_count", ())):
        rate = part["exact_match"]["rate"]
        for name in (name for name in _SHARES if name in part):
            mean = min(max(part[name]["mean"], rate), 1 - (1 - rate) / suffix)
            part[name] = {**part[name], "mean": mean}
    return made


def _redo_paired(
    paired: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    gained = paired["newly_extracted"]
    lost = before["exact_match"]["count"] - after["exact_match"]["count"] + gained
    flips = count_flips(lost, gained, after["n"])
    made = {
        **paired,
        "forgotten": lost,
        "p_value": flips.p_value,
        "exact_match_difference": {"value": flips.difference, "ci95": flips.ci95},
    }
    for name in _SUMS:
        if (key := f"{name}_difference") in paired:
            made[key] = {**paired[key], "mean": after[name]["mean"] - before[name]["mean"]}
    if "by_count" in paired:
        parts = (paired["by_count"], before["by_count"], after["by_count"])
        made["by_count"] = [
            {**_redo_paired(*of), **{key: of[2][key] for key in ("count", "n")}}
            for of in zip(*parts, strict=True)
        ]
    if "selectivity" in paired:
        rise = after["control"]["nll"]["mean"] - before["control"]["nll"]["mean"]
        made["control_nll_difference"] = {**paired["control_nll_difference"], "mean": rise}
        value = made["suffix_nll_difference"]["mean"] - rise
        made["selectivity"] = {**paired["selectivity"], "value": value}
    return made


def _redo_row(row: dict[str, Any], suffix: int) -> dict[str, Any]:
    """A passage: the place of the first wrong token bounds how many are right."""
    made = dict(row)
    if "baseline" in row:
        made["baseline"] = _redo_row(row["baseline"], suffix)
    at, right = row["first_divergence"], row["next_token_accuracy"]
    made["exact"] = at is None
    if at is not None:
        made["first_divergence"] = at = min(max(at, 0), suffix - 1)
    least, most = (suffix, suffix) if at is None else (at, suffix - 1)
    made["next_token_accuracy"] = min(max(round(right * suffix), least), most) / suffix
    return made


def _redo_audit(audit: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    n, controls = audit["n"], audit["control"]["n"]
    names = [name for name in settings["attack"] if name not in audit["skipped"]]
    attacks = [
        {**one, "name": name, **(_redo_attack(one, n, controls) if "paired" in one else {})}
        for name, one in zip(names, audit["attacks"], strict=True)
    ]
    return {**audit, "attacks": attacks}


def _redo_attack(attack: dict[str, Any], n: int, controls: int) -> dict[str, Any]:
    """Both models face the same passages, `n` or fewer; the control has up to `controls`."""
    before, after, control, paired = (attack[k] for k in ("base", "edited", "control", "paired"))
    tried = min(after["n"], n)
    lost = before["count"] - after["count"] + paired["newly"]
    flips = count_flips(lost, paired["newly"], tried)._asdict()
    figures = {key: flips[key] for key in ("difference", "ci95", "p_value")}
    made = {
        "base": {**before, "n": tried},
        "edited": {**after, "n": tried},
        "control": control and {**control, "n": min(control["n"], controls)},
        "paired": {**paired, "no_longer": lost, **figures},
    }
    if attack["curve"] is not None:
        made["curve"] = {
            role: curve and _redo_curve(curve, attack[role], attack["curve"]["base"]["stages"])
            for role, curve in attack["curve"].items()
        }
    return made


def _redo_curve(
    curve: dict[str, Any], share: Mapping[str, Any], stages: list[int]
) -> dict[str, Any]:
    """The last point is the attack's share. The others are shares of the same passages."""
    n = share["n"]
    near, shares = ([round(one * n) / n for one in curve[key]] for key in ("near", "any"))
    return {**curve, "stages": sorted(stages), "near": near, "any": [*shares[:-1], share["rate"]]}


def _redo_heldout(heldout: dict[str, Any], extraction: Mapping[str, Any] | None) -> dict[str, Any]:
    """The control of the memorization test, if there was one."""
    made, difference = dict(heldout), dict(heldout["difference"])
    if extraction is not None:
        before, after = (one["control"] for one in (extraction["baseline"], extraction))
        difference |= extraction["paired"]["control_nll_difference"]
        made |= {key: after[key] for key in ("kind", "n")}
        made |= {"base": before["nll"], "edited": after["nll"]}
    difference["mean"] = made["edited"]["mean"] - made["base"]["mean"]
    made |= {"difference": difference, "resolution": find_resolution(1.0)}
    return {**made, "outcome": _redo_outcome({**made, **difference})}
