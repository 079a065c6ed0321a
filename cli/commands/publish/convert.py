"""attn-surgery convert"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.filesize import decimal

from cli import options
from cli.terminal import echo, note, print_json, show_progress


@click.command("convert")
@click.argument("model", metavar="DIR")
@options.choice("--to", ["gguf"], "Format to write.", "gguf", "form")
@options.output("File to create.", options.FILE, "FILE", required=True)
@options.choice(
    "--type",
    ["f16", "bf16", "f32", "q8_0", "q4_0"],
    "How matrices are stored. Norms and biases stay f32.",
    "f16",
    "kind",
)
@options.overwrite
@options.json
def command(model: str, form: str, as_json: bool, output: Path, **asked: Any) -> None:
    """Save the model in DIR as one GGUF file, which llama.cpp runs.

    DIR is a folder that `export` wrote, or any other model (a folder, a Hub id, or a lab model) of
    a family that llama.cpp knows. Of the compact layout, llama.cpp runs only Llama and Mistral, and
    not every edit. The file holds the tokenizer, too. It is read back before it appears, and every
    tensor is compared with DIR. Needs the gguf package: pip install 'attn-surgery[gguf]'.
    """
    from surgery.conversion.gguf_file import convert_to_gguf

    with show_progress("convert", None) as advance:
        done = convert_to_gguf(model, output, progress=advance, **asked)
    if done.left_out:
        note(f"left out {len(done.left_out)} tensors without effect, which llama.cpp does not read")
    if as_json:
        print_json(done.to_json())
        return
    size = decimal(output.stat().st_size)
    echo(
        f"{output}: {done.tensors} tensors for llama.cpp ({done.architecture}, {done.type}), {size}"
    )
