"""Prints the folder of the task files, for `lm_eval --include_path`, and names the tasks.

    lm_eval --include_path "$(python -m evals.tasks)" --tasks discoverable_extraction …

The folder is on stdout. The tasks, each with what it asks, are on stderr.
"""

from __future__ import annotations

import sys

from evals.run.lm_eval.tasks import INCLUDE_PATH, list_own_tasks


def main() -> None:
    print(INCLUDE_PATH)
    for name, asked in list_own_tasks().items():
        print(f"{name}: {asked}", file=sys.stderr)


if __name__ == "__main__":
    main()
