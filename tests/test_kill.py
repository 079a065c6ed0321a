"""Contract: an export that is killed at any moment leaves no half-written folder under its name.

What was there before stays until its successor is whole. What is left has a hidden name.
"""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
from checkpoints import neox_config, write_checkpoint

import surgery

pytestmark = pytest.mark.slow
KILLS = 13


@pytest.mark.parametrize("overwrites", [False, True])
def test_a_killed_export_leaves_nothing_or_what_was_there(overwrites: bool, tmp_path: Path) -> None:
    config = neox_config(hidden_size=1024, num_attention_heads=16, num_hidden_layers=8)
    source = write_checkpoint(tmp_path / "source", config)
    out = tmp_path / "results" / "out"
    command = [*(sys.executable, "-m", "cli.main", "export", source), *("--output", out)]
    old = [*command, "--drop-attn", "1"]
    new = [*command, "--drop-attn", "2", "--overwrite"] if overwrites else old
    if overwrites:
        subprocess.run(old, check=True)
    started = time.monotonic()
    subprocess.run([*(new[:-1] if overwrites else new), "--dry-run"], check=True)
    longest = 3 * (time.monotonic() - started)
    seconds = random.Random(7)
    for _ in range(KILLS):
        process = subprocess.Popen(new)
        time.sleep(seconds.uniform(0, longest))
        process.kill()
        if process.wait() == 0 and not overwrites:
            break
        if out.exists():
            assert surgery.verify(out, source=source).ok
        else:
            assert not overwrites, "the old folder is gone"
    if not out.exists() or overwrites:
        subprocess.run(new, check=True)
    assert surgery.verify(out, source=source).ok
    assert [path.name for path in out.parent.iterdir() if path.name[0] != "."] == ["out"]
