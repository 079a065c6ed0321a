"""Contract: wheel and sdist hold what they should, and nothing else."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
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
        "surgery/modeling_attention_free.py",
        "surgery/py.typed",
        "evals/lab/records.jsonl",
        "surgery/lab/pythia/model.safetensors",
        "surgery/lab/gpt-neo/model.safetensors",
        "surgery/lab/pythia/tokenizer.json",
    ):
        assert needed in names
    assert any(name.startswith("evals/tasks/") and name.endswith(".yaml") for name in names)
    python = {p.relative_to(ROOT).as_posix() for top in ("surgery", "cli", "evals")
              for p in (ROOT / top).rglob("*.py")}  # fmt: skip
    assert python <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "attn-surgery = cli.main:run" in archive.read(entry).decode()


def test_the_wheel_installs_as_it_is(built: Path, tmp_path: Path) -> None:
    """As pipx and uvx do: into an environment of its own, whose command then runs.

    Its dependencies are those of this environment, as there need not be a network.
    """
    (wheel,) = built.glob("*.whl")
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    install = [tmp_path / "venv/bin/python", "-m", "pip", "install", "--no-deps", "--no-index"]
    subprocess.run([*install, "--force-reinstall", wheel], check=True, capture_output=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(program: str, *arguments: str) -> str:
        command = [tmp_path / "venv/bin" / program, *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        return done.stdout

    assert run("attn-surgery", "--version") == f"attn-surgery {wheel.name.split('-')[1]}\n"
    assert "Usage: attn-surgery export" in run("attn-surgery", "help", "export")
    assert "6 blocks" in run("attn-surgery", "inspect", "lab:pythia")
    where = run("python", "-c", "import surgery; print(surgery.__file__)").strip()
    assert Path(where).is_relative_to(site)


def test_the_image_gets_what_the_package_needs(tmp_path: Path) -> None:
    """A wheel can be built from what the Dockerfile copies."""
    for line in re.findall(r"^COPY (.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        *sources, target = line.split()
        place = tmp_path / target.removeprefix("/")
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, place)
            else:
                place.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / source, place)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", str(tmp_path / "src")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_sdist_can_be_carried_on(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    for needed in (
        *("pyproject.toml", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "Makefile"),
        *("tests/conftest.py", "benchmarks/export.py", "surgery/exporting.py"),
        *("Dockerfile", "examples/mitigate.yaml", "examples/recitation.ipynb"),
    ):
        assert needed in names
    assert not any("__pycache__" in name for name in names)
