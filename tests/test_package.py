"""Contract: wheel and sdist hold what they should, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a wheel and an sdist of the working tree."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_wheel_holds_the_packages_and_their_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"surgery", "cli", "evals"}
    for needed in (
        "surgery/modeling/modeling_attention_free.py",
        "surgery/py.typed",
        "evals/lab/records.jsonl",
        "surgery/hub/embedded/pythia/model.safetensors",
        "surgery/hub/embedded/gpt-neo/model.safetensors",
        "surgery/hub/embedded/pythia/tokenizer.json",
    ):
        assert needed in names
    assert any(name.startswith("evals/tasks/") and name.endswith(".yaml") for name in names)
    python = {p.relative_to(ROOT).as_posix() for top in ("surgery", "cli", "evals")
              for p in (ROOT / top).rglob("*.py")}  # fmt: skip
    assert python <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "attn-surgery = cli.main:run" in archive.read(entry).decode()


def test_sdist_can_be_carried_on(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile"),
        *("tests/conftest.py", "benchmarks/export.py", "surgery/exporting.py"),
    ):
        assert needed in names
    assert not any("__pycache__" in name for name in names)
