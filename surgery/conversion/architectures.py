"""What llama.cpp's architectures read of our families, and the settings of a GGUF file.

A tensor that an architecture does not read makes llama.cpp refuse the file, or worse, run another
model. So everything that it would lose is refused here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from surgery.checkpoint.inventory import Inventory
from surgery.checkpoint.tensors import Array
from surgery.errors import UnsupportedError
from surgery.families import Role
from surgery.families.rotary import SLIDING, Positions, Rotary, rotary_positions
from surgery.layouts.one_hot import frequencies

if TYPE_CHECKING:
    from gguf import GGUFWriter

STOCK = "make it with `export(layout=stock)`"


@dataclass(frozen=True)
class Architecture:
    """What llama.cpp reads of one family.

    - `name`: the architecture, as the `gguf` package calls it.
    - `activations`: the values of `hidden_act` that it computes.
    - `adjacent`: whether it rotates dimensions 2m and 2m + 1 of a head together. The library
      rotates m and m + half the head, so rows of queries and keys change places.
    - `output_bias`: whether it reads a bias of attention's output.
    - `needs`: tensors that it cannot do without.
    - `free_head_size`: whether heads x head size may differ from the model's width.
    """

    name: str
    activations: tuple[str, ...] = ("silu",)
    adjacent: bool = False
    output_bias: bool = False
    needs: tuple[str, ...] = ()
    free_head_size: bool = False

    def reorder(self, tensor: Array, role: Role | None, inventory: Inventory) -> Array:
        """Returns a fused or a rotated projection with its rows ordered as llama.cpp has them."""
        size, rows = inventory.dimensions, tensor.shape
        parts, axes = [size.num_heads, 3], (0, 1)  # of a fused projection: [heads, 3, head_size]
        if role not in ("query_key_value_weight", "query_key_value_bias"):
            heads = {"query": size.num_heads, "key": size.num_groups}.get(str(role).split("_")[0])
            if heads is None or not self.adjacent:
                return tensor
            parts, axes = [heads, 2], (1, 2)  # [heads, 2, half a head]
        ordered: Array = tensor.reshape(*parts, -1, *rows[1:]).swapaxes(*axes).reshape(rows)
        return ordered

    def leaves_out(self, name: str | None, role: Role | None, kind: str | None) -> bool:
        """Whether it reads no such tensor. `kind`: what replaces the block's attention."""
        unused_norm = kind == "none" and name is not None and "attn_norm" in name
        unread_bias = role == "output_bias" and not self.output_bias
        return unused_norm or unread_bias or role == "affine_bias"


_HEAD = "output.weight"
_LLAMA = Architecture("llama", adjacent=True, output_bias=True, free_head_size=True)
_COMPACT = replace(_LLAMA, name="deci")  # Llama whose blocks may lack attention
ARCHITECTURES = {
    "gpt_neox": Architecture(
        "gptneox",
        ("gelu", "gelu_new", "gelu_fast"),
        output_bias=True,
        needs=(_HEAD, "blk.0.attn_qkv.bias"),
    ),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Architecture("qwen2"),
    "qwen3": Architecture("qwen3", free_head_size=True),
    "olmo": Architecture("olmo", adjacent=True),
    "olmo2": Architecture("olmo2", needs=(_HEAD,)),
    "olmo3": Architecture("olmo2", needs=(_HEAD,)),
    "phi": Architecture("phi2", ("gelu_new",), output_bias=True, needs=(_HEAD,)),
    "stablelm": Architecture("stablelm", needs=(_HEAD,)),
}
"""Model type → what llama.cpp reads of it. GPT-Neo has no architecture there."""


def architecture_of(inventory: Inventory) -> Architecture:
    """Returns the architecture that runs a model.

    **Raises:** `UnsupportedError` if there is none, or if it would compute something else.
    """
    family, config, size = inventory.family, inventory.config, inventory.dimensions
    found = ARCHITECTURES.get(family.model_type)
    if found is None:
        raise UnsupportedError(f"llama.cpp has no architecture for {family.title} models")
    if inventory.is_quantized:
        raise UnsupportedError("the checkpoint is quantized, which GGUF files do not keep")
    if inventory.is_compact:
        if found is not _LLAMA:
            raise UnsupportedError(
                f"llama.cpp does not run compact {family.title} models", fix=STOCK
            )
        kinds = inventory.compact_blocks
        if "constant" in kinds.values() or kinds.get(0) == "none":
            what = "llama.cpp has no constant in place of attention, and needs heads in block 0"
            raise UnsupportedError(what, fix=STOCK)
        found = _COMPACT
    activation = config.get("hidden_act", found.activations[0])
    if activation not in found.activations:
        raise _refuse("hidden_act", activation, " or ".join(found.activations))
    if not found.free_head_size and size.context != size.d:
        raise _refuse("head_dim", size.head_size, size.d / size.num_heads)
    window = config.get(family.window, 0) if family.window else None  # 0: the library's default
    if config.get("use_sliding_window"):
        window = config.get("sliding_window") or 0
    if window is not None and window < size.max_positions:
        raise _refuse("sliding_window", window or "the library's default", "no window")
    return found


def _refuse(key: str, got: object, expected: object) -> UnsupportedError:
    what = "llama.cpp's architecture does not compute this"
    return UnsupportedError(what, where=f"config.json: {key}", expected=expected, got=got)


def write_settings(writer: GGUFWriter, found: Architecture, inventory: Inventory) -> Array | None:
    """Writes sizes, norms, and positions. Returns the divisors of rotary frequencies, [pairs].

    None stands for positions that need no divisors.
    """
    family, config, size = inventory.family, inventory.config, inventory.dimensions
    writer.add_context_length(size.max_positions)
    writer.add_embedding_length(size.d)
    writer.add_block_count(size.num_blocks)
    writer.add_feed_forward_length(size.intermediate)
    if inventory.is_compact:  # no heads: no attention; no key/value heads: one matrix instead
        kinds = [inventory.compact_blocks.get(block) for block in range(size.num_blocks)]
        writer.add_head_count([0 if kind == "none" else size.num_heads for kind in kinds])
        writer.add_head_count_kv([0 if kind else size.num_groups for kind in kinds])
    else:
        writer.add_head_count(size.num_heads)
        writer.add_head_count_kv(size.num_groups)
    writer.add_key_length(size.head_size)
    writer.add_value_length(size.head_size)
    writer.add_vocab_size(size.vocabulary)
    epsilon = config.get(family.epsilon) if family.epsilon else 1e-5  # OLMo's, in its code
    if epsilon is None:
        raise _refuse(str(family.epsilon), "no such key", "a number")
    rms = family.epsilon == "rms_norm_eps"
    (writer.add_layer_norm_rms_eps if rms else writer.add_layer_norm_eps)(epsilon)
    if family.fused:
        writer.add_parallel_residual(config.get("use_parallel_residual", True))
    if family.clip and config.get(family.clip) is not None:
        writer.add_clamp_kqv(config[family.clip])
    return _write_positions(writer, found, inventory)


def _write_positions(writer: GGUFWriter, found: Architecture, inventory: Inventory) -> Array | None:
    config, size, rotary = inventory.config, inventory.dimensions, inventory.family.rotary
    assert rotary is not None
    types = [rotary.layer_type(config, block) for block in range(size.num_blocks)]
    of_type = {t: rotary_positions(config, rotary, size.head_size, t) for t in types}
    full = next((p for t, p in of_type.items() if t != SLIDING), of_type[types[0]])
    if SLIDING in of_type:
        sliding = of_type[SLIDING]
        if (sliding.kind, sliding.base) != ("default", full.base):
            raise _refuse("rope_parameters", sliding.kind, "one base, and no scaling in windows")
        whole = [block for block, t in enumerate(types) if t != SLIDING]
        if whole != list(range(3, size.num_blocks, 4)):  # it reads no other pattern
            raise _refuse("layer_types", f"blocks {whole}", "full attention in every fourth block")
        writer.add_sliding_window(config.get("sliding_window", 4096))
        writer.add_sliding_window_pattern([t == SLIDING for t in types])
    writer.add_rope_dimension_count(full.dimensions)
    writer.add_rope_freq_base(full.base)
    if full.kind == "llama3" and found.name == "llama":
        plain = frequencies(replace(full, kind="default"), rotary)[0]
        return (plain / frequencies(full, rotary)[0]).astype(np.float32)
    if full.kind not in ("default", "linear", "yarn"):
        raise _refuse("rope_parameters", full.kind, "default, linear, or yarn")
    if full.kind != "default":
        _write_scaling(writer, full, rotary)
    return None


def _write_scaling(writer: GGUFWriter, positions: Positions, rotary: Rotary) -> None:
    """Writes what linear and yarn positions scale."""
    import gguf

    given = positions.parameters
    factor = float(given["factor"])
    writer.add_rope_scaling_type(gguf.RopeScalingType[positions.kind.upper()])
    writer.add_rope_scaling_factor(factor)
    if positions.kind == "linear":
        return
    if positions.kind not in rotary.scalings:
        raise _refuse("rope_parameters", positions.kind, "default or linear")
    _, attention = frequencies(positions, rotary)
    if not math.isclose(attention, 1 + 0.1 * math.log(factor), rel_tol=1e-4):
        raise _refuse("rope_parameters", f"attention_factor {attention}", "1 + 0.1 ln(factor)")
    if not given.get("truncate", True):
        raise _refuse("rope_parameters", "truncate false", "truncate true")
    original = given.get("original_max_position_embeddings") or given["max_position_embeddings"]
    writer.add_rope_scaling_orig_ctx_len(original)
    writer.add_rope_scaling_yarn_beta_fast(given.get("beta_fast") or 32)
    writer.add_rope_scaling_yarn_beta_slow(given.get("beta_slow") or 1)
