"""Renders a report for people: one self-contained HTML file, and Markdown of the same rows.

The page loads nothing and runs no script. The model card holds `render_measurements`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from evals.measure.verdicts import WORDS, Limit, State
from evals.report.headline import summarize
from evals.report.pictures import draw_model, draw_table, draw_trade_off, name_edits
from evals.report.report import EditReport, EditSummary, Report
from evals.report.rows import Table, make_size_table, make_tables
from surgery.card.facts import as_code, as_line, make_printable
from surgery.card.text import TASK, Measurements
from surgery.variants import VARIANTS

LIMITS = (
    "These tests cannot show that a passage is gone, so they are not a privacy guarantee. Other "
    "prefixes, sampling, or fine-tuning may still bring it out.",
    "Intervals cover the choice of these documents and passages. They say nothing about other "
    "kinds of documents and passages.",
    "The figures hold for the precision, device and versions below.",
)


def render_pages(report: Mapping[str, Any]) -> dict[str, str]:
    """The content of report.html and report.md. Raises ValueError for an invalid report."""
    checked = Report.model_validate(report)
    made = {"report.html": render_html(checked), "report.md": render_markdown(checked)}
    return {name: text.rstrip("\n") + "\n" for name, text in made.items()}


def render_html(report: Report) -> str:
    """The whole page, with every text of the report escaped."""
    plain, names = report.to_dict(), name_edits(report)
    ran = {"Run": plain["settings"] | plain["provenance"], "Base": plain["base"]["provenance"]}
    ran |= {f"Edit: {edit['name']}": edit["provenance"] for edit in plain["edits"]}
    drawn = [draw_model(report, edit.edit) if edit.edit else None for edit in report.edits]
    several = len(report.edits) > 1
    said = [summarize(edit, report.settings.limit) for edit in report.edits]
    text: str = _load_template().render(
        report=report,
        title=f"{len(names)} edits of {report.base.name}" if several else _write_title(report),
        several=several,
        names=names,
        tables=[
            (table, draw_table(table, names))
            for table in (*make_tables(report), make_size_table(report))
        ],
        trade_off=draw_trade_off(report),
        edits=list(zip(names, report.edits, said, drawn, strict=True)),
        limits=LIMITS,
        provenance=ran,
        list_leaves=list_leaves,
        describe_gate=describe_gate,
        signs=_SIGNS,
        list_facts=list_facts,
    )
    return text


@lru_cache
def _load_template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("evals.report"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    return environment.get_template("report.html.jinja")


_SIGNS: dict[State | None, str] = {"kept": "✓ ", "missed": "✕ ", "undecided": "? ", None: ""}


def describe_gate(gate: Limit) -> str:
    """A gate in one line."""
    return f"{gate.name}: {WORDS[gate.state]}: {gate.description}"


def list_facts(edit: EditSummary) -> list[tuple[str, str]]:
    """Names and values of an edit, as text."""
    heads = f" with {edit.num_heads} heads each" if edit.num_heads else ""
    variants = sorted({part["variant"] for part in edit.parts} | {*edit.attention_free.values()})
    found = [
        ("edited", f"--drop-attn {edit.drop_attn}, of {edit.num_blocks} blocks{heads}"),
        *((name, VARIANTS[name].summary) for name in variants if name in VARIANTS),
        ("layout", edit.layout),
        ("family", edit.family),
        ("source", edit.source),
    ]
    if edit.one_hot and edit.one_hot.get("gap") is not None:
        margin = f"{edit.one_hot['gap']:.1f}, the smallest gap between a token's score for itself "
        margin += "and for any other; above 104, attention is exactly one-hot in float32"
        found.append(("margin", margin))
    if edit.earlier_edits:
        found.append(("earlier edits", str(edit.earlier_edits)))
    calibration = dict(edit.calibration or {})
    blocks = calibration.pop("blocks", None) or {}
    found += [(f"calibration {name}", text) for name, text in list_leaves(calibration)]
    fits = [f"block {block}: {_format_r2(fit)}" for block, fit in blocks.items()]
    if fits:
        found.append(("fit, R² (1 is exact)", ", ".join(fits)))
    return found


def _format_r2(fit: Mapping[str, Any]) -> str:
    shared = fit.get("r2_shared")
    found = "none" if fit.get("r2") is None else f"{fit['r2']:.3f}"
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
        lines += [f"- {as_line(key)}: {as_line(text)}" for key, text in facts] + [""]
    lines += _render_table(make_size_table(report), report)
    lines += ["## Limits", "", *(f"- {as_line(limit)}" for limit in LIMITS), ""]
    lines += ["## To make this report again", ""]
    lines += [f"    {' '.join(command.splitlines())}" for command in report.commands]
    return "\n".join(lines)


def _write_title(report: Report) -> str:
    named = ", ".join(edit.name for edit in report.edits)
    return f"{named}, compared with {report.base.name}"


def render_measurements(report: Report) -> str:
    """Verdicts, gates, warnings and tables in Markdown, also for the model card."""
    lines: list[str] = []
    for name, edit in zip(name_edits(report), report.edits, strict=True):
        whose = f"{name}. {as_line(edit.name)}: " if len(report.edits) > 1 else ""
        lines += [whose + as_line(edit.verdict), ""]
        lines += [f"- gate {as_line(describe_gate(gate))}" for gate in edit.gates]
        lines += [""] if edit.gates else []
        if edit.warnings:
            lines += ["Before you rely on a figure:", ""]
            lines += [f"- {as_line(warning)}" for warning in edit.warnings] + [""]
    lines += [
        f"The base is {as_code(report.base.name)}. Brackets hold 95 % intervals. Differences from "
        "the base use the same passages and documents; for shares, they are in percentage points.",
        "",
    ]
    for table in make_tables(report):
        lines += _render_table(table, report)
    ran = {**report.provenance.versions, **report.edits[0].provenance}
    shown = ("dtype", "device", "lm-eval", "transformers")
    known = [f"{key} {ran[key]}" for key in shown if ran.get(key)]
    return "\n".join([*lines, f"Settings: {as_line(', '.join(known))}.", ""])


def _render_table(table: Table, report: Report) -> list[str]:
    columns = ["n", "base", *name_edits(report)]
    lines = [f"**{table.heading}.** {table.text}".strip(), ""]
    lines += [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for row in table.rows:
        label = as_line(row.label) + (f" ({as_line(row.hint)})" if row.hint else "")
        shown = (
            as_line("; ".join(filter(None, [one.value, *one.details]))) if one else ""
            for one in (row.base, *row.edits)
        )
        n = "" if row.n is None else f"{row.n:,}"
        lines.append(f"| {label} | {' | '.join([n, *shown])} |")
    return [*lines, ""]


def build_measurements(report: Report) -> Measurements | None:
    """The figures of a report with one edit; None if its base is not the edit's source.

    Partly measured benchmarks are left out, since readers would take them for whole ones.
    """
    (edit,) = report.edits
    if edit.relation != "source":
        return None
    if report.settings.limit is not None:
        edit = edit.model_copy(update={"tasks": {}})
    text = render_measurements(report.model_copy(update={"edits": [edit]}))
    return Measurements(
        f"{text}\nAll figures are in `report.json`.",
        [*_list_benchmarks(edit), *_list_extraction(edit, report.provenance.samples_sha256)],
    )


def _list_benchmarks(edit: EditReport) -> list[dict[str, Any]]:
    return [
        {
            "task_type": TASK,
            "dataset_type": make_printable(name),
            "dataset_name": make_printable(name),
            "dataset_args": {"num_fewshot": task.num_fewshot},
            "metric_type": make_printable(task.metric),
            "metric_value": task.edited,
            "metric_args": {"n": task.n, "before_the_edit": task.base},
        }
        for name, task in edit.tasks.items()
    ]


def _list_extraction(edit: EditReport, sha256: str | None) -> list[dict[str, Any]]:
    found = edit.extraction
    if found is None:
        return []
    lengths = {key: found[key] for key in ("prefix_length", "suffix_length")}
    return [
        {
            "task_type": TASK,
            "task_name": "verbatim extraction",
            "dataset_type": "memorized-passages",
            "dataset_name": "passages of the training data",
            "dataset_args": {**lengths, "samples_sha256": sha256},
            "metric_type": metric,
            "metric_value": found[metric][key],
            "metric_args": {
                "n": found["n"],
                "decoding": "greedy",
                "before_the_edit": found["baseline"][metric][key],
            },
        }
        for metric, key in (("exact_match", "rate"), ("next_token_accuracy", "mean"))
    ]
