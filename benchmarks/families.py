"""Speed and memory of the compact layout against stock, for families like Llama, side by side.

    python -m benchmarks.families                             # all of them, some minutes
    python -m benchmarks.families --family llama --width 2048 --blocks 16 --device cuda

Models have random weights and one shape: heads of 64, keys and values shared by groups of three.
The last third of their blocks becomes `identity` in both layouts, and `benchmarks.speed` lets them
take turns. Quote the ratios: absolute speeds depend on the machine.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

import surgery
from benchmarks.speed import compare_speed
from surgery.families import FAMILIES

_KEYS = {
    "prefill": "prefill_tokens_per_second",
    "decode": "decode_tokens_per_second",
    "cache": "cache_bytes",
    "parameters": "parameters",
    "memory": "peak_memory_bytes",
}


def write_model(kind: str, folder: Path, width: int, blocks: int) -> Path:
    """Writes a random model of that type."""
    sizes = {
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": width // 64,
        "num_key_value_heads": max(1, width // 192),
        "max_position_embeddings": 2048,
        "vocab_size": 8192,
    }
    if CONFIG_MAPPING[kind]().to_dict().get("head_dim") is not None:
        sizes["head_dim"] = 64
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**sizes, pad_token_id=None, bos_token_id=0, eos_token_id=0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def measure(kind: str, width: int, blocks: int, **options: Any) -> dict[str, Any]:
    """Compact / stock, as `benchmarks.speed` measures them."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = write_model(kind, folder / "source", width, blocks)
        stock, compact = (
            surgery.export(source, f"last:{blocks // 3}", output=folder / layout, layout=layout)
            for layout in ("stock", "compact")
        )
        found = compare_speed(str(stock.output), str(compact.output), batch_size=1, **options)
        ratios: dict[str, Any] = found["ratios"]
        return ratios


@click.command()
@click.option("--family", "kinds", multiple=True, help="[default: those that follow Llama]")
@click.option("--width", default=768, show_default=True)
@click.option("--blocks", default=12, show_default=True)
@click.option("--rounds", default=5, show_default=True)
@click.option("--new-tokens", default=64, show_default=True)
@click.option("--prompt-tokens", default=512, show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(kinds: tuple[str, ...], width: int, blocks: int, **options: Any) -> None:
    """Compare both layouts of one edit in each family."""
    held = [
        f.model_type
        for f in FAMILIES
        if "num_groups" in f.config_keys and f.compact and not f.saved_as
    ]
    table = Table(title=f"compact / stock, last {blocks // 3} of {blocks} blocks, width {width}")
    for column in ("", *_KEYS):
        table.add_column(column, justify="right")
    for kind in kinds or held:
        ratios = measure(kind, width, blocks, **options)
        table.add_row(kind, *(_format(ratios[key]) for key in _KEYS.values()))
    Console(width=100).print(table)


def _format(cell: Any) -> str:
    if not isinstance(cell, dict):
        return f"{cell:.2f}"
    return f"{cell['median']:.2f}" + (" (noise)" if cell["within_noise"] else "")


if __name__ == "__main__":
    main()
