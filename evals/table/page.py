"""Renders a report for people: one self-contained HTML file, and Markdown of the same figures.

The page loads nothing and runs no script.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from evals.table.charts.pictures import draw_trade_off
from evals.table.words import STATES, compare_attackers, explain
from surgery.card.facts import as_line
from surgery.card.measurements import (
    describe_limit,
    list_tables,
    name_edits,
    render_measurements,
    show,
)
from surgery.record.manifest import BlockFit, History
from surgery.record.measured import State
from surgery.record.report import EditRecord, Report
from surgery.selection import format_selection
from surgery.variants import VARIANTS

LIMITS = (
    "These tests cannot show that a passage is gone, so they are not a privacy guarantee. Other "
    "prefixes, sampling, or fine-tuning may still bring it out.",
    "Intervals cover the choice of these documents and passages. They say nothing about other "
    "kinds of documents and passages.",
    "The figures hold for the precision, device and versions below.",
)


def render_pages(report: Report) -> dict[str, str]:
    """The content of report.html and report.md."""
    made = {"report.html": render_html(report), "report.md": render_markdown(report)}
    return {name: text.rstrip("\n") + "\n" for name, text in made.items()}


def render_html(report: Report) -> str:
    """The whole page, with every text of the report escaped."""
    plain, names = report.to_dict(), name_edits(report)
    ran = {"Run": plain["settings"] | plain["provenance"]}
    if report.base is not None:
        ran["Base"] = plain["base"]["provenance"]
    for edit in report.edits:
        ran[f"Edit: {edit.name}"] = {**edit.provenance, **dict(_list_untried(edit))}
    limits = [report.list_limits(edit.of) for edit in report.edits]
    decided = {edit.state for edit in report.edits} | {limit.state for limit in report.limits}
    text: str = _load_template().render(
        report=report,
        title=_write_title(report),
        names=names,
        tables=list_tables(report),
        trade_off=draw_trade_off(report),
        edits=list(zip(names, report.edits, limits, strict=True)),
        limits=LIMITS,
        provenance=ran,
        show=show,
        list_leaves=list_leaves,
        describe_limit=describe_limit,
        signs=_SIGNS,
        states={state: STATES[state] for state in STATES if state in decided},
        explain=explain,
        compare_attackers=compare_attackers,
        list_facts=list_facts,
    )
    return text


@lru_cache
def _load_template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("evals.table"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    return environment.get_template("report.html.jinja")


_SIGNS: dict[State | None, str] = {"kept": "✓ ", "missed": "✕ ", "undecided": "? ", None: ""}


def list_facts(edit: History) -> list[tuple[str, str]]:
    """Names and values of what made a model, as text."""
    step, cuts = edit.step, [step for step in edit.history if step.parts]
    size = f"{step.num_blocks} blocks with {step.num_heads} heads each"
    spec = format_selection(sorted(edit.parts), step.num_heads)
    told = f"--drop-attn {spec}, of {size}"
    found = [("edited", told if cuts else f"no attention was cut, in any of {size}")]
    variants = sorted({part.variant for part in edit.parts})
    found += [(name, VARIANTS[name].summary) for name in variants if name in VARIANTS]
    found += [("layout", step.layout), ("family", step.family)]
    found.append(("source", edit.history[0].source.model))
    steps = ", ".join(_STEPS[one.kind] for one in edit.history)
    found += [("steps", steps)] if len(edit.history) > 1 else []
    for cut in cuts:
        if cut.one_hot is not None:
            margin = f"{cut.one_hot.gap:.1f}, the smallest gap between a token's score for itself "
            margin += "and for any other; above 104, attention is exactly one-hot in float32"
            found.append(("margin", margin))
        if cut.calibration is not None:
            text = cut.calibration.model_dump(mode="json", exclude={"blocks"})
            found += [(f"calibration {name}", said) for name, said in list_leaves(text)]
            fits = cut.calibration.blocks.items()
            shown = [f"block {block}: {_format_r2(fit)}" for block, fit in fits]
            found += [("fit, R² (1 is exact)", ", ".join(shown))] if shown else []
    return found


_STEPS = {"cut": "cut", "erase": "erased", "heal": "healed"}


def _list_untried(edit: EditRecord) -> list[tuple[str, str]]:
    return [("attacks not tried", ", ".join(edit.not_tried))] if edit.not_tried else []


def _format_r2(fit: BlockFit) -> str:
    found = "none" if fit.r2 is None else f"{fit.r2:.3f}"
    shared = fit.r2_shared
    return found if shared is None else f"{found} ({shared:.3f} with one map for each group)"


def list_leaves(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every value in a JSON object with its path in words, except nulls."""
    if isinstance(value, dict):
        for key, inner in value.items():
            words = str(key).replace("_", " ").replace("sha256", "SHA-256")
            yield from list_leaves(inner, f"{name} {words}".strip())
    elif isinstance(value, list):
        for at, inner in enumerate(value, start=1):
            yield from list_leaves(inner, f"{name} {at}".strip())
    elif value is not None:
        yield name, str(value)


def render_markdown(report: Report) -> str:
    """The report in Markdown, with all names and sentences escaped."""
    lines = [f"# {as_line(_write_title(report))}", "", render_measurements(report)]
    lines += ["## The edit", ""]
    for name, edit in zip(name_edits(report), report.edits, strict=True):
        lines += [f"**{as_line(name)}: {as_line(edit.name)}**", ""]
        facts = list_facts(edit.edit) if edit.edit else [("edit", "not recorded")]
        facts += _list_untried(edit)
        lines += [f"- {as_line(key)}: {as_line(text)}" for key, text in facts] + [""]
    lines += ["## Limits", "", *(f"- {as_line(limit)}" for limit in LIMITS), ""]
    return "\n".join(lines)


def _write_title(report: Report) -> str:
    named = ", ".join(edit.name for edit in report.edits)
    if report.base is None:
        return named
    if len(report.edits) > 1:
        return f"{len(report.edits)} edits of {report.base.name}"
    return f"{named}, compared with {report.base.name}"
