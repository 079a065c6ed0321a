"""Commands and options of earlier versions, and what to type in their place."""

from __future__ import annotations

_PATCHES = (
    "make the cut again from its plan, with export --plan FILE, "
    "and pass a training on with erase --as-adapter"
)
_ERASED = "first run erase, then export the result, and heal that to win back what the cut cost"
_GGUF = "run convert on the result"
_MEASURED = "run evaluate on the result, with --baseline MODEL"
_PDF = "open report.html in a browser, and print it or save it as PDF"
RETIRED = {
    "apply-patch": _PATCHES,
    "bench": "in a checkout of the repository, run python -m benchmarks.speed BASE EDITED",
    "export --as-patch": _PATCHES,
    "export --erase": _ERASED,
    "export --erase-steps": _ERASED,
    "export --harden": _ERASED,
    "export --text": _ERASED,
    "export --heal": "run heal on the result",
    "export --heal-steps": "run heal on the result, with --steps",
    "export --adapters": _ERASED,
    "export --evaluate": _MEASURED,
    "export --gguf": _GGUF,
    "export --samples": _ERASED,
    "sweep --exact-only": "leave it out: a sweep always measures what an edit costs, too",
    "search --cost": "leave it out: the cost is the worst of three measures",
    "search --max-loss-increase": "give --max-extraction X, and take from the front in search.json "
    "the edit whose loss you accept",
    "mitigate --cost": "leave it out: the cost is the worst of three measures",
    "mitigate --keep": "the best result becomes OUT, and the others stay as folders",
    "check": "run init MODEL --samples SAMPLES --dry-run",
    "evaluate --pdf": _PDF,
    "mitigate --pdf": _PDF,
}
"""A command, or a command and its option → what to type now."""


def explain_retired(name: str) -> str | None:
    """The line that answers a name of `RETIRED`; None for any other name."""
    return f"{name} is gone: {RETIRED[name]}" if name in RETIRED else None
