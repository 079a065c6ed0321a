"""The commands that the documents show, as a shell reads them: nothing is run, all is recorded."""

from __future__ import annotations

import re
import subprocess
import tempfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "SECURITY.md", "evals/lab/README.md"),
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
PROGRAMS = (
    *("attn-surgery", ".venv/bin/attn-surgery", "accelerate", "torchrun", "lm_eval"),
    *("python", "python3", ".venv/bin/python", "pip", ".venv/bin/pip", "make"),
    *("awk", "head", "seq", "mkdir", "cd", "source", "."),
)
"""What a document may call. The shell has no others, so that another is an error."""
_RECORD = """
PATH=; set -eu
record() { printf '%s\\0' "$#" "$@" >> "$RECORD"; }
for program in $PROGRAMS; do eval "$program() { record '$program' \\"\\$@\\"; }"; done
"""
_CODE = re.compile(
    r"^```(\w*)\n(.*?)^```|((?:^ {4}[^\n]*\n|^\n(?= {4}))+)", re.MULTILINE | re.DOTALL
)
_SHELL = re.compile(
    rf"^\s*(time|for|eval|_[A-Z_]+=|{'|'.join(map(re.escape, PROGRAMS[:-1]))})\b", re.MULTILINE
)


@cache
def commands(document: str) -> list[list[str]]:
    """Every command of a document's code blocks, in order: the program and its arguments.

    Loops, variables and quotes are those of bash; `AssertionError` for what bash does not read.
    """
    found = []
    for language, fenced, indented in _CODE.findall((ROOT / document).read_text()):
        block = fenced or re.sub("^    ", "", indented, flags=re.MULTILINE)
        if language in ("", "bash") and _SHELL.search(block):
            found += _recorded(block, document)
    return found


def _recorded(block: str, document: str) -> list[list[str]]:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder, "record")
        given = {"MODEL": "MODEL", "SAMPLES": "SAMPLES", "SLURM_ARRAY_TASK_ID": "0"}
        done = subprocess.run(
            ["/bin/bash", "-c", _RECORD + block],
            cwd=folder,
            env={**given, "RECORD": str(record), "PROGRAMS": " ".join(PROGRAMS)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{document}: {done.stderr}\n{block}"
        words = record.read_text().split("\0")[:-1]
    found = []
    while words:
        length = int(words[0])
        found.append(words[1 : length + 1])
        del words[: length + 1]
    return found
