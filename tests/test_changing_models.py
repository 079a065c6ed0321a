"""Contract: no figure is reported under the hash of other weights than those it was measured on.

A model that changes between being opened and being reported is an error. (No step that was measured
meanwhile is kept for the next run: `test_store.py`.)
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_compact import EDITS, write_compact
from tiny_tokenizer import save_tiny

from evals.run.models import open_model
from surgery.errors import CheckpointError
from surgery.modeling import MODELING_FILE

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_tiny(tmp_path / "model")


def flip_last_byte(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("asked_before", [True, False])
def test_a_model_that_changes_is_not_identified(folder: Path, asked_before: bool) -> None:
    loaded = open_model(str(folder))
    if asked_before:
        assert loaded.identity["content"]
    flip_last_byte(folder / WEIGHTS)
    with pytest.raises(CheckpointError) as error:
        loaded.identity  # noqa: B018 - it is read
    assert str(error.value) == (
        f"{folder / WEIGHTS}: changed while it was read; run it again once it is complete"
    )


@pytest.mark.parametrize("change", ["nothing", "code", "map", "neither"])
def test_no_figure_is_of_other_code_than_a_reader_would_run(change: str, tmp_path: Path) -> None:
    """A compact folder brings code that loads it where it is trusted. Ours alone is ever run."""
    folder = write_compact("neox-parallel", EDITS["mixed"], tmp_path / "model")
    config, code = folder / "config.json", folder / MODELING_FILE.name
    shutil.copy(MODELING_FILE, code)
    if change == "code":
        code.write_text(code.read_text() + "\n# recites\n")
    elif change == "map":
        config.write_text(config.read_text().replace(MODELING_FILE.stem, "someone/model--evil"))
    elif change == "neither":
        code.unlink()
        values = json.loads(config.read_text())
        config.write_text(json.dumps({k: v for k, v in values.items() if k != "auto_map"}))
    if change in ("nothing", "neither"):
        assert open_model(str(folder)).identity["content"]
        return
    with pytest.raises(CheckpointError) as error:
        open_model(str(folder))
    assert str(error.value) == (
        f"{folder}: its modeling code is not that of this attn-surgery version, so users "
        "who trust it would run another model than the measured one; export it again, or remove "
        "auto_map from config.json"
    )


def test_other_files_may_change(folder: Path) -> None:
    loaded = open_model(str(folder))
    (folder / "README.md").write_text("new")
    assert loaded.identity["content"]
