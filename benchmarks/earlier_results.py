"""Reads figures of earlier versions, which had a JSON shape for each command, as rows of today's.

A row is a dictionary with the fields of `surgery.record.measured.Measured`, or of `Limit`, as far
as the shape has them. Passages: `main`, those that a command tests; or other ones, by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

Row = dict[str, Any]
Json = Mapping[str, Any]

_VALUES = ("value", "rate", "mean", "auc")
_CHANGES = {
    "difference": "difference", "value": "difference", "mean": "difference", "ci95": "ci95",
    "p_value": "p_value", "no_longer": "lost", "newly": "gained",
}  # fmt: skip
_RENAMED = {"exact_match": "recited", "heldout_loss": "heldout", "heldout_kl": "kl"}
_LIMITED = {"max-extraction": "recited", "max-drop": "task.", "max": "recovered."}
_OF_LIMITS = ("limit", "state", "value", "ci95", "n", "bound", "needed", "lacks", "description")
_TAUGHT = ", taught"
_SIDES = {"taught": "taught", "unlisted": "not listed", "all": "all", "all_passages": "all"}


def _make(name: str, of: str, on: str, told: Json, change: Json | None = None, **more: Any) -> Row:
    """`told`: a value with its interval, as any of the commands wrote it."""
    details = {key: told[key] for key in ("count", "bound", "overcorrected") if key in told}
    found = {"name": name, "of": of, "on": on, "details": details | more}
    found |= {key: told[key] for key in ("ci95", "n") if key in told}
    found |= {"runs": told["draws"]} if "draws" in told else {}
    found |= {"value": next(told[key] for key in _VALUES if key in told)}
    if change is not None:
        found["change"] = {new: change[key] for key, new in _CHANGES.items() if key in change}
    return found


def _read_limit(told: Json, of: str, on: str = "main") -> Row:
    """A limit. Its name is what people type."""
    name = told["name"]
    if name.endswith(_TAUGHT):
        name, on = name.removesuffix(_TAUGHT), "taught"
    kind, _, subject = name.partition(" ")
    known = kind in _LIMITED and (subject or kind == "max-extraction")
    figure = f"{_LIMITED[kind]}{subject}" if known else f"recovered.{name}"
    shown = {key: told[key] for key in _OF_LIMITS}
    return {"name": f"limit {figure}", "of": of, "on": on, **shown}


def read_extraction(result: Json) -> Iterator[Row]:
    paired, models = result.get("paired"), [("edited", result)]
    models += [("base", result["baseline"])] if "baseline" in result else []
    for of, told in models:
        moved = paired if of == "edited" else None
        yield from _read_measures(told, of, "main", moved)
        for place, part in enumerate(told.get("by_count", ())):
            change = moved and moved["by_count"][place]
            yield from _read_measures(part, of, "main", change, f".{part['count']}")
        if "non_members" in told:
            yield from _read_measures(told["non_members"], of, "never trained on", None)
        for score, area in told.get("membership", {}).items():
            yield _make(f"membership.{score}", of, "main", area)
        if (text := told.get("control")) is not None:
            change = moved and moved.get("control_nll_difference")
            yield _make("heldout", of, "main", {**text["nll"], "n": text["n"]}, change)
    if paired is not None and (rise := paired.get("selectivity")) is not None:
        yield _make("selectivity", "edited", "main", rise)
    for key in ("all_passages", "taught"):
        for of, told in ((result.get(key) or {}).get("recited") or {}).items():
            if told is not None:
                yield _make("recited", of, _SIDES[key], told)


def _read_measures(
    told: Json, of: str, on: str, paired: Json | None, part: str = ""
) -> Iterator[Row]:
    """Of one model; `paired`: its changes; `part`: of the rows, by how often these were seen."""
    n = {"n": told["n"]}
    for key, one in told.items():
        change = (paired or {}).get(f"{key}_difference")
        if key == "exact_match":
            if change is not None and paired is not None:
                lost, gained = paired["forgotten"], paired["newly_extracted"]
                flips = {"no_longer": lost, "newly": gained, "p_value": paired["p_value"]}
                change = {**change, **flips}
            yield _make(f"recited{part}", of, on, one | n, change)
        elif isinstance(one, dict) and "mean" in one:
            yield _make(f"{key}{part}", of, on, one | n, change)
        elif key == "near_match":
            for kind, share in one.items():
                yield _make(f"near_match.{kind}{part}", of, on, share | n)
        elif key == "probabilistic_extraction":
            for point in one["curve"]:
                name = f"{key}{part} {point['n']} {point['p']:g}"
                yield _make(name, of, on, point | n)


def read_audit(result: Json) -> Iterator[Row]:
    for attack in result["attacks"]:
        if "paired" not in attack:
            for of in ("base", "edited"):
                for score, area in (attack[of] or {}).items():
                    yield _make(f"membership.{score}", of, "main", area)
            continue
        name, reached = f"recovered.{attack['name']}", attack["reached"] or {}
        more = {{"tried": "settings"}.get(key, key): one for key, one in reached.items()}
        more |= {"doubt": attack["doubt"]} if attack["doubt"] else {}
        row = _make(name, "edited", "main", attack["edited"], attack["paired"], **more)
        if (above := attack["above_twin"]) is not None:
            row["above_twin"] = {key: above[key] for key in ("difference", "p_value")}
        yield row
        for of, on in (("base", "main"), ("twin", "main"), ("control", "never trained on")):
            if attack[of] is not None:
                yield _make(name, "edited" if of == "control" else of, on, attack[of])
        yield from _read_stages(name, attack)
    for key, on in _SIDES.items():
        for one, pair in ((result.get(key) or {}).get("recovered") or {}).items():
            for of in ("base", "edited"):
                if pair[of] is not None:
                    yield _make(f"recovered.{one}", of, on, pair[of])
    yield from (_read_limit(one, "edited") for one in result["limits"])


def _read_stages(name: str, attack: Json) -> Iterator[Row]:
    """What an attack that trains recovers after its stages, and by each of its trainings."""
    for of, curve in (attack["curve"] or {}).items():
        model, on = ("edited", "never trained on") if of == "control" else (of, "main")
        for place, steps in enumerate(curve["stages"] if curve else ()):
            told = {"value": curve["any"][place], "n": curve["n"], "draws": 1}
            yield _make(f"{name} {steps}", model, on, told, near=curve["near"][place])
    for one in attack["trainings"]:
        what = "" if one["learned"] == "all weights" else f" {one['learned']}"
        for of in ("base", "edited"):
            if one[of] is not None:
                left = {"base_left": one["base_left"]} if of == "base" else {}
                told = {"value": one[of], "n": attack["edited"]["n"]}
                yield _make(f"{name} at {one['learning_rate']:g}{what}", of, "main", told, **left)


def read_report(result: Json) -> Iterator[Row]:
    """Of report.json in schema 5: figures, each with the value of the base and of every edit."""
    several = len(result["edits"]) > 1
    for figure in result["figures"]:
        name, on, n = figure["key"], "main", {"n": figure["n"]}
        if name.partition(".")[0] in _SIDES:
            side, _, name = name.partition(".")
            on = _SIDES[side]
        if name in ("control_nll", "recited.twin"):
            continue  # the loss has another figure; an audit has the shares of the twin
        if figure["base"] is not None:
            yield from _read_edit(
                name, "base", on, {"change": None, "limit": None, **figure["base"]}, n
            )
        for place, told in enumerate(figure["edits"], 1):
            if told is not None:
                of = f"edited-{place}" if several else "edited"
                yield from _read_edit(name, of, on, told, n)


def _read_edit(name: str, of: str, on: str, told: Json, n: Json) -> Iterator[Row]:
    """A figure of an edit, its limit, and what it recovers of the control."""
    details, change = dict(told["details"]), told["change"]
    runs = {"draws": details.pop("draws")} if "draws" in details else {}
    flips = {key: details.pop(key) for key in ("no_longer", "newly") if key in details}
    never = {key: details.pop(key, None) for key in ("control", "control_n")}
    details |= {"settings": details.pop("tried")} if "tried" in details else {}
    yield _make(name, of, on, {**told, **n, **runs}, change and {**change, **flips}, **details)
    if never["control"] is not None:
        share = {"value": never["control"], "n": never["control_n"]}
        yield _make(name, of, "never trained on", share)
    if (limit := told["limit"]) is not None:
        yield _read_limit(limit, of, on)


def read_sweep(result: Json) -> Iterator[Row]:
    for one in (result["base"], *result["edits"]):
        of = f"{one['spec']} {one['variant']}" if one["spec"] else "base"
        yield from _read_point(one, of, "main")
        if (count := one.get("exact_count")) is not None:
            yield _make("recited", of, "main", {"value": one["exact_match"], "count": count,
                                                "ci95": one["exact_ci95"]})  # fmt: skip
        if (rise := one.get("heldout_rise")) is not None:
            yield _make("heldout", of, "main", {"value": one["heldout_loss"]}, rise)
        for task, told in (one.get("tasks") or {}).items():
            yield _make(f"task.{task}", of, "main", {"value": told["value"], "n": told["n"]})
    for unit in result.get("estimates", ()):
        for key in ("kl", "margin"):
            of = f"unit {unit['spec']} {unit['variant']}"
            yield _make(f"estimated_{key}", of, "main", {"value": unit[key]})


def read_search(result: Json) -> Iterator[Row]:
    back = {"selected": result["held_back"]}
    for of in ("base", "selected", "deep_blocks", "nearest"):
        if (told := result[of]) is None:
            continue
        halves = {"main": told, "held back": told.get("held_back") or back.get(of)}
        for on, half in halves.items():
            if half is not None:
                yield from _read_point(half, of, on)
                ends = {"value": half["exact_match"], "ci95": half["exact_match_ci95"]}
                yield _make("recited", of, on, ends)
                yield from (_read_limit(one, of, on) for one in half["limits"])
    for key in ("front", "measured"):
        for place, point in enumerate(result[key], 1):
            yield from _read_point(point, f"{key} {place}", "main")


def _read_point(told: Json, of: str, on: str) -> Iterator[Row]:
    """Values without intervals: of an edit of a sweep or a search."""
    shares = told.get("recovered")
    shares = shares if isinstance(shares, dict) else dict(told.get("rates", ()))
    costs = dict(told.get("costs") or ())
    plain = {f"recovered.{name}": share for name, share in shares.items()}
    plain |= {f"recovered.{name}": share for name, share, _ in told.get("attacked", ())}
    plain |= {f"kl.{name}": nats for name, nats in costs.items() if name != "kl"}
    plain |= {_RENAMED.get(key, key): one for key, one in told.items() if key not in plain}
    for name, value in plain.items():
        if isinstance(value, float) and name not in ("recovered", "cost", "healed_rise"):
            yield _make(name, of, on, {"value": value})


READERS: dict[str, Callable[[Json], Iterator[Row]]] = {
    "extract": read_extraction,
    "audit": read_audit,
    "evaluate": read_report,
    "sweep": read_sweep,
    "search": read_search,
}
