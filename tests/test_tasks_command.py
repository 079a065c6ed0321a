"""Contract: `tasks` names the tasks that come along, as lm-eval finds them; stdout is the folder.

So `lm_eval --include_path "$(attn-surgery tasks)"` gets one path.
"""

from __future__ import annotations

from pathlib import Path

from command_line import attn_surgery


def test_the_folder_alone_is_on_stdout_and_the_names_beside_it() -> None:
    from lm_eval.tasks import TaskManager

    outcome = attn_surgery("tasks")
    assert outcome.code == 0
    (folder,) = outcome.stdout.splitlines()
    known = TaskManager(include_path=folder, include_defaults=False).all_subtasks
    told = dict(line.split(": ", 1) for line in outcome.stderr.splitlines())
    assert sorted(told) == sorted(known)
    assert all(text.endswith(".") for text in told.values()), "each says what it asks"
    as_json = attn_surgery("tasks", "--json")
    assert as_json.json == {"folder": folder, "tasks": told}
    assert as_json.stderr == ""
    assert Path(folder).is_dir()
