"""Whether one-hot attention survives a key cache of fewer bits.

    python -m benchmarks.engines.constants

Prints the worst gap between a token's score for itself and for any other; it must exceed 104 for
softmax to be exactly one-hot.
"""

from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import torch

from surgery.families.gpt import GPT_NEOX
from surgery.families.rotary import Positions
from surgery.layouts.one_hot import UNDERFLOW, frequencies, one_hot

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
KEYS: dict[str, Scheme] = {
    "f16": lambda values: values.astype(np.float16).astype(np.float32),
    "q8_0": ggml(KINDS.Q8_0),
    "q4_0": ggml(KINDS.Q4_0),
    "fp8 (e4m3)": lambda values: torch.from_numpy(values).to(torch.float8_e4m3fn).float().numpy(),
}


def gap(head_size: int, positions: int, scheme: Scheme) -> float:
    """Worst difference of scores, in nats, with keys stored in a scheme."""
    assert GPT_NEOX.rotary is not None
    theta, _ = frequencies(Positions("default", head_size // 4, 10_000, {}), GPT_NEOX.rotary)
    chosen = one_hot(theta, head_size, positions)
    angles = np.arange(positions)[:, None] * theta[: chosen.num_pairs]
    keys = np.zeros((positions, head_size), np.float32)
    keys[:, : chosen.num_pairs] = chosen.kappa * np.cos(angles)
    keys[:, len(theta) : len(theta) + chosen.num_pairs] = chosen.kappa * np.sin(angles)
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
    key_cache()
