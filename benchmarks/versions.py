"""Runs the tests of exports and of the Hub under other versions of Python, torch, and transformers.

    python benchmarks/versions.py [--interpreter 3.10=/path/to/python3.10]...

Makes an environment for each row, which takes the network, some minutes, and a few GB of downloads
and of disk, and prints a Markdown table. Exit code 1 where a test fails, or does not run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
ROWS = (  # Python, torch, transformers, huggingface_hub
    ("3.10", "2.4.1", "4.57.1", "0.34.0"),
    ("3.11", "2.13.0", "4.57.6", "0.36.2"),
    ("3.11", "2.13.0", "5.0.0", "1.3.1"),
    ("3.11", "2.13.0", "5.24.0", "2.4.0"),
    ("3.13", "2.15.0", "5.24.0", "2.4.0"),
)
"""The oldest and the newest that pyproject.toml admits, and what lies between."""
TESTS = (
    *("test_heads", "test_modeling_compact", "test_modeling_loading"),
    *("test_product", "test_round_trip", "test_push"),
)


def run_tests(python: str, versions: tuple[str, ...], folder: Path) -> tuple[bool, str]:
    """Whether all pass in a new environment, and the last line of pytest, or why there is none."""
    inside = folder / "bin" / "python"
    packages = ("torch", "transformers", "huggingface_hub")
    pins = [f"{name}=={version}" for name, version in zip(packages, versions, strict=True)]
    try:
        subprocess.run([python, "-m", "venv", folder], check=True)
        install = [inside, "-m", "pip", "install", "--quiet", "--no-cache-dir"]
        subprocess.run([*install, *pins, f"{ROOT}[test]"], check=True)
    except subprocess.CalledProcessError as error:
        return False, f"cannot be installed ({error.returncode})"
    files = [f"tests/{name}.py" for name in TESTS]
    done = subprocess.run(
        [inside, "-m", "pytest", "-q", "-W", "default", *files],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    return done.returncode == 0, done.stdout.strip().splitlines()[-1]


@click.command()
@click.option("--interpreter", "interpreters", multiple=True, metavar="X.Y=PATH")
def main(interpreters: tuple[str, ...]) -> None:
    """Run the tests under every row of versions."""
    where = dict(given.split("=", 1) for given in interpreters)
    click.echo("| Python | torch | transformers | huggingface_hub | tests |\n|---|---|---|---|---|")
    passed = []
    for python, *versions in ROWS:
        found = where.get(python) or shutil.which(f"python{python}")
        with tempfile.TemporaryDirectory() as folder:
            ok, end = False, "no such Python"
            if found:
                ok, end = run_tests(found, tuple(versions), Path(folder))
        click.echo(f"| {python} | {' | '.join(versions)} | {end} |")
        passed.append(ok)
    sys.exit(not all(passed))


if __name__ == "__main__":
    main()
