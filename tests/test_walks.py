"""Contract of benchmarks/walks.py: it counts the files that the calls of a command enter."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from command_line import ROOT
from tiny_tokenizer import save_tiny, tiny_model

from benchmarks.walks import Walk
from surgery.exporting import export
from surgery.privacy import make_public_name


def test_calls_from_another_file_are_counted_in_every_thread(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model", tiny_model())
    other = threading.Thread(target=make_public_name, args=("model",))
    with Walk(ROOT) as walk:
        export(tmp_path / "model", "0", output=tmp_path / "cut")
        before = walk.entered["surgery/privacy.py"].copy()
        other.start()
        other.join()
    assert all((ROOT / file).is_file() for file in walk.entered)
    assert walk.entered["surgery/exporting.py"]["export"] == 1
    assert walk.entered["surgery/editing/preparing.py"]["prepare"] == 1
    assert walk.entered["surgery/privacy.py"] - before == {"make_public_name": 1}


@pytest.mark.slow
def test_an_export_is_counted() -> None:
    program = (sys.executable, "-m", "benchmarks.walks", "export", "--json")
    done = subprocess.run(program, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (entered,) = json.loads(done.stdout).values()
    assert {"cli/commands/edit/export.py", "surgery/exporting.py"} <= entered.keys()
    assert all(calls > 0 for functions in entered.values() for calls in functions.values())
