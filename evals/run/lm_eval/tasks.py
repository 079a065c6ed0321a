"""Finds lm-eval tasks by name, and loads their data from disk or from the Hub."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from surgery.errors import MeasurementError, UnknownNameError, find_near
from surgery.hub.client import go_offline, is_hub_reachable
from surgery.untrusted import describe_error

INCLUDE_PATH = Path(__file__).parents[2] / "tasks"
"""Our own task files: what `lm_eval --include_path` takes."""

SUITES = {
    "standard": {
        "lambada_openai": "Predict the last word of a passage, which takes the whole passage.",
        "hellaswag": "Choose the ending of an everyday scene, from four.",
        "piqa": "Choose the one of two ways to do an everyday thing that works.",
        "winogrande": "Choose the one of two nouns that fills the blank in a sentence.",
        "arc_easy": "Answer a school science question, mostly from four choices.",
        "arithmetic_2da": "Add two numbers of two digits.",
        "webqs": "Name the answer to a question about the world, without a text to look it up in.",
    },
    "quick": {"lambada_openai": "", "arc_easy": "", "arithmetic_2da": ""},
    "lab": {
        "lab_next_line": "Choose the next line of unseen source text, from four.",
        "lab_heldout": "Predict unseen source text, token by token.",
        "lab_copy": "Continue a line of source text that appears above, from four words.",
    },
}
"""Suite → its tasks, and the question of each. The last two of "standard" are there because edits
of MLPs lose arithmetic and facts first (arXiv 2510.24256)."""
QUICK_LIMIT = 250
"""Documents of each task of "quick" if no limit is given."""
PASSAGES = "discoverable_extraction"
"""Its documents are private, and --samples measures the same without storing them."""
_ALONE = {
    "induction": "Continue 24 made-up words that appear above: copying, and nothing else.",
    "induction_letters": "Continue 24 letters in random order that appear above.",
    PASSAGES: "Recite your own passages: for lm_eval alone, which is told where they are.",
}
"""Our tasks that no suite has."""
_ASKED = _ALONE | {name: line for suite in SUITES.values() for name, line in suite.items() if line}


def describe_task(name: str, config: Mapping[str, Any]) -> str | None:
    """Describes a task in one line: ours for a suite's task, else its own alias, else None.

    Not lm-eval's `description`, which is part of every prompt.
    """
    return _ASKED.get(name, config.get("task_alias"))


def list_own_tasks() -> dict[str, str]:
    """The tasks in `INCLUDE_PATH`, each in a file of its name → what it asks, in one line."""
    names = sorted(file.stem for file in INCLUDE_PATH.glob("*/*.yaml"))
    return {name: _ASKED[name] for name in names}


def classify_ability(output_type: str, metadata: dict[str, Any]) -> str:
    """Classifies a task as "language" or "reasoning", as Menta et al. 2025 do.

    Language: the model continues a text (lambada, perplexities). Reasoning: it chooses or writes an
    answer (hellaswag, piqa, winogrande, arc). A task file may set this in its `metadata`.
    """
    rated = output_type in ("loglikelihood", "loglikelihood_rolling")
    return str(metadata.get("ability", "language" if rated else "reasoning"))


def find_tasks(
    names: Sequence[str], include_paths: Sequence[Path], make: Callable[..., Any]
) -> tuple[list[str], Any]:
    """Finds registered names, and a task manager (from `make`) that knows them.

    lm-eval's own tasks are many thousand files, so it reads them only if a name is not among the
    included tasks.
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
    refuse_passages(found)
    for name in found:
        if not re.fullmatch("[!-~]{1,200}", name):  # what a report takes as a name
            raise MeasurementError(
                "a task name has blanks, is not ASCII, or is too long",
                got=name[:200],
                fix="rename the task in its YAML file",
            )
    return list(dict.fromkeys(found)), manager


def refuse_passages(names: Collection[str]) -> None:
    """Raises `MeasurementError` if the task of the passages is among them: `--samples` keeps their
    text out of the results."""
    if PASSAGES in names:
        raise MeasurementError(
            f"{PASSAGES} would write the passages into the results", fix="give them with `samples`"
        )


def load_task(manager: Any, name: str) -> dict[str, Any]:
    """Loads the task of that name, or all tasks of that group or tag, with their data.

    Tries first without the network, which suffices for local and downloaded data. Raises
    `MeasurementError` in one line for any error of lm-eval and its libraries.
    """
    from huggingface_hub import constants

    try:
        with go_offline():
            return dict(manager.load([name])["tasks"])
    except Exception as error:  # a task file may hold any code
        first = error
    if not constants.HF_HUB_OFFLINE and is_hub_reachable():
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
        fix=f"{fix}, use `suite=lab`, whose data come along, or name local tasks with `tasks` and "
        "`include_path`",
    ) from None


def _explain_unknown(name: str, known: Sequence[str]) -> UnknownNameError:
    near = find_near(name, known, 3) or [task for task in known if name in task][:3]
    return UnknownNameError(
        f"no benchmark task is called {name!r}",
        fix=(f"near names: {', '.join(near)}; " if near else "") + "`lm_eval ls tasks` lists all",
    )


def explain_failure(name: str, what: str, error: Exception) -> MeasurementError:
    """The error of a library or a task file, in one line."""
    got = f"{type(error).__name__}: {describe_error(error)}"
    return MeasurementError(what, where=f"task {name}", got=got)
