"""Time and memory of an export of shapes with many experts, against a copy and its hashes.

    python benchmarks/large.py                     # 6 blocks of each: 18 GB of disk at a time
    python benchmarks/large.py --blocks 24 --shape gpt-oss-20b

The shapes are those of gpt-oss-20b (experts in MXFP4) and Qwen3-30B-A3B (bfloat16). Their weights
are zeros, all written out: `cp` does not read what a file leaves out. Quote the ratios.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from export import run_measured

from surgery.checkpoint.inventory import list_needed, make_inventory
from surgery.checkpoint.tensors import TensorInfo, write_header

_ALIKE = {"attention_dropout": 0.0, "head_dim": 64, "hidden_act": "silu", "rms_norm_eps": 1e-5}
SHAPES: dict[str, dict[str, Any]] = {
    "gpt-oss-20b": {
        **_ALIKE,
        "architectures": ["GptOssForCausalLM"],
        "hidden_size": 2880,
        "initial_context_length": 4096,
        "intermediate_size": 2880,
        "max_position_embeddings": 131_072,
        "model_type": "gpt_oss",
        "num_attention_heads": 64,
        "num_experts_per_tok": 4,
        "num_key_value_heads": 8,
        "num_local_experts": 32,
        "quantization_config": {
            "modules_to_not_convert": ["model.layers.*.self_attn", "model.layers.*.mlp.router"],
            "quant_method": "mxfp4",
        },
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150_000,
        "sliding_window": 128,
        "vocab_size": 201_088,
    },
    "qwen3-30b-a3b": {
        **_ALIKE,
        "architectures": ["Qwen3MoeForCausalLM"],
        "decoder_sparse_step": 1,
        "head_dim": 128,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "max_position_embeddings": 40_960,
        "model_type": "qwen3_moe",
        "moe_intermediate_size": 768,
        "norm_topk_prob": True,
        "num_attention_heads": 32,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "num_key_value_heads": 4,
        "rope_theta": 1_000_000.0,
        "vocab_size": 151_936,
    },
}


def list_tensors(config: dict[str, Any]) -> list[TensorInfo]:
    """What a checkpoint of that configuration stores, as the Hub repositories do."""
    empty = make_inventory(config, {})
    sizes, found = empty.dimensions.sizes, []
    for name in [*list_needed(empty), "lm_head.weight"]:
        rule, _ = empty.family.match(name) or (None, None)
        assert rule is not None
        shape = tuple(sizes[size] for size in rule.shape or ())
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            if config["model_type"] == "gpt_oss":  # 32 numbers share a scale
                count, inner, outer = shape
                found.append(TensorInfo(f"{name}_blocks", "U8", (count, outer, inner // 32, 16)))
                found.append(TensorInfo(f"{name}_scales", "U8", (count, outer, inner // 32)))
            continue  # others are stored expert by expert
        found.append(TensorInfo(name, "BF16", shape))
    return found


def write_zeros(shape: str, blocks: int, folder: Path) -> int:
    """Writes the first blocks of a shape; returns the bytes of its weights."""
    config = {**SHAPES[shape], "num_hidden_layers": blocks, "torch_dtype": "bfloat16"}
    config |= {"tie_word_embeddings": False}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    infos = list_tensors(config)
    with (folder / "model.safetensors").open("wb") as file:
        file.write(write_header(infos, {"format": "pt"}))
        left, zeros = sum(info.nbytes for info in infos), bytes(1 << 20)
        while left:
            left -= file.write(zeros[:left])
    return (folder / "model.safetensors").stat().st_size


@click.command()
@click.option("--shape", "shapes", multiple=True, type=click.Choice(list(SHAPES)))
@click.option("--blocks", default=6, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), help="Where to work.")
def main(shapes: tuple[str, ...], blocks: int, rounds: int, folder: Path | None) -> None:
    """Export the last four blocks, and copy and hash the same folder, in turns."""
    for shape in shapes or SHAPES:
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            source, target = Path(temporary) / shape, Path(temporary) / "out"
            size = write_zeros(shape, blocks, source)
            copy = 'cp -r "$0" "$1" && sync "$1"/* && sha256sum "$1"/*'
            commands = {
                "copy": ["sh", "-c", copy, str(source), str(target)],
                "export": [
                    *(sys.executable, "-m", "cli.main", "export", str(source)),
                    *("--drop-attn", f"{blocks - 4}-{blocks - 1}", "--output", str(target)),
                ],
            }
            for _ in range(rounds):
                taken = {}
                for name, command in commands.items():
                    taken[name] = run_measured(command)
                    shutil.rmtree(target)
                (base, _), (seconds, peak) = taken["copy"], taken["export"]
                click.echo(
                    f"{shape}, {blocks} blocks, {size / 1e9:.2f} GB: export {seconds:.0f} s, "
                    f"{seconds / base:.2f} times a copy with hashes; {peak:.0f} MB at most"
                )


if __name__ == "__main__":
    main()
