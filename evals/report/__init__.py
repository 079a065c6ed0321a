"""What people see: tables, sentences, page, charts; and which of it may be published."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from surgery.proof.verification import RenderedReport


def render_report(report: Mapping[str, Any], where: Path, manifest: bytes) -> RenderedReport:
    """As `evals.report.publication.render_report`, which takes seconds to import: most folders
    that are refused are refused before their report is read."""
    from evals.report import publication

    return publication.render_report(report, where, manifest)
