"""Contract: `python -m evals.tasks` names the tasks that come along, as lm-eval finds them.

Its stdout is their folder alone, so that `lm_eval --include_path` takes it.
"""

from __future__ import annotations

import subprocess
import sys


def test_the_folder_alone_is_on_stdout_and_the_names_beside_it() -> None:
    from lm_eval.tasks import TaskManager

    program = [sys.executable, "-m", "evals.tasks"]
    told = subprocess.run(program, capture_output=True, check=True, text=True, encoding="utf-8")
    (folder,) = told.stdout.splitlines()
    known = TaskManager(include_path=folder, include_defaults=False).all_subtasks
    tasks = dict(line.split(": ", 1) for line in told.stderr.splitlines())
    assert sorted(tasks) == sorted(known)
    assert all(text.endswith(".") for text in tasks.values()), "each says what it asks"
