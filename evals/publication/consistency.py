"""Whether the figures of a report agree: what follows from others is computed again, and compared.

A report is a file that anybody can edit. Nothing here can tell whether a passage was recited, but
a rate is its count over n, an interval follows from both, and a difference from what is compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evals.benchmarks.running import SEEDS
from evals.evaluation.comparing import concluded, find_resolution, outcome_of
from evals.evaluation.gates import find_limit
from evals.memorization.membership import is_overcorrected
from evals.statistics import SEED, Interval, mcnemar, paired_difference, recover_discordant, wilson

_MIDDLES = ("mean", "value", "difference", "auc", "rate")
_SHARES = ("next_token_accuracy", "extraction_strength")
_SUMS = (*_SHARES, "suffix_nll")


def recompute_report(report: Mapping[str, Any]) -> dict[str, Any]:
    """A report in which everything that follows from other figures is computed from them.

    `report`: as `Report.to_dict` gives it. Of an untouched one it is the same, but for roundings.
    What a report says of the edit is compared with its manifest instead.
    Raises ValueError, KeyError and the like for what is no report.
    """
    made: dict[str, Any] = _figures(report)
    settings, base = report["settings"], report["base"]
    named = {"models": [edit["name"] for edit in report["edits"]], "baseline": base["name"]}
    seeds = {"bootstrap": SEED, **SEEDS}
    return {
        **made,
        "base": _model(made["base"], settings),
        "edits": [
            _edit_report(edit, said, base, settings, report["provenance"]["samples_sha256"])
            for edit, said in zip(made["edits"], report["edits"], strict=True)
        ],
        "settings": {**settings, **named},
        "provenance": {**made["provenance"], "seeds": seeds},
    }


def _model(model: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    ran = {"model": model["name"], "dtype": settings["dtype"]}
    return {**model, "provenance": {**model["provenance"], **ran}}


def _edit_report(
    made: dict[str, Any],
    said: Mapping[str, Any],
    base: Mapping[str, Any],
    settings: Mapping[str, Any],
    whole: str | None,
) -> dict[str, Any]:
    """`whole`: the hash of all passages, of which a half may have chosen the edit."""
    made = _model(made, settings)
    made["tasks"] = {
        name: _task(task, find_limit(settings["max_drop"], name), settings)
        for name, task in made["tasks"].items()
    }
    if said["all_passages"] is None:  # no figure leaves any out
        made["chose"] = {key: value and 0 for key, value in said["chose"].items()}
    extraction = made["extraction"]
    if extraction is not None:
        samples = whole if said["all_passages"] is None else extraction["samples"]["sha256"]
        models = {"base": base["provenance"], "edited": made["provenance"]}
        made["extraction"] = _extraction(extraction, models, settings, samples)
        made["passages"] = [_row(row, settings["suffix_length"]) for row in said["passages"]]
    if said["audit"] is not None:
        made["audit"] = _audit(made["audit"], settings)
    if said["heldout"] is not None:
        made["heldout"] = _heldout(made["heldout"], extraction)
    return made


def _figures(value: Any, n: int = 0) -> Any:
    """Every rate from its count and n, wherever it stands; figures lie within their intervals.

    `n`: that of the object around. Where something has both `n` and `p`, they are its own terms.
    """
    if isinstance(value, list):
        return [_figures(item, n) for item in value]
    if not isinstance(value, Mapping):
        return value
    if "p" not in value:
        n = value.get("n", n)
    made = {key: _figures(inner, n) for key, inner in value.items()}
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


def _task(task: dict[str, Any], gate: float | None, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`gate`: the limit on the main metric."""
    main, limit = task["metric"], settings["limit"]
    size = settings["batch_size"]
    if size is None:
        size = max(task["batch_size"], 1)
    metrics = {
        key: _metric(metric, gate if key == main else None, limit)
        for key, metric in task["metrics"].items()
    }
    kept = {"verdict": task["verdict"], "batch_size": size}
    return {**task, **metrics[main], "metrics": metrics, **kept}


def _metric(metric: dict[str, Any], gate: float | None, limit: float | None) -> dict[str, Any]:
    """`limit`: on documents, where it is 1 or more."""
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
        made["ci95"] = paired_difference(lost, gained, n).as_list()
        made["p_value"] = mcnemar(lost, gained)
    elif n == 1:  # all that is drawn of one document is that document
        made["ci95"] = [difference, difference]
    return {**made, "outcome": _outcome(made)}


def _outcome(compared: Mapping[str, Any]) -> str:
    interval = Interval(*compared["ci95"])
    up = compared.get("higher_is_better", False)
    test = compared.get("test") or compared["difference"]["test"]
    found = outcome_of(interval, compared["p_value"], higher_is_better=up)
    size = {"n": compared["n"], "resampled": test != "mcnemar"}
    return concluded(found, interval, compared["resolution"], **size)


def _flips(lost: int, gained: int, n: int) -> tuple[float, list[float], float]:
    """Of paired yes and no: the difference, its interval, and the p-value."""
    lost, gained = (min(max(one, 0), n) for one in (lost, gained))
    ci95 = paired_difference(lost, gained, n).as_list()
    return (gained - lost) / n, ci95, mcnemar(lost, gained)


def _extraction(
    found: dict[str, Any],
    provenance: Mapping[str, Any],
    settings: Mapping[str, Any],
    samples: str | None,
) -> dict[str, Any]:
    lengths = {key: settings[key] for key in ("prefix_length", "suffix_length")}
    after, before = (_summary({**one, **lengths}) for one in (found, found["baseline"]))
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
        "paired": _paired(found["paired"], before, after),
        "samples": {**found["samples"], "rows": rows, "sha256": samples},
        "provenance": {
            **found["provenance"],
            **ran,
            "samples_sha256": samples,
            "seeds": {"bootstrap": SEED},
        },
    }


def _summary(summary: dict[str, Any]) -> dict[str, Any]:
    """One model's figures: what all strata give together, less those never trained on, is theirs.

    A share of tokens is at least that of passages that are recited whole.
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


def _paired(
    paired: Mapping[str, Any], before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    gained = paired["newly_extracted"]
    lost = before["exact_match"]["count"] - after["exact_match"]["count"] + gained
    value, ci95, p_value = _flips(lost, gained, after["n"])
    made = {
        **paired,
        "forgotten": lost,
        "p_value": p_value,
        "exact_match_difference": {"value": value, "ci95": ci95},
    }
    for name in _SUMS:
        if (key := f"{name}_difference") in paired:
            made[key] = {**paired[key], "mean": after[name]["mean"] - before[name]["mean"]}
    if "by_count" in paired:
        parts = (paired["by_count"], before["by_count"], after["by_count"])
        made["by_count"] = [
            {**_paired(*of), **{key: of[2][key] for key in ("count", "n")}}
            for of in zip(*parts, strict=True)
        ]
    if "selectivity" in paired:
        rise = after["control"]["nll"]["mean"] - before["control"]["nll"]["mean"]
        made["control_nll_difference"] = {**paired["control_nll_difference"], "mean": rise}
        value = made["suffix_nll_difference"]["mean"] - rise
        made["selectivity"] = {**paired["selectivity"], "value": value}
    return made


def _row(row: dict[str, Any], suffix: int) -> dict[str, Any]:
    """A passage: which tokens are right is told by where the first is wrong, within bounds."""
    made = dict(row)
    if "baseline" in row:
        made["baseline"] = _row(row["baseline"], suffix)
    at, right = row["first_divergence"], row["next_token_accuracy"]
    made["exact"] = at is None
    if at is not None:
        made["first_divergence"] = at = min(max(at, 0), suffix - 1)
    least, most = (suffix, suffix) if at is None else (at, suffix - 1)
    made["next_token_accuracy"] = min(max(round(right * suffix), least), most) / suffix
    return made


def _audit(audit: dict[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    attacks = []
    for name, attack in zip(settings["attack"], audit["attacks"], strict=True):
        made = {**attack, "name": name}
        if "paired" in attack:
            made |= _attack(attack, audit["n"], audit["control"]["n"])
        attacks.append(made)
    return {**audit, "attacks": attacks}


def _attack(attack: dict[str, Any], n: int, controls: int) -> dict[str, Any]:
    """Both models are attacked on the same passages, `n` or fewer; the control has `controls`."""
    before, after, control = (attack[role] for role in ("base", "edited", "control"))
    paired, tried = attack["paired"], min(after["n"], n)
    lost = before["count"] - after["count"] + paired["newly"]
    difference, ci95, p_value = _flips(lost, paired["newly"], tried)
    figures = {"difference": difference, "ci95": ci95, "p_value": p_value}
    made = {
        "base": {**before, "n": tried},
        "edited": {**after, "n": tried},
        "control": control and {**control, "n": min(control["n"], controls)},
        "paired": {**paired, "no_longer": lost, **figures},
    }
    if attack["curve"] is not None:
        made["curve"] = {
            role: curve and _curve(curve, attack[role], attack["curve"]["base"]["stages"])
            for role, curve in attack["curve"].items()
        }
    return made


def _curve(curve: dict[str, Any], share: Mapping[str, Any], stages: list[int]) -> dict[str, Any]:
    """Its last point is what counts; every other one is a share of the same passages."""
    n = share["n"]
    near, shares = ([round(one * n) / n for one in curve[key]] for key in ("near", "any"))
    return {**curve, "stages": sorted(stages), "near": near, "any": [*shares[:-1], share["rate"]]}


def _heldout(heldout: dict[str, Any], extraction: Mapping[str, Any] | None) -> dict[str, Any]:
    """The control of the memorization test, where there was one."""
    made, difference = dict(heldout), dict(heldout["difference"])
    if extraction is not None:
        before, after = (one["control"] for one in (extraction["baseline"], extraction))
        difference |= extraction["paired"]["control_nll_difference"]
        made |= {key: after[key] for key in ("kind", "n")}
        made |= {"base": before["nll"], "edited": after["nll"]}
    difference["mean"] = made["edited"]["mean"] - made["base"]["mean"]
    made["difference"] = difference
    made["resolution"] = find_resolution(1.0)
    return {**made, "outcome": _outcome({**made, **difference, "difference": difference})}
