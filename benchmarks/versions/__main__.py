"""Makes environments, checks the exports and the package in each, and prints a Markdown table.

    python -m benchmarks.versions [--interpreter 3.10=/path/to/python3.10]...

Torch is installed once for each Python, and the environments of its rows see it there. All of them
are removed in the end. Takes some minutes, a few GB of downloads, and the network.

In every row the exports of this environment are loaded (`check.py`). Where the package admits the
versions, it also exports, verifies, and pushes to and exports from a Hub server on this machine.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
TOKEN = "hf_secretsecretsecretsecretsecret"
BESIDE_TORCH = (
    "numpy click jinja2 ml-dtypes psutil pydantic pyyaml rich scipy wrapt pyarrow safetensors regex"
)
"""What the package needs of its other dependencies to export, verify and push."""


@dataclass(frozen=True)
class Row:
    python: str
    torch: str
    transformers: str
    hub: str
    admitted: bool = True


ROWS = (
    Row("3.10", "2.4.1", "4.46.3", "0.26.5", admitted=False),
    Row("3.10", "2.4.1", "4.57.1", "0.34.0"),
    Row("3.11", "2.13.0", "4.57.6", "0.36.2"),
    Row("3.11", "2.13.0", "5.0.0", "1.3.1"),
    Row("3.11", "2.13.0", "5.24.0", "2.4.0"),
    Row("3.13", "2.15.0", "5.24.0", "2.4.0"),
)
"""Of pyproject.toml the oldest and the newest, what lies between, and one that is older."""


def environment(python: str, folder: Path, *packages: str, base: Path | None = None) -> Path:
    """A virtual environment with the packages, which sees those of `base`; its interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    inside = folder / "bin" / "python"
    if base is not None:
        (seen,) = base.glob("lib/python*/site-packages")
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "base.pth").write_text(f"{seen}\n")
    subprocess.run(
        [inside, "-m", "pip", "install", "--quiet", "--no-cache-dir", *packages], check=True
    )
    return inside


def exports(folder: Path) -> None:
    """The embedded models, and exports of them, made here."""
    import surgery
    from surgery.hub.embedded import model_path

    for name in ("pythia", "gpt-neo"):
        shutil.copytree(model_path(name), folder / f"source-{name}")
        surgery.export(f"lab:{name}", "4-5", layout="compact", output=folder / f"compact-{name}")
    surgery.export("lab:pythia", "4-5", output=folder / "stock-pythia")


@contextmanager
def hub(source: Path) -> Iterator[str]:
    """The address of a Hub server that has the source as `me/source`."""
    from hub_uploads import UploadHub

    with UploadHub() as server:
        server.users[TOKEN] = "me"
        server.create("me/source").commit(source)
        yield server.url


def check(python: Path, row: Row, made: Path, url: str, work: Path) -> dict[str, Any]:
    """What a row of the table says. `work`: an empty folder."""
    variables = {
        **os.environ,
        "PYTHONPATH": "",
        "HF_ENDPOINT": url,
        "HF_TOKEN": TOKEN,
        "HF_HOME": str(work / "hub"),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(*command: object) -> subprocess.CompletedProcess[str]:
        line = [str(python), *map(str, command)]
        quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
        return subprocess.run(line, cwd=work, env=variables, **quiet)

    done = run(Path(__file__).with_name("check.py"), made)
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1]}
    found = json.loads(done.stdout.splitlines()[-1])
    found["package"] = "not admitted"
    if row.admitted:
        variables["PYTHONPATH"] = str(ROOT)
        found["package"] = "works"
        for line in (
            "export me/source --drop-attn 4-5 --output edited",
            "verify edited",
            f"push edited me/{work.name}",
        ):
            done = run("-m", "cli.main", *line.split())
            if done.returncode:
                found["package"] = f"{line.split()[0]}: {done.stderr.strip().splitlines()[-1]}"
                break
        else:
            same = [
                (d / "model.safetensors").read_bytes()
                for d in (work / "edited", made / "stock-pythia")
            ]
            if same[0] != same[1]:
                found["package"] = "another export"
    return found


def line_of(row: Row, found: dict[str, Any]) -> str:
    start = f"| {row.python} | {row.torch} | {row.transformers} | {row.hub} | "
    if "error" in found:
        return f"{start}{found['error']} | | |"
    stock = "bit for bit" if found["stock"] else "differs"
    compact = ", ".join(
        value if isinstance(value, str) else f"{name}: {value:.0e}"
        for name, value in found["compact"].items()
    )
    return f"{start}{stock} | {compact} | {found['package']} |"


@click.command()
@click.option(
    "--interpreter", "interpreters", multiple=True, metavar="X.Y=PATH", help="Where a Python is."
)
def main(interpreters: tuple[str, ...]) -> None:
    """Check every row of versions and print the table."""
    where = dict(given.split("=", 1) for given in interpreters)
    click.echo(
        "| Python | torch | transformers | huggingface_hub | stock | compact | the package |"
    )
    click.echo("|---|---|---|---|---|---|---|")
    refusals = set()
    with tempfile.TemporaryDirectory() as temporary:
        work, base, held = Path(temporary), None, None
        made = work / "made"
        made.mkdir()
        exports(made)
        with hub(made / "source-pythia") as url:
            for number, row in enumerate(ROWS):
                python = where.get(row.python) or shutil.which(f"python{row.python}")
                if python is None:
                    click.echo(line_of(row, {"error": f"no Python {row.python} here"}))
                    continue
                if held != (row.python, row.torch):
                    shutil.rmtree(work / "base", ignore_errors=True)
                    base, held = work / "base", (row.python, row.torch)
                    environment(python, base, f"torch=={row.torch}", *BESIDE_TORCH.split())
                packages = (
                    f"transformers=={row.transformers}",
                    f"huggingface_hub=={row.hub}",
                    "accelerate",
                )
                try:
                    inside = environment(python, work / "row", *packages, base=base)
                    place = work / f"row-{number}"
                    place.mkdir()
                    found = check(inside, row, made, url, place)
                except subprocess.CalledProcessError as error:
                    found = {"error": f"cannot be installed ({error.returncode})"}
                click.echo(line_of(row, found))
                refusals.add(found.get("without_code", ""))
                shutil.rmtree(work / "row")
    for refusal in sorted(refusals - {""}):
        click.echo(f"\ncompact without `trust_remote_code`: {refusal[:200]}")


if __name__ == "__main__":
    main()
