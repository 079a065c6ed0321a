"""Whether one-hot attention survives quantization: computed on the tensors of an export.

    python -m benchmarks.engines.constants

Weights: the query and key rows of edited heads after llama.cpp's schemes and, where bitsandbytes is
installed, its own. Key cache: the worst gap between a token's score for itself and for any other,
with keys stored in fewer bits; it must exceed 104 for softmax to be exactly one-hot.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors.torch import load_file

import surgery
from benchmarks.engines.gguf_file import apart
from surgery.layouts.one_hot import UNDERFLOW, inverse_frequencies, one_hot

HEADS, BLOCK = 5, 4  # of lab:pythia, and one that is edited
SHAPES = {  # rotary_pct 0.25, base 10,000: head size, positions
    "lab:pythia": (32, 256),
    "pythia-70m to 410m": (64, 2048),
    "pythia-1.4b, 6.9b, 12b": (128, 2048),
    "pythia-1b": (256, 2048),
    "pythia-2.8b": (80, 2048),
}

Scheme = Callable[[np.ndarray], np.ndarray]


def ggml(kind: gguf.GGMLQuantizationType) -> Scheme:
    return lambda values: gguf.quants.dequantize(gguf.quants.quantize(values, kind), kind)


KINDS = gguf.GGMLQuantizationType
SCHEMES: dict[str, Scheme] = {
    "f16": lambda values: values.astype(np.float16).astype(np.float32),
    "q8_0": ggml(KINDS.Q8_0),
    "q4_0": ggml(KINDS.Q4_0),
}
KEYS: dict[str, Scheme] = {
    **SCHEMES,
    "fp8 (e4m3)": lambda values: torch.from_numpy(values).to(torch.float8_e4m3fn).float().numpy(),
}


def bitsandbytes_schemes() -> dict[str, Scheme]:
    """LLM.int8's absolute maximum of a row, and the 4-bit kinds: of 64 numbers in a line, over the
    ends of rows, the largest and the nearest of the library's 16 codes."""
    from bitsandbytes.functional import get_4bit_type

    def int8(values: np.ndarray) -> np.ndarray:
        most = np.abs(values).max(1, keepdims=True)
        codes = np.rint(values * (127 / np.where(most > 0, most, 1)))
        return (codes * (most / 127)).astype(np.float32)

    def four_bit(kind: str) -> Scheme:
        codes = np.sort(get_4bit_type(kind, device="cpu").numpy())

        def scheme(values: np.ndarray) -> np.ndarray:
            blocks = values.reshape(-1, 64)
            most = np.abs(blocks).max(1, keepdims=True)
            parts = blocks / np.where(most > 0, most, 1)
            nearest = np.abs(parts[..., None] - codes).argmin(-1)
            return (codes[nearest] * most).reshape(values.shape)

        return scheme

    return {"int8": int8, "nf4": four_bit("nf4"), "fp4": four_bit("fp4")}


def weights(schemes: dict[str, Scheme]) -> None:
    """Of query and key rows of an edited block: the largest number after each scheme."""
    with tempfile.TemporaryDirectory() as work:
        surgery.export("lab:pythia", "4-5", output=Path(work) / "edited")
        tensors = load_file(Path(work) / "edited" / "model.safetensors")
    at = f"gpt_neox.layers.{BLOCK}.attention.query_key_value."
    stored = tensors[f"{at}weight"].float().numpy()
    orders = {"as stored": stored, "llama.cpp's order": apart(stored, HEADS)}
    constant = int(tensors[f"{at}bias"].max())
    print("| weights | query and key rows, largest | value rows, largest error |")
    print("|---|---|---|")
    for name, scheme in schemes.items():
        order = "llama.cpp's order" if name in SCHEMES else "as stored"
        before, after = orders[order], scheme(orders[order])
        zero = (before == 0).all(1)
        assert zero.sum() == len(before) * 2 // 3, "two thirds of the rows are queries and keys"
        error = np.abs(after - before)[~zero].max()
        print(f"| {name} | {np.abs(after[zero]).max():g} | {error:.4f} |")
    print(f"\nThe constant of the biases, which stay float in each: {constant}\n")


def gap(head_size: int, positions: int, scheme: Scheme) -> float:
    """Worst difference of scores, in nats, with keys stored in a scheme."""
    frequencies = inverse_frequencies({"rotary_pct": 0.25, "rotary_emb_base": 10000}, head_size)
    chosen = one_hot(frequencies, head_size, positions)
    angles = np.arange(positions)[:, None] * frequencies[: chosen.num_pairs]
    keys = np.zeros((positions, head_size), np.float32)
    keys[:, : chosen.num_pairs] = chosen.kappa * np.cos(angles)
    keys[:, len(frequencies) : len(frequencies) + chosen.num_pairs] = chosen.kappa * np.sin(angles)
    width = -(-head_size // 32) * 32  # whole blocks of the schemes
    padded = np.pad(keys, ((0, 0), (0, width - head_size)))
    stored = scheme(padded)[:, :head_size]
    scores = keys @ stored.T / np.sqrt(head_size)
    earlier = np.tril_indices(positions, -1)
    return float((np.diag(scores)[:, None] - scores)[earlier].min())


def key_cache() -> None:
    print(f"| worst gap of scores, above {UNDERFLOW:g} is exact | " + " | ".join(KEYS) + " |")
    print("|---" * (1 + len(KEYS)) + "|")
    for name, (head_size, positions) in SHAPES.items():
        gaps = [f"{gap(head_size, positions, scheme):.0f}" for scheme in KEYS.values()]
        print(f"| {name} | " + " | ".join(gaps) + " |")


if __name__ == "__main__":
    weights({**SCHEMES, **(bitsandbytes_schemes() if find_spec("bitsandbytes") else {})})
    key_cache()
