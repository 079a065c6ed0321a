"""What other engines say after the prefixes of the lab's records, base and edited, as a table.

    python -m benchmarks.engines

Needs llama-cpp-python and gguf, or onnxruntime, onnx and onnxscript; what is absent is left out.
"""

from __future__ import annotations

import json
import tempfile
from importlib.util import find_spec
from pathlib import Path

import click
import numpy as np

import surgery
from benchmarks.engines.decoding import (
    with_llama_cpp,
    with_onnxruntime,
    with_transformers,
    write_onnx,
)
from evals.lab import samples_path
from surgery.hub.embedded import model_path

PREFIX = SUFFIX = 32
ROWS = 32
INSTALLED = {
    "llama.cpp": ("llama_cpp", "gguf"),
    "onnxruntime": ("onnxruntime", "onnx", "onnxscript"),
}
KINDS = {
    "llama.cpp": ("f32", "f16", "q8_0", "q4_0", "f16, keys q8_0", "f16, keys q4_0"),
    "onnxruntime": ("float32",),
}


def installed(engine: str) -> bool:
    return all(find_spec(module) for module in INSTALLED[engine])


def records() -> np.ndarray:
    """Records that `lab:pythia` saw 128 times and more often, [ROWS, PREFIX + SUFFIX], int64."""
    lines = map(json.loads, samples_path("pythia").read_text().splitlines())
    rows = [line["tokens"] for line in lines if line["count"] >= 128]
    return np.array(rows[:ROWS], np.int64)[:, : PREFIX + SUFFIX]


def decoded(engine: str, kind: str, folder: Path, prefixes: np.ndarray, work: Path) -> np.ndarray:
    """What an engine says, [B, SUFFIX]. `kind`: a type of llama.cpp's files, and of its keys."""
    if engine == "onnxruntime":
        path = work / "model.onnx"
        write_onnx(folder, path, len(prefixes), PREFIX + SUFFIX)
        return with_onnxruntime(path, prefixes, SUFFIX)
    from benchmarks.engines.gguf_file import write_gguf

    path = work / "model.gguf"
    file, _, keys = kind.partition(", keys ")
    write_gguf(folder, path, file)
    return with_llama_cpp(path, prefixes, SUFFIX, keys or None)


@click.command()
def main() -> None:
    """Compare engines on base and edited model."""
    rows = records()
    prefixes, suffixes = rows[:, :PREFIX], rows[:, PREFIX:]
    click.echo("| engine | model | rows as transformers | tokens as transformers | recited |")
    click.echo("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        edited = surgery.export("lab:pythia", "4-5", output=work / "edited").output
        for name, folder in (("base", model_path("pythia")), ("edited", edited)):
            reference = with_transformers(folder, prefixes, SUFFIX)
            said = {"transformers, float32": reference}
            for engine in filter(installed, INSTALLED):
                for kind in KINDS[engine]:
                    said[f"{engine}, {kind}"] = decoded(engine, kind, folder, prefixes, work)
            for engine, tokens in said.items():
                same = tokens == reference
                recited = (tokens == suffixes).all(1).sum()
                click.echo(
                    f"| {engine} | {name} | {same.all(1).sum()} of {len(rows)} | "
                    f"{same.mean():.1%} | {recited} of {len(rows)} |"
                )


if __name__ == "__main__":
    main()
