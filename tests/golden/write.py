"""Writes the golden files: `python -m golden.write` in the folder `tests`.

A value that changes needs a commit of its own, which says why.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from golden import exports, figures
from golden.models import HERE


def write(name: str, values: dict[str, Any]) -> None:
    """One line for each value."""
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in values.items()]
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")


def write_exports() -> None:
    made = {}
    for case in exports.list_cases():
        with tempfile.TemporaryDirectory() as folder:
            made[case] = exports.export(case, Path(folder))
    write("exports.json", made)


def write_figures() -> None:
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        figures.prepare(Path(folder))
        for name, command in (figures.FAST | figures.SLOW).items():
            for lab in figures.LABS:
                key = name.format(lab=lab)
                made[key] = figures.figures(command.format(lab=lab))
    write("figures.json", made)


if __name__ == "__main__":
    write_exports()
    write_figures()
