"""Commands and options of earlier versions, and what to type in their place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_PATCHES = (
    "make the cut again from its plan, with export --plan FILE, "
    "and pass a training on with erase --as-adapter"
)
_ERASED = "first run erase, then export the result, and heal that to win back what the cut cost"
_GGUF = "llama.cpp's own converter reads stock folders"
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
    "tasks": "run python -m evals.tasks",
    "check": "run init MODEL --samples SAMPLES --dry-run",
    "evaluate --pdf": _PDF,
    "mitigate --pdf": _PDF,
    "--device-map": "pass --device all",
    "evaluate --audit": "pass --attack default",
    "evaluate --no-benchmarks": "pass --suite none",
    "compare --prompts": "list them in a file for --config, as prompt: [T, …]",
    "compare --probabilities": "compare what the models write; --samples shows losses",
}
"""A command, a command and its option, or an option of several commands → what to type now."""


EARLIER: dict[str, dict[str, dict[str, Any]]] = {
    "audit": {"true": {"attack": ["default"]}, "false": {}},
    "no-benchmarks": {"true": {"suite": "none"}, "false": {}},
    "device-map": {"auto": {"device": "all"}},
    "cost": {"worst": {}},
    "exact-only": {"false": {}},
    "probabilities": {"false": {}},
}
"""Keys of a file that version 0.3 wrote, and their values → what they are now."""


def explain_earlier(given: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says, where an earlier version wrote it as this one would."""
    now: dict[str, Any] = {}
    for key, value in given.items():
        name, said = key.lstrip("-"), str(value).lower()
        if said in EARLIER.get(name, {}):
            now = EARLIER[name][said] | now
        else:
            now[key] = value
    return now


def explain_retired(name: str) -> str | None:
    """The line that answers a name of `RETIRED`; None for any other name."""
    now = RETIRED.get(name) or RETIRED.get(name.rpartition(" ")[2])
    return None if now is None else f"{name} is gone: {now}"
