"""Commands and options of earlier versions, and what to type in their place."""

from __future__ import annotations

_PATCHES = (
    "make the cut again from its plan, with export --plan FILE, "
    "and pass a training on with erase --as-adapter"
)
_PDF = "open report.html in a browser, and print it or save it as PDF"
RETIRED = {
    "apply-patch": _PATCHES,
    "bench": "in a checkout of the repository, run python -m benchmarks.speed BASE EDITED",
    "check": "run init MODEL --samples SAMPLES --dry-run",
    "evaluate --pdf": _PDF,
    "export --as-patch": _PATCHES,
    "mitigate --pdf": _PDF,
}
"""A command, or a command and its option → what to type now."""


def explain_retired(name: str) -> str | None:
    """The line that answers a name of `RETIRED`; None for any other name."""
    return f"{name} is gone: {RETIRED[name]}" if name in RETIRED else None
