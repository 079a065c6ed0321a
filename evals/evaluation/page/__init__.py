"""The report as a page for people: one self-contained HTML file, and Markdown of the same figures.

The page asks nothing of the network and runs no script. docs/report.md describes the report.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.evaluation.page.figures import Figure, Node
from evals.evaluation.page.view import beside_of, view_of
from evals.evaluation.report import Report
from surgery.output import write_text


def write_page(report: dict[str, Any], folder: Path) -> list[Path]:
    """Writes report.html and report.md into `folder`, and returns their paths.

    `report`: as docs/report.md describes. Raises `OutputError` where a file cannot be written.
    """
    made = pages(report)
    for name, text in made.items():
        write_text(folder / name, text)
    return [folder / name for name in made]


def pages(report: Mapping[str, Any]) -> dict[str, str]:
    """The content of report.html and report.md. Raises ValueError for what is no report."""
    checked = Report.model_validate(report).to_dict()
    made = {"report.html": html(checked), "report.md": markdown(checked)}
    return {name: text.rstrip("\n") + "\n" for name, text in made.items()}


def html(report: dict[str, Any]) -> str:
    """The whole page. Text of the report is escaped; every figure carries its key and value."""
    return _render("report.html.jinja", view_of(report), autoescape=True)


def markdown(report: dict[str, Any]) -> str:
    """The report in Markdown, for pull requests and model cards."""
    return _render("report.md.jinja", view_of(report), finalize=_inert)


def side_by_side_pages(record: dict[str, Any]) -> tuple[str, str]:
    """HTML and Markdown of what `evals.evaluation.side_by_side.SideBySide` records."""
    view = beside_of(record)
    return (
        _render("beside.html.jinja", view, autoescape=True),
        _render("beside.md.jinja", view, finalize=_inert),
    )


def _render(template: str, view: dict[str, Any], **options: Any) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("evals.evaluation.page"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        **options,
    )
    environment.filters["inert"] = _plain
    text: str = environment.get_template(template).render(view)
    return text


_SPECIAL = {ord(letter): "\\" + letter for letter in "\\`*_[]|#~"}


def _inert(value: Any) -> Any:
    """Names and sentences of the report as Markdown that shows them and does nothing else."""
    shown = value.text() if isinstance(value, Node) else value
    return _plain(shown.text) if isinstance(shown, Figure) else shown


def _plain(text: str) -> str:
    return " ".join(text.split()).translate(_SPECIAL).replace("&", "&amp;").replace("<", "&lt;")
