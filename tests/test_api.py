"""Contract: the Python API is what `dir(surgery)` shows, and takes the models that commands do."""

from __future__ import annotations

from pathlib import Path

import pytest

import surgery
from surgery.embedded import model_path
from surgery.errors import SourceError


def test_dir_shows_the_api() -> None:
    assert dir(surgery) == sorted(surgery.__all__)
    for name in dir(surgery):
        assert callable(getattr(surgery, name))
    assert {"apply", "export", "inspect", "push", "short_circuit", "verify"} <= set(dir(surgery))
    with pytest.raises(AttributeError, match="no attribute 'exprt'"):
        _ = surgery.exprt  # type: ignore[attr-defined]


def test_an_embedded_model_by_its_name(tmp_path: Path) -> None:
    done = surgery.export("lab:pythia", "last:2", output=tmp_path / "out")
    assert done.manifest.edit.source.model == "lab:pythia"
    assert surgery.verify(tmp_path / "out", source="lab:pythia").ok
    assert surgery.inspect("lab:gpt-neo").model == "lab:gpt-neo"
    surgery.export(model_path("pythia"), "last:2", output=tmp_path / "same")
    one, other = (tmp_path / name / "model.safetensors" for name in ("out", "same"))
    assert one.read_bytes() == other.read_bytes()
    with pytest.raises(SourceError, match="no embedded model 'lab:llama'"):
        surgery.inspect("lab:llama")
    with pytest.raises(SourceError, match="revision"):
        surgery.inspect("lab:pythia", revision="main")
