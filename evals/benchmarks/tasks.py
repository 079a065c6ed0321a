"""Finding lm-eval tasks by name, and loading what they need from disk or from the Hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from evals.tasks import INCLUDE_PATH
from surgery.errors import MeasurementError
from surgery.hub.client import hub_answers, offline
from surgery.untrusted import reason

SUITES = {
    "standard": {
        "lambada_openai": "Predict the last word of a passage that needs the whole passage.",
        "hellaswag": "Choose how a described everyday scene goes on, of four endings.",
        "piqa": "Choose which of two ways of doing an everyday thing works.",
        "winogrande": "Choose which of two nouns the blank in a sentence stands for.",
        "arc_easy": "Answer a school science question, of mostly four choices.",
    },
    "lab": {
        "lab_next_line": "Choose the line that comes next in unseen source text, of four.",
        "lab_heldout": "Predict unseen source text, token by token.",
        "lab_copy": "Go on with a line of source text that stands above, of four words.",
    },
}
"""Suite → its tasks, and what each asks."""
_ASKED = {name: line for suite in SUITES.values() for name, line in suite.items()}
PASSAGES = "discoverable_extraction"
"""Its documents are private, and --samples measures the same without writing them down."""


def describe_task(name: str, config: Mapping[str, Any]) -> str | None:
    """What a task asks, in one line: ours of a suite's task, else its own other name, else None.

    Not lm-eval's `description`, which is part of every prompt.
    """
    return _ASKED.get(name, config.get("task_alias"))


def classify_ability(output_type: str, metadata: dict[str, Any]) -> str:
    """Whether a task asks for "language" or for "reasoning", as Menta et al. 2025 tell them apart.

    Language: the model goes on with a text (lambada, perplexities). Reasoning: it chooses or writes
    an answer (hellaswag, piqa, winogrande, arc). A task file may say which in its `metadata`.
    """
    rated = output_type in ("loglikelihood", "loglikelihood_rolling")
    return str(metadata.get("ability", "language" if rated else "reasoning"))


def find_tasks(
    names: Sequence[str], include_paths: Sequence[Path], make: Callable[..., Any]
) -> tuple[list[str], Any]:
    """Registered names for what was asked for, and a task manager (from `make`) that knows them.

    lm-eval's own tasks are many thousand files, so they are looked through only where a name is
    not among the included ones. Raises `MeasurementError` for a folder or name that is not there.
    """
    for folder in include_paths:
        if not folder.is_dir():
            raise MeasurementError("no such folder of task files", where=folder)
    paths = [str(path) for path in (INCLUDE_PATH, *include_paths)]
    manager = make(include_path=paths, include_defaults=False)
    if not set(names) <= set(manager.all_subtasks):
        manager = make(include_path=paths)
    found: list[str] = []
    for name in names:
        matching = [known for known in manager.all_tasks if fnmatchcase(known, name)]
        if not matching:
            raise _explain_unknown(name, manager.all_tasks)
        found += matching
    if PASSAGES in found:
        raise MeasurementError(
            f"{PASSAGES} would write the passages into the results", fix="give them with `samples`"
        )
    return list(dict.fromkeys(found)), manager


def load_task(manager: Any, name: str) -> dict[str, Any]:
    """The task of that name, or all tasks of that group or tag, with their data.

    Tried first without the network, which is all that local and downloaded data need. Raises
    `MeasurementError` in one line, whatever lm-eval and its libraries raise.
    """
    from huggingface_hub import constants

    try:
        with offline():
            return dict(manager.load([name])["tasks"])
    except Exception as error:  # a task file may hold any code
        first = error
    if not constants.HF_HUB_OFFLINE and hub_answers():
        try:
            return dict(manager.load([name])["tasks"])
        except Exception as error:
            raise explain_failure(name, "cannot be loaded", error) from error
    if not isinstance(first, OSError):
        raise explain_failure(name, "cannot be loaded", first) from first
    why, fix = "the connection to the Hub failed", "check the network and HF_ENDPOINT"
    if constants.HF_HUB_OFFLINE:
        why, fix = "offline mode is on", "unset HF_HUB_OFFLINE"
    raise MeasurementError(
        f"{why}, and its data were not downloaded before",
        where=f"task {name}",
        fix=f"{fix}, or give local task files with `include_paths`",
    ) from None


def _explain_unknown(name: str, known: Sequence[str]) -> MeasurementError:
    near = get_close_matches(name, known, n=3) or [task for task in known if name in task][:3]
    return MeasurementError(
        f"no benchmark task is called {name!r}",
        fix=(f"near names: {', '.join(near)}; " if near else "") + "`lm_eval ls tasks` lists all",
    )


def explain_failure(name: str, what: str, error: Exception) -> MeasurementError:
    """What a library or a task file raised, in one line."""
    got = f"{type(error).__name__}: {reason(error)}"
    return MeasurementError(what, where=f"task {name}", got=got)
