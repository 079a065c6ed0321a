"""A GPT-NeoX checkpoint as one GGUF file for llama.cpp: f16, q8_0 or q4_0.

    python -m benchmarks.engines.gguf_file FOLDER FILE.gguf [--type q4_0]

Query, key and value are interleaved by head in the checkpoint and stand one after another here;
nothing else moves. Norms and biases are float32 in every type, so the constants of a one-hot block,
which are biases, stay exact; its query and key weights are zeros, which every type holds.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import gguf
import numpy as np
import torch
from safetensors import safe_open

TYPES = {
    "f32": gguf.GGMLQuantizationType.F32,
    "f16": gguf.GGMLQuantizationType.F16,
    "q8_0": gguf.GGMLQuantizationType.Q8_0,
    "q4_0": gguf.GGMLQuantizationType.Q4_0,
}
NAMES = {
    "gpt_neox.embed_in": "token_embd",
    "gpt_neox.final_layer_norm": "output_norm",
    "embed_out": "output",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.dense_h_to_4h": "ffn_up",
    "mlp.dense_4h_to_h": "ffn_down",
}
"""Names in a checkpoint, those of a block without `gpt_neox.layers.N.`, → names in the file."""
LEFT_OUT = ("attention.bias", "attention.masked_bias", "rotary_emb.inv_freq")


def name_in_file(name: str) -> str | None:
    """None for a buffer, which is not stored."""
    if name.endswith(LEFT_OUT):
        return None
    stem, _, kind = name.rpartition(".")
    if stem.startswith("gpt_neox.layers."):
        _, _, block, inner = stem.split(".", 3)
        return f"blk.{block}.{NAMES[inner]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def apart(tensor: np.ndarray, heads: int) -> np.ndarray:
    """[heads, 3, head_size, …] rows → [3, heads, head_size, …]."""
    rows = tensor.reshape(heads, 3, -1, *tensor.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(0, 1)).reshape(tensor.shape)


def write_gguf(folder: Path, path: Path, kind: str = "f16") -> None:
    """Writes a folder's model. Matrices get the type, but embeddings at least 8 bits."""
    config = json.loads((folder / "config.json").read_text())
    heads, width = config["num_attention_heads"], config["hidden_size"]
    writer = gguf.GGUFWriter(path, "gptneox")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(width)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_rope_dimension_count(int(config["rotary_pct"] * (width // heads)))
    writer.add_rope_freq_base(config["rotary_emb_base"])
    writer.add_parallel_residual(config.get("use_parallel_residual", True))
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    _add_tokenizer(writer, folder, config["vocab_size"])
    for shard in sorted(folder.glob("*.safetensors")):
        with safe_open(shard, "pt") as tensors:
            for stored in tensors.keys():  # noqa: SIM118 - not a mapping
                name = name_in_file(stored)
                if name is None:
                    continue
                tensor = tensors.get_tensor(stored).to(torch.float32).numpy()
                if "attn_qkv" in name:
                    tensor = apart(tensor, heads)
                form = TYPES[kind]
                if tensor.ndim == 1:
                    form = gguf.GGMLQuantizationType.F32
                elif kind == "q4_0" and "blk." not in name:
                    form = gguf.GGMLQuantizationType.Q8_0
                writer.add_tensor(name, gguf.quants.quantize(tensor, form), raw_dtype=form)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, folder: Path, size: int) -> None:
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    special = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    by_id = {number: token for token, number in tokenizer["model"]["vocab"].items()} | special
    normal, control, unused = (
        gguf.TokenType.NORMAL,
        gguf.TokenType.CONTROL,
        gguf.TokenType.UNUSED,
    )
    kinds = [
        control if number in special else normal if number in by_id else unused
        for number in range(size)
    ]
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")  # Pythia's own splits differ a little: see docs/engines.md
    writer.add_token_list([by_id.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("path", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--type", "kind", type=click.Choice(list(TYPES)), default="f16", show_default=True)
def main(folder: Path, path: Path, kind: str) -> None:
    """Write the GPT-NeoX model in FOLDER as FILE."""
    write_gguf(folder, path, kind)


if __name__ == "__main__":
    main()
